"""Looks at a migration from a second connection: whom it waits for, and how far an index is."""

from __future__ import annotations

import asyncio
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any, Final

from sqlalchemy import Row, text
from sqlalchemy.ext.asyncio import AsyncEngine

from src.config import get_logger
from src.database.errors import DatabaseError

__all__ = ["Watch"]

FIRST_LOOK_SECONDS: Final = 2.0
"""A migration that is done by then costs no second connection."""
LOOK_SECONDS: Final = 5.0
SOONEST_SECONDS: Final = 0.1

_BLOCKERS: Final = text("""
SELECT pid, usename, application_name, extract(epoch FROM clock_timestamp() - xact_start) AS seconds
  FROM unnest(pg_blocking_pids(:pid)) AS blocking (pid) LEFT JOIN pg_catalog.pg_stat_activity USING (pid)
""")
_INDEX: Final = text("""
SELECT relid::regclass::text AS name, phase, blocks_done, blocks_total, tuples_done, tuples_total
  FROM pg_catalog.pg_stat_progress_create_index WHERE pid = :pid
""")


@dataclass(slots=True)
class Watch:
    """Tells what a migration's connection is at, for as long as it is watched.

    Args:
        engine: The migrations' own.
        pid: The server process of the connection that migrates.
        lock_seconds: How long it waits for a lock at most: it has to be seen while it does; 0 is without end.
    """

    engine: AsyncEngine
    pid: int
    lock_seconds: float
    blockers: str | None = field(default=None, init=False)
    """Whom it was last seen to wait for."""

    async def run(self) -> None:
        """Look until cancelled. That it cannot look is no reason for a migration to fail."""
        often = max(SOONEST_SECONDS, self.lock_seconds / 3) if self.lock_seconds else LOOK_SECONDS
        await asyncio.sleep(min(FIRST_LOOK_SECONDS, often))
        with suppress(DatabaseError):
            # Outside of transactions: a snapshot that is kept is one that CREATE INDEX CONCURRENTLY waits for.
            async with self.engine.connect() as plain:
                connection = await plain.execution_options(isolation_level="AUTOCOMMIT")
                while True:
                    await self._look(connection)
                    await asyncio.sleep(min(LOOK_SECONDS, often))

    async def _look(self, connection: Any) -> None:
        parameters = {"pid": self.pid}
        blockers = (await connection.execute(_BLOCKERS, parameters)).all()
        if blockers:
            self.blockers = "; ".join(map(_describe, blockers))
            get_logger(__name__).warning("migration_waits", held_by=self.blockers)
        for index in (await connection.execute(_INDEX, parameters)).all():
            done, total = index.tuples_done or index.blocks_done, index.tuples_total or index.blocks_total
            get_logger(__name__).info("index_is_built", table=index.name, phase=index.phase, done=done, of=total)


def _describe(blocker: Row[Any]) -> str:
    """Name a session; the text of its query is not repeated, since it can quote data."""
    who = f"pid {blocker.pid} ({blocker.usename or 'unknown'}, {blocker.application_name or 'unnamed'}"
    return f"{who})" if blocker.seconds is None else f"{who}, in its transaction for {blocker.seconds:.0f} s)"
