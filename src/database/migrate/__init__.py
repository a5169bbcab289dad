"""Run migrations under a lock and with retries; the revision status of a database; operations for migrations."""

from src.database.migrate.lock import Patience, migration_connection
from src.database.migrate.retry import CONNECTION, Step, print_steps, run_steps
from src.database.migrate.revision_status import (
    ORIGIN,
    OTHER_DATABASE,
    REVOKE_WRITES,
    Origin,
    Revision,
    RevisionState,
    compare_revisions,
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

__all__ = [
    "CONNECTION",
    "ORIGIN",
    "OTHER_DATABASE",
    "REVOKE_WRITES",
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
    "print_steps",
    "readable_revision",
    "revision",
    "revision_of",
    "run_steps",
    "script_directory",
    "sql",
    "stamp",
    "upgrade",
]
