"""Compare the live catalog with what the migrations build; report each difference with its remedy."""

from src.database.drift.catalog import Catalog, read_catalog
from src.database.drift.compare import compare
from src.database.drift.difference import Difference
from src.database.drift.isolation import Isolation, read_isolation
from src.database.drift.migrations_check import check_migrations
from src.database.drift.scratch import temporary_database
from src.database.drift.snapshot import SNAPSHOT_FILE, load_snapshot
from src.database.drift.verification import SchemaReport, read_live, verify, verify_at_startup

__all__ = [
    "SNAPSHOT_FILE",
    "Catalog",
    "Difference",
    "Isolation",
    "SchemaReport",
    "check_migrations",
    "compare",
    "load_snapshot",
    "read_catalog",
    "read_isolation",
    "read_live",
    "temporary_database",
    "verify",
    "verify_at_startup",
]
