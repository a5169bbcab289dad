"""Engines of a Target: create_engine_for, the pool, statement events, lost connections."""

from src.database.engine.capacity import KEPT_FREE, Capacity, capacity_of
from src.database.engine.create import (
    OLDEST_SERVER,
    SEES_EVERY_ROW,
    DatabaseEngine,
    EngineOptions,
    create_engine_for,
)
from src.database.engine.events import listen_to_statements
from src.database.engine.pool import SizedPool

__all__ = [
    "KEPT_FREE",
    "OLDEST_SERVER",
    "SEES_EVERY_ROW",
    "Capacity",
    "DatabaseEngine",
    "EngineOptions",
    "SizedPool",
    "capacity_of",
    "create_engine_for",
    "listen_to_statements",
]
