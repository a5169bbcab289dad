"""Engines of a Target: create_engine_for, the pool, statement events, lost connections."""

from src.database.engine.capacity import KEPT_FREE, Capacity, capacity_of
from src.database.engine.commits import (
    READS_ONLY,
    begin_on_live_connection,
    can_only_read,
    is_select,
    reconnect,
    state_of,
)
from src.database.engine.create import OLDEST_SERVER, SEES_EVERY_ROW, DatabaseEngine, EngineOptions, create_engine_for
from src.database.engine.events import has_foreign_listener, listen_to_statements, notify_answered, notify_sent
from src.database.engine.pool import JITTER, PING_AFTER_IDLE_SECONDS, PING_TIMEOUT_SECONDS, SizedPool
from src.database.engine.sqlalchemy_internals import (
    begin_with,
    cache_key_of,
    criteria_of_option,
    has_fast_path,
    raise_as_sqlalchemy,
    result_columns,
    statement_lock,
    text_parameters,
    track_changes,
)
from src.database.engine.waiters import Waiters

__all__ = [
    "JITTER",
    "KEPT_FREE",
    "OLDEST_SERVER",
    "PING_AFTER_IDLE_SECONDS",
    "PING_TIMEOUT_SECONDS",
    "READS_ONLY",
    "SEES_EVERY_ROW",
    "Capacity",
    "DatabaseEngine",
    "EngineOptions",
    "SizedPool",
    "Waiters",
    "begin_on_live_connection",
    "begin_with",
    "cache_key_of",
    "can_only_read",
    "capacity_of",
    "create_engine_for",
    "criteria_of_option",
    "has_fast_path",
    "has_foreign_listener",
    "is_select",
    "listen_to_statements",
    "notify_answered",
    "notify_sent",
    "raise_as_sqlalchemy",
    "reconnect",
    "result_columns",
    "state_of",
    "statement_lock",
    "text_parameters",
    "track_changes",
]
