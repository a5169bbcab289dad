"""The live catalog compared with what the migrations build: each difference, with the statements that repair it."""

from src.database.drift.catalog import Catalog, read_catalog
from src.database.drift.compare import compare
from src.database.drift.difference import Difference, Severity
from src.database.drift.isolation import Isolation, read_isolation
from src.database.drift.migrations_check import check_migrations
from src.database.drift.scratch import scratch_database, temporary_database
from src.database.drift.snapshot import SNAPSHOT_FILE, load_snapshot, render_snapshot
from src.database.drift.verification import SchemaReport, read_live, verify, verify_at_startup

__all__ = [
    "SNAPSHOT_FILE",
    "Catalog",
    "Difference",
    "Isolation",
    "SchemaReport",
    "Severity",
    "check_migrations",
    "compare",
    "load_snapshot",
    "read_catalog",
    "read_isolation",
    "read_live",
    "render_snapshot",
    "scratch_database",
    "temporary_database",
    "verify",
    "verify_at_startup",
]
