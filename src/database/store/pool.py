"""The pool of the store. Its connections have no tenant: each statement of the store sets its own."""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import Awaitable, Callable
from typing import Any, Final

import asyncpg

from src.database.engine import JITTER, PING_AFTER_IDLE_SECONDS, PING_TIMEOUT_SECONDS, Waiters
from src.database.errors import PoolExhausted
from src.database.store.time_limit import TimeLimit
from src.database.target import PoolLimits

CLOSE_SECONDS: Final = 2.0


class PooledConnection:
    """One connection of the pool, in use by at most one call."""

    __slots__ = ("connection", "generation", "idle_since", "retires_at", "trusted_until")

    def __init__(self, connection: asyncpg.Connection[Any], *, generation: int, lifetime: float) -> None:
        now = time.monotonic()
        self.connection = connection
        self.generation = generation
        self.idle_since = self.trusted_until = now
        self.retires_at = now + lifetime * (1 - random.uniform(0, JITTER))  # noqa: S311 - spreads load, guards nothing


class StorePool:
    """Connections of one event loop. Callers are served in the order of their arrival, by the last used connection.

    Args:
        open_connection: Opens a connection, or raises ConnectionFailed.
        limits: The limits of number and age; `size` and `overflow` together are the maximum number.
    """

    def __init__(self, open_connection: Callable[[], Awaitable[asyncpg.Connection[Any]]], limits: PoolLimits) -> None:
        self._open_connection = open_connection
        self._limits = limits
        self._trusted_seconds = min(PING_AFTER_IDLE_SECONDS, limits.idle or PING_AFTER_IDLE_SECONDS)
        self._most = limits.size + max(0, limits.overflow)
        self._count = 0
        self._closing = 0
        self._idle: list[PooledConnection] = []
        self._waiters: Waiters[PooledConnection | None] = Waiters()
        """A waiting caller gets a connection. If it gets None, it opens one in the place of a closed connection."""
        self._generation = 0
        self.time_limit = TimeLimit()
        """Limits each call; known once a connection is open."""

    @property
    def size(self) -> int:
        """The number of open connections, in use or idle."""
        return self._count

    @property
    def in_use(self) -> int:
        """The number of connections in use."""
        return self._count - len(self._idle) - self._closing

    @property
    def waiting(self) -> int:
        """The number of calls that wait for a connection."""
        return len(self._waiters)

    @property
    def most(self) -> int:
        """The maximum number of connections."""
        return self._most

    async def take(self) -> PooledConnection:
        """Return a connection for one call; the caller has to `release` or `discard` the connection in any case.

        Raises:
            ConnectionFailed: No connection could be opened.
            PoolExhausted: All connections were in use until the time limit.
        """
        while self._idle:
            pooled = self._idle.pop()  # last used: the caches of its server process are warm
            if time.monotonic() < pooled.trusted_until and not pooled.connection.is_closed():
                return pooled
            if await self._is_alive(pooled):
                return pooled
        if self._count < self._most:
            self._count += 1
            return await self._open()
        return await self._wait()

    def release(self, pooled: PooledConnection) -> None:
        """Release a connection to the next call."""
        if pooled.generation != self._generation or pooled.connection.is_closed():
            self.discard(pooled)
            return
        if self._waiters.hand_over(pooled):
            return
        pooled.idle_since = time.monotonic()
        pooled.trusted_until = min(pooled.idle_since + self._trusted_seconds, pooled.retires_at)
        self._idle.append(pooled)

    def discard(self, pooled: PooledConnection) -> None:
        """Drop a connection in an unknown state. It counts as open while the server still executes its statement."""
        pooled.connection.terminate()
        if (closing := pooled.connection.closing) is None:
            self._free_place()
            return
        self._closing += 1
        closing.add_done_callback(self._on_closed)

    async def close(self) -> None:
        """Close idle connections, and those in use when they are released; the next call opens a new connection."""
        self._generation += 1
        idle, self._idle = self._idle, []
        self._count -= len(idle)
        await asyncio.gather(*(_close(pooled.connection) for pooled in idle))

    def _is_usable(self, pooled: PooledConnection) -> bool:
        return not pooled.connection.is_closed() and time.monotonic() < pooled.retires_at

    async def _is_alive(self, pooled: PooledConnection) -> bool:
        """Check a connection that was idle for long; drop it if it is too old, closed or silent."""
        is_idle_too_long = self._limits.idle is not None and time.monotonic() - pooled.idle_since > self._limits.idle
        if is_idle_too_long or not self._is_usable(pooled):
            self.discard(pooled)
            return False
        try:
            await pooled.connection.fetchval("SELECT 1", timeout=PING_TIMEOUT_SECONDS)
        except BaseException as error:
            self.discard(pooled)
            if isinstance(error, asyncpg.PostgresError | asyncpg.InterfaceError | OSError):
                return False
            raise
        return True

    async def _open(self) -> PooledConnection:
        """Open a connection in a place that is already counted."""
        generation = self._generation
        try:
            connection = await self._open_connection()
        except BaseException:
            self._free_place()
            raise
        self.time_limit.seconds = connection.take_command_timeout()
        return PooledConnection(connection, generation=generation, lifetime=self._limits.lifetime)

    async def _wait(self) -> PooledConnection:
        try:
            pooled = await self._waiters.wait(self._limits.timeout, put_back=self._pass_on)
        except TimeoutError:
            raise PoolExhausted(
                f"the store's pool of {self._most} connections had no free connection for {self._limits.timeout:g} s",
                hint="raise DATABASE_POOL_SIZE (pool_max if the URL has it); `thea-db pool` suggests a size",
            ) from None
        return pooled or await self._open()

    def _pass_on(self, pooled: PooledConnection | None) -> None:
        if pooled is None:
            self._free_place()
        else:
            self.release(pooled)

    def _on_closed(self, _closing: asyncio.Task[None]) -> None:
        self._closing -= 1
        self._free_place()

    def _free_place(self) -> None:
        """Free the place of a closed connection: the caller that has waited longest opens another one in it."""
        if not self._waiters.hand_over(None):
            self._count -= 1


async def _close(connection: asyncpg.Connection[Any]) -> None:
    try:
        await connection.close(timeout=CLOSE_SECONDS)
    except (asyncpg.PostgresError, asyncpg.InterfaceError, OSError):
        connection.terminate()
