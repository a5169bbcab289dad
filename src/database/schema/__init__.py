"""The schema in the database: migrations and what they need."""

from src.database.schema.migrate import alembic_config, migration_connection, upgrade

__all__ = ["alembic_config", "migration_connection", "upgrade"]
