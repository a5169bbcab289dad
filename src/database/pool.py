"""The sized pool: old, idle and dead connections are replaced when next asked for; exhaustion names a holder."""

from __future__ import annotations

import asyncio
import random
import sys
import time
import weakref
from dataclasses import dataclass
from pathlib import Path
from types import CodeType, FrameType
from typing import Any, Final

import asyncpg
from sqlalchemy import Engine, event
from sqlalchemy.exc import DisconnectionError
from sqlalchemy.exc import TimeoutError as PoolTimeout
from sqlalchemy.pool import AsyncAdaptedQueuePool, ConnectionPoolEntry

from src.database.errors import PoolExhausted

__all__ = ["PoolLimits", "SizedPool", "drop", "keep_fresh"]

PING_AFTER_IDLE_SECONDS: Final = 30.0
"""A connection that lay idle for longer is asked whether it lives: a firewall that dropped it has told nobody."""
PING_TIMEOUT_SECONDS: Final = 3.0
JITTER: Final = 0.1
"""The share of its lifetime by which a connection can go early, so that not all of them go at once."""

_RETIRES_AT: Final = "thea_retires_at"
_IDLE_SINCE: Final = "thea_idle_since"
_LIBRARIES: Final = str(Path(asyncio.__file__).parents[1]), str(Path(sys.prefix)), str(Path(__file__).parent)


@dataclass(frozen=True, slots=True)
class PoolLimits:
    """How many connections, and how long one is used; seconds throughout."""

    size: int
    overflow: int
    timeout: float
    lifetime: float
    idle: float | None = None
    """Replace one that lay idle for longer; None: as long as it lives."""
    minimum: int = 0
    """How many are opened with the first."""


class SizedPool(AsyncAdaptedQueuePool):
    """SQLAlchemy's, which says on exhaustion what it is and who has held a connection for the longest."""

    def __init__(self, *arguments: Any, **options: Any) -> None:
        super().__init__(*arguments, **options)
        self._holders: dict[int, tuple[float, weakref.ref[asyncio.Task[Any]] | None]] = {}

    def note_checkout(self, entry: ConnectionPoolEntry) -> None:
        """Remember who took a connection, and when."""
        try:
            task = asyncio.current_task()
        except RuntimeError:
            task = None
        self._holders[id(entry)] = (time.monotonic(), weakref.ref(task) if task else None)

    def note_checkin(self, entry: ConnectionPoolEntry) -> None:
        """Forget who had it."""
        self._holders.pop(id(entry), None)

    def _close_connection(self, connection: Any, *, terminate: bool = False) -> None:
        """Close one. Nothing is awaited for one that is closed: see `drop`."""
        if not connection.driver_connection.is_closed():
            super()._close_connection(connection, terminate=terminate)

    def _do_get(self) -> ConnectionPoolEntry:
        try:
            return super()._do_get()
        except PoolTimeout:
            raise PoolExhausted(
                f"the pool {self.logging_name!r} of {self.size()} connections and {self._max_overflow} more"
                f" had none free for {self.timeout():g} s; {self._longest_holder()}",
                hint="end sessions sooner (none open while a model or another service is waited for), or raise"
                " DATABASE_POOL_SIZE (pool_max where the URL has one); `thea-db pool` says how far",
            ) from None

    def _longest_holder(self) -> str:
        if not self._holders:
            return "nobody of this process holds one"
        since, reference = min(self._holders.values(), key=lambda holder: holder[0])
        task = reference() if reference else None
        held = f"the longest is held for {time.monotonic() - since:.1f} s"
        return f"{held} by task {task.get_name()!r}{_where(task)}" if task else f"{held} by a task that is gone"


def keep_fresh(engine: Engine, limits: PoolLimits) -> None:
    """Have an engine replace connections that are closed, old, or idle for too long, when they are next asked for."""

    def stamp_birth(_connection: Any, entry: ConnectionPoolEntry) -> None:
        early = random.uniform(0, JITTER)  # noqa: S311 - spreads load, guards nothing
        entry.info[_RETIRES_AT] = time.monotonic() + limits.lifetime * (1 - early)

    def stamp_checkin(connection: Any, entry: ConnectionPoolEntry) -> None:
        entry.info[_IDLE_SINCE] = time.monotonic()
        forget_holder(connection, entry)
        if connection is not None and connection.driver_connection.is_in_transaction():
            # Somebody's own BEGIN, of which SQLAlchemy does not know: the next one would go on in it.
            entry.invalidate()

    def forget_holder(_connection: Any, entry: ConnectionPoolEntry) -> None:
        if isinstance(engine.pool, SizedPool):
            engine.pool.note_checkin(entry)

    def check(connection: Any, entry: ConnectionPoolEntry, _proxy: Any) -> None:
        try:
            _refuse_a_stale_one(connection, entry, limits)
        except DisconnectionError:
            drop(connection)
            raise
        if isinstance(engine.pool, SizedPool):
            engine.pool.note_checkout(entry)

    event.listen(engine, "connect", stamp_birth)
    event.listen(engine, "checkin", stamp_checkin)
    event.listen(engine, "checkout", check)
    event.listen(engine, "detach", forget_holder)


def drop(connection: Any) -> None:
    """Cut a connection off at once, before the pool is told to open another in its place.

    The pool would close it politely first, outside of any `try`: a caller who is cancelled just then would keep the
    connection's place taken until the garbage collector came by.
    """
    connection.driver_connection.terminate()


def _refuse_a_stale_one(connection: Any, entry: ConnectionPoolEntry, limits: PoolLimits) -> None:
    """Raise what makes the pool open another in its place; only one that lay idle for long costs a round trip."""
    if connection.driver_connection.is_closed():
        raise DisconnectionError("the connection closed while it was idle")
    idle_since = entry.info.get(_IDLE_SINCE)
    if idle_since is None:
        return
    now = time.monotonic()
    if now >= entry.info.get(_RETIRES_AT, now + 1):
        raise DisconnectionError("the connection has come of age")
    idle = now - idle_since
    if limits.idle is not None and idle > limits.idle:
        raise DisconnectionError("the connection lay idle for too long")
    if idle > PING_AFTER_IDLE_SECONDS:
        connection.run_async(_ping)


async def _ping(connection: asyncpg.Connection[Any]) -> None:
    try:
        await connection.fetchval("SELECT 1", timeout=PING_TIMEOUT_SECONDS)
    except (asyncpg.PostgresError, asyncpg.InterfaceError, OSError) as error:
        raise DisconnectionError("the connection died while it was idle") from error


def _where(task: asyncio.Task[Any]) -> str:
    """Say in which line of the service's own code a task waits, as far as it can be seen."""
    awaited: Any = task.get_coro()
    found = ""
    while awaited is not None:
        frame: FrameType | None = getattr(awaited, "cr_frame", None) or getattr(awaited, "ag_frame", None)
        if frame is not None and not _is_a_library(frame.f_code):
            found = f", at {Path(frame.f_code.co_filename).name}:{frame.f_lineno} in {frame.f_code.co_name}"
        awaited = getattr(awaited, "cr_await", None) or getattr(awaited, "ag_await", None)
    return found


def _is_a_library(code: CodeType) -> bool:
    return code.co_filename.startswith(_LIBRARIES) or code.co_filename.startswith("<")
