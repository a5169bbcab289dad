"""The engine: create_engine, its pool, its events, and what all its connections have in common."""

from src.database.engine.capacity import KEPT_FREE, Capacity, capacity_of
from src.database.engine.create import OLDEST_SERVER, SEES_EVERY_ROW, DatabaseEngine, create_engine
from src.database.engine.events import hear
from src.database.engine.pool import SizedPool

__all__ = [
    "KEPT_FREE",
    "OLDEST_SERVER",
    "SEES_EVERY_ROW",
    "Capacity",
    "DatabaseEngine",
    "SizedPool",
    "capacity_of",
    "create_engine",
    "hear",
]
