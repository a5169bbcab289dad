"""The commands about the schema and the service that it lives in."""
