"""The sized pool: callers are served in their order; a stale connection is replaced at its next checkout."""

from __future__ import annotations

import asyncio
import random
import sys
import time
import weakref
from collections import deque
from collections.abc import Callable
from pathlib import Path
from types import CodeType, FrameType
from typing import Any, Final, cast

import asyncpg
from sqlalchemy import Engine, PoolProxiedConnection, event
from sqlalchemy.exc import DisconnectionError
from sqlalchemy.exc import TimeoutError as PoolTimeout
from sqlalchemy.pool import AsyncAdaptedQueuePool, ConnectionPoolEntry
from sqlalchemy.util.concurrency import await_
from sqlalchemy.util.queue import AsyncAdaptedQueue, Empty, Full

from src.database.connect import ConnectionState
from src.database.engine.waiters import Waiters
from src.database.errors import PoolExhausted
from src.database.target import PoolLimits

PING_AFTER_IDLE_SECONDS: Final = 30.0
"""A connection that was idle for longer is pinged: a firewall may have dropped it without a notice."""
PING_TIMEOUT_SECONDS: Final = 3.0
JITTER: Final = 0.1
"""The largest share of its lifetime by which a connection retires early, so that not all retire at the same time."""

_LIBRARIES: Final = str(Path(asyncio.__file__).parents[1]), str(Path(sys.prefix)), str(Path(__file__).parents[1])


class FairQueue(AsyncAdaptedQueue[ConnectionPoolEntry]):
    """A queue that hands a returned connection to the caller that has waited longest."""

    def __init__(self, maxsize: int = 0, use_lifo: bool = False) -> None:
        super().__init__(maxsize, use_lifo)
        self._idle: deque[ConnectionPoolEntry] = deque()
        self._waiters: Waiters[ConnectionPoolEntry] = Waiters()

    def empty(self) -> bool:
        """Return True if no connection is idle."""
        return not self._idle

    def full(self) -> bool:
        """Return True if the queue keeps no further idle connection."""
        return 0 < self.maxsize <= len(self._idle)

    def qsize(self) -> int:
        """Return the number of idle connections."""
        return len(self._idle)

    def put_nowait(self, item: ConnectionPoolEntry) -> None:
        """Hand a connection to the caller that has waited longest, or keep it; raise Full if there is no room."""
        if not self._waiters.hand_over(item):
            if self.full():
                raise Full
            self._idle.append(item)

    def put(self, item: ConnectionPoolEntry, block: bool = True, timeout: float | None = None) -> None:
        """Do as `put_nowait`, and never wait for room."""
        self.put_nowait(item)

    def get_nowait(self) -> ConnectionPoolEntry:
        """Return an idle connection; raise Empty if there is none."""
        if not self._idle:
            raise Empty
        return self._idle.pop() if self.use_lifo else self._idle.popleft()

    def get(self, block: bool = True, timeout: float | None = None) -> ConnectionPoolEntry:
        """Return an idle connection, or wait for one; raise Empty after the timeout."""
        if self._idle or not block:
            return self.get_nowait()
        try:
            return await_(self._waiters.wait(timeout, put_back=self._put_back))
        except TimeoutError:
            raise Empty from None

    def _put_back(self, item: ConnectionPoolEntry) -> None:
        """Put a connection that its caller could not take; unlike `put_nowait`, keep it also if the queue is full."""
        if not self._waiters.hand_over(item):
            self._idle.append(item)


class SizedPool(AsyncAdaptedQueuePool):
    """SQLAlchemy's queue pool; its error on exhaustion names the task that has had a connection longest."""

    def __init__(self, *arguments: Any, **options: Any) -> None:
        super().__init__(*arguments, **options)
        self._most_above_size = options.get("max_overflow", 10)  # SQLAlchemy's default
        self._holders: dict[int, tuple[float, weakref.ref[asyncio.Task[Any]] | None]] = {}
        self.around_connect: Callable[[Callable[[], PoolProxiedConnection]], PoolProxiedConnection] | None = None
        """Wraps `connect` to measure how long a caller waits; None if nothing measures."""

    def connect(self) -> PoolProxiedConnection:
        """Check a connection out.

        Raises:
            PoolExhausted: No connection was free within the pool's timeout.
        """
        return self._take() if self.around_connect is None else self.around_connect(self._take)

    def recreate(self) -> SizedPool:
        """Return a new pool with the same options; `dispose` replaces the pool by it."""
        pool = cast("SizedPool", super().recreate())
        pool.around_connect = self.around_connect
        return pool

    def record_checkout(self, entry: ConnectionPoolEntry) -> None:
        """Record the time and the task of a checkout, for the error on exhaustion."""
        try:
            task = asyncio.current_task()
        except RuntimeError:
            task = None
        self._holders[id(entry)] = (time.monotonic(), weakref.ref(task) if task else None)

    def record_checkin(self, entry: ConnectionPoolEntry) -> None:
        """Discard the record of the checkout."""
        self._holders.pop(id(entry), None)

    def _take(self) -> PoolProxiedConnection:
        try:
            return super().connect()
        except PoolTimeout:
            raise PoolExhausted(
                f"the pool {self.logging_name!r} (size {self.size()}, overflow {self._most_above_size}) had no free"
                f" connection for {self.timeout():g} s; {self._longest_holder()}",
                hint="end sessions sooner (close the session while you wait for a language model or another service),"
                " or raise DATABASE_POOL_SIZE (pool_max if the URL has it); `thea-db pool` suggests a size",
            ) from None

    def _longest_holder(self) -> str:
        if not self._holders:
            return "no connection is in use: the connections are still being opened"
        since, reference = min(self._holders.values(), key=lambda holder: holder[0])
        task = reference() if reference else None
        held = f"the longest-used connection has been in use for {time.monotonic() - since:.1f} s"
        by = f"by task {task.get_name()!r}{_waiting_line(task)}" if task else "by a task that no longer exists"
        return f"{held} {by}{self._own_share()}"

    def _own_share(self) -> str:
        """Return the end of the message if the waiting task has connections itself: it would wait for itself."""
        current = asyncio.current_task()
        own = sum(reference is not None and reference() is current for _, reference in self._holders.values())
        return (
            f"; the waiting task itself has {own} of the connections: it opened a session inside another session"
            if own
            else ""
        )


def replace_stale_connections(engine: Engine, limits: PoolLimits, *, pings_each: bool = False) -> None:
    """Replace an engine's connections that are closed, old, or were idle for too long, at their next checkout.

    Args:
        engine: The engine.
        limits: How long a connection is kept.
        pings_each: Ping the server at each checkout. Otherwise only a connection that was idle for 30 s is pinged, and
            the fast path replaces a dead one at BEGIN (`begin_on_live_connection`).
    """

    def open_state(connection: Any, _entry: ConnectionPoolEntry) -> None:
        early = random.uniform(0, JITTER)  # noqa: S311 - spreads load, guards nothing
        connection.driver_connection.state.opened(lifetime=limits.lifetime * (1 - early))

    def check_in(connection: Any, entry: ConnectionPoolEntry) -> None:
        record_checkin(connection, entry)
        if connection is None:
            return
        connection.driver_connection.state.checked_in()
        if connection.driver_connection.is_in_transaction():
            # A caller has sent BEGIN as text. SQLAlchemy does not know of it, and sends no ROLLBACK: the next session
            # would continue in that transaction.
            entry.invalidate()

    def record_checkin(_connection: Any, entry: ConnectionPoolEntry) -> None:
        if isinstance(engine.pool, SizedPool):
            engine.pool.record_checkin(entry)

    def check(connection: Any, entry: ConnectionPoolEntry, _proxy: Any) -> None:
        try:
            _check_freshness(connection, limits, pings_each=pings_each)
        except DisconnectionError:
            terminate(connection)
            raise
        if isinstance(engine.pool, SizedPool):
            engine.pool.record_checkout(entry)

    event.listen(engine, "connect", open_state)
    event.listen(engine, "checkin", check_in)
    event.listen(engine, "checkout", check)
    event.listen(engine, "detach", record_checkin)


def terminate(connection: Any) -> None:
    """Close a connection without notice to the server, before the pool opens another one in its place.

    SQLAlchemy's pool would await a graceful close first, outside of any `try`. A cancellation that arrives then leaves
    the pool entry checked out until it is garbage-collected, and the pool has one connection less until then.
    """
    connection.driver_connection.terminate()


def _check_freshness(connection: Any, limits: PoolLimits, *, pings_each: bool) -> None:
    """Raise DisconnectionError if the connection is stale: the pool then opens another one in its place."""
    state: ConnectionState = connection.driver_connection.state
    if connection.driver_connection.is_closed():
        raise DisconnectionError("the connection closed while it was idle")
    if state.idle_since is None:
        return
    now = time.monotonic()
    if now >= state.retires_at:
        raise DisconnectionError("the connection has reached its lifetime")
    idle = now - state.idle_since
    if limits.idle is not None and idle > limits.idle:
        raise DisconnectionError("the connection was idle for too long")
    if pings_each or idle > PING_AFTER_IDLE_SECONDS:
        connection.run_async(_ping)


async def _ping(connection: asyncpg.Connection[Any]) -> None:
    try:
        await connection.fetchval("SELECT 1", timeout=PING_TIMEOUT_SECONDS)
    except (asyncpg.PostgresError, asyncpg.InterfaceError, OSError) as error:
        raise DisconnectionError("the connection died while it was idle") from error


def _waiting_line(task: asyncio.Task[Any]) -> str:
    """Return the line of the service's code in which a task waits; an empty text if no frame of the service waits."""
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
