"""The connections of the store: none remembers a tenant, since every statement of the store names its own."""

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


class Slot:
    """One connection of the pool, in use by at most one call."""

    __slots__ = ("connection", "generation", "idle_since", "retires_at", "sound_until")

    def __init__(self, connection: asyncpg.Connection[Any], *, generation: int, lifetime: float) -> None:
        now = time.monotonic()
        self.connection = connection
        self.generation = generation
        self.idle_since = self.sound_until = now
        self.retires_at = now + lifetime * (1 - random.uniform(0, JITTER))  # noqa: S311 - spreads load, guards nothing


class StorePool:
    """Connections of one event loop. Callers are served in their order, with the connection that was used last.

    Args:
        open_connection: Opens one, or raises ConnectionFailed.
        limits: How many, and for how long; `size` and `overflow` together are the most there are.
    """

    def __init__(self, open_connection: Callable[[], Awaitable[asyncpg.Connection[Any]]], limits: PoolLimits) -> None:
        self._open_connection = open_connection
        self._limits = limits
        self._sound_seconds = min(PING_AFTER_IDLE_SECONDS, limits.idle or PING_AFTER_IDLE_SECONDS)
        self._most = limits.size + max(0, limits.overflow)
        self._count = 0
        self._parting = 0
        self._idle: list[Slot] = []
        self._waiters: Waiters[Slot | None] = Waiters()
        """A caller gets a connection, or None: it opens one in the place that another connection has left."""
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
        return self._count - len(self._idle) - self._parting

    @property
    def waiting(self) -> int:
        """The number of calls that wait for a connection."""
        return len(self._waiters)

    @property
    def most(self) -> int:
        """The maximum number of connections."""
        return self._most

    async def take(self) -> Slot:
        """Return a connection for one call, as a rule at once; `give_back` or `discard` it, whatever happens.

        Raises:
            ConnectionFailed: None could be opened.
            PoolExhausted: All were in use for too long.
        """
        while self._idle:
            slot = self._idle.pop()  # used last: its caches on the server are warm
            if time.monotonic() < slot.sound_until and not slot.connection.is_closed():
                return slot
            if await self._still_lives(slot):
                return slot
        if self._count < self._most:
            self._count += 1
            return await self._open()
        return await self._wait()

    def give_back(self, slot: Slot) -> None:
        """Release a connection to the next call."""
        if slot.generation != self._generation or slot.connection.is_closed():
            self.discard(slot)
            return
        if self._waiters.hand_over(slot):
            return
        slot.idle_since = time.monotonic()
        slot.sound_until = min(slot.idle_since + self._sound_seconds, slot.retires_at)
        self._idle.append(slot)

    def discard(self, slot: Slot) -> None:
        """Drop a connection in an unknown state. It counts as open while the server still executes its statement."""
        slot.connection.terminate()
        if (parting := slot.connection.closing) is None:
            self._leave()
            return
        self._parting += 1
        parting.add_done_callback(self._part)

    async def close(self) -> None:
        """Close idle connections, and those in use when they are released; the next call opens a new connection."""
        self._generation += 1
        idle, self._idle = self._idle, []
        self._count -= len(idle)
        await asyncio.gather(*(_close(slot.connection) for slot in idle))

    def _is_fresh(self, slot: Slot) -> bool:
        return not slot.connection.is_closed() and time.monotonic() < slot.retires_at

    async def _still_lives(self, slot: Slot) -> bool:
        """Check a connection that was idle for long; drop it if it is too old, closed or silent."""
        too_idle = self._limits.idle is not None and time.monotonic() - slot.idle_since > self._limits.idle
        if too_idle or not self._is_fresh(slot):
            self.discard(slot)
            return False
        try:
            await slot.connection.fetchval("SELECT 1", timeout=PING_TIMEOUT_SECONDS)
        except BaseException as error:
            self.discard(slot)
            if isinstance(error, asyncpg.PostgresError | asyncpg.InterfaceError | OSError):
                return False
            raise
        return True

    async def _open(self) -> Slot:
        """Open one in a place that is kept for it."""
        generation = self._generation
        try:
            connection = await self._open_connection()
        except BaseException:
            self._leave()
            raise
        self.time_limit.seconds = connection.take_command_timeout()
        return Slot(connection, generation=generation, lifetime=self._limits.lifetime)

    async def _wait(self) -> Slot:
        try:
            slot = await self._waiters.wait(self._limits.timeout, put_back=self._pass_on)
        except TimeoutError:
            raise PoolExhausted(
                f"the store's pool of {self._most} connections had no free connection for {self._limits.timeout:g} s",
                hint="raise DATABASE_POOL_SIZE (pool_max if the URL has it); `thea-db pool` suggests a size",
            ) from None
        return slot or await self._open()

    def _pass_on(self, slot: Slot | None) -> None:
        if slot is None:
            self._leave()
        else:
            self.give_back(slot)

    def _part(self, _parting: asyncio.Task[None]) -> None:
        self._parting -= 1
        self._leave()

    def _leave(self) -> None:
        """Free a place: the caller that has waited longest opens a connection in it."""
        if not self._waiters.hand_over(None):
            self._count -= 1


async def _close(connection: asyncpg.Connection[Any]) -> None:
    try:
        await connection.close(timeout=CLOSE_SECONDS)
    except (asyncpg.PostgresError, asyncpg.InterfaceError, OSError):
        connection.terminate()
