"""The schema in the database: migrations and what they need."""

from src.database.schema.lock import Patience, migration_connection
from src.database.schema.migrate import (
    HistoryEntry,
    Migrated,
    current,
    downgrade,
    history,
    revision,
    sql,
    stamp,
    upgrade,
)
from src.database.schema.scripts import alembic_config, explain, heads, is_checkout, script_directory
from src.database.schema.standing import OTHER_DATABASE, Revision, revision_of
from src.database.schema.steps import Step

__all__ = [
    "OTHER_DATABASE",
    "HistoryEntry",
    "Migrated",
    "Patience",
    "Revision",
    "Step",
    "alembic_config",
    "current",
    "downgrade",
    "explain",
    "heads",
    "history",
    "is_checkout",
    "migration_connection",
    "revision",
    "revision_of",
    "script_directory",
    "sql",
    "stamp",
    "upgrade",
]
