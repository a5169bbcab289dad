"""The schema in production, as commands."""
