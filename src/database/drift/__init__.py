"""The live catalogue, read into plain facts, compared with the expected one, and each difference's remedy."""

from src.database.drift.catalog import Catalogue, read_catalogue
from src.database.drift.compare import compare
from src.database.drift.difference import Difference, Severity
from src.database.drift.snapshot import SNAPSHOT_FILE, load_snapshot, render_snapshot

__all__ = [
    "SNAPSHOT_FILE",
    "Catalogue",
    "Difference",
    "Severity",
    "compare",
    "load_snapshot",
    "read_catalogue",
    "render_snapshot",
]
