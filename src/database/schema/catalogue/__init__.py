"""The live catalogue, read into plain facts, compared with the expected one, and each difference's remedy."""

from src.database.schema.catalogue.compare import compare
from src.database.schema.catalogue.difference import Difference, Severity
from src.database.schema.catalogue.read import Catalogue, read_catalogue
from src.database.schema.catalogue.snapshot import SNAPSHOT_FILE, load_snapshot, render_snapshot

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
