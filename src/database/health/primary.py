"""A connection of the checks' own to the primary: what is seen at a first look, and asked for later."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from typing import Any, Final

import asyncpg

from src.database.connect import DRIVER_ERRORS
from src.database.engine.capacity import Capacity, capacity_of
from src.database.session import WRITTEN, open_connection

__all__ = ["NO_PRIMARY", "Look", "close", "has_seen", "looking"]

NO_PRIMARY: Final = "see connect"
CLOSE_SECONDS: Final = 0.5
_STANDING: Final = "SELECT pg_is_in_recovery(), current_setting('transaction_read_only')::bool"


@dataclass(frozen=True, slots=True, kw_only=True)
class Look:
    """What was seen.

    Args:
        connection: For one check more; closed when all are done.
        takes_writes: It is a primary, and lets this role write.
        capacity: How many connections it has.
        written: How far it has written by now, where a replica is compared with it.
        turn: Held by the check that uses the connection: it takes one statement at a time.
    """

    connection: asyncpg.Connection[Any]
    takes_writes: bool
    capacity: Capacity
    written: str | None
    turn: asyncio.Lock = field(default_factory=asyncio.Lock)


@asynccontextmanager
async def looking(*, for_replica: bool, seconds: float) -> AsyncIterator[asyncio.Task[Look]]:
    """Have somebody look while the checks wait for what he sees, each for as long as it may.

    No pool knows the connection: one that is full says nothing of the server, and a check takes nobody's place.
    """
    task = asyncio.create_task(_look_in_time(for_replica=for_replica, seconds=seconds))
    try:
        yield task
    finally:
        task.cancel()
        await asyncio.wait([task])
        if has_seen(task):
            await close(task.result().connection)


def has_seen(look: asyncio.Task[Look]) -> bool:
    """Say whether there is something to go on."""
    return look.done() and not look.cancelled() and look.exception() is None


async def _look_in_time(*, for_replica: bool, seconds: float) -> Look:
    async with asyncio.timeout(seconds):  # a check may have longer
        return await _look(for_replica=for_replica)


async def _look(*, for_replica: bool) -> Look:
    connection = await open_connection()
    try:
        in_recovery, is_read_only = await connection.fetchrow(_STANDING)
        capacity = await capacity_of(connection)
        written = await connection.fetchval(WRITTEN.text) if for_replica and not in_recovery else None
    except BaseException:
        connection.terminate()
        raise
    return Look(
        connection=connection, takes_writes=not (in_recovery or is_read_only), capacity=capacity, written=written
    )


async def close(connection: asyncpg.Connection[Any]) -> None:
    """Close it, politely where the server listens."""
    with suppress(*DRIVER_ERRORS):
        await connection.close(timeout=CLOSE_SECONDS)
