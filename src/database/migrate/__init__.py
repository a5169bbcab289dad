"""The schema in the database: migrations and what they need."""

from src.database.migrate.lock import Patience, migration_connection
from src.database.migrate.retry import Step
from src.database.migrate.revision_status import OTHER_DATABASE, Revision, revision_of
from src.database.migrate.run import (
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
from src.database.migrate.scripts import alembic_config, explain, heads, is_checkout, script_directory

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
