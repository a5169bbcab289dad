"""The schema in production, and the service that it lives in, as commands."""
