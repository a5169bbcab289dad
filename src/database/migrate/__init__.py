"""Run migrations under a lock and with retries; the revision status of a database; operations for migrations."""

from src.database.migrate.lock import Patience, migration_connection
from src.database.migrate.retry import CONNECTION, Step, print_steps, run_steps
from src.database.migrate.revision_status import (
    ORIGIN,
    OTHER_DATABASE,
    Origin,
    Revision,
    RevisionState,
    compare_revisions,
    move_version_table,
    read_revisions,
    readable_revision,
    revision_of,
)
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
from src.database.migrate.scripts import explain, heads, script_directory
from src.database.migrate.version_table import REVOKE_WRITES, VERSION_TABLE, VERSION_TABLES

__all__ = [
    "CONNECTION",
    "ORIGIN",
    "OTHER_DATABASE",
    "REVOKE_WRITES",
    "VERSION_TABLE",
    "VERSION_TABLES",
    "HistoryEntry",
    "Migrated",
    "Origin",
    "Patience",
    "Revision",
    "RevisionState",
    "Step",
    "compare_revisions",
    "current",
    "downgrade",
    "explain",
    "heads",
    "history",
    "migration_connection",
    "move_version_table",
    "print_steps",
    "read_revisions",
    "readable_revision",
    "revision",
    "revision_of",
    "run_steps",
    "script_directory",
    "sql",
    "stamp",
    "upgrade",
]
