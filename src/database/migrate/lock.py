"""The connection that migrates: as the owner of the tables, alone, patient with others and not for long."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Final

from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncConnection
from sqlalchemy.pool import NullPool

from src.config import Settings, get_logger
from src.config.constants import MIGRATION_ATTEMPTS, MIGRATION_WAIT_SECONDS
from src.config.environment import named_target
from src.database.engine import create_engine
from src.database.errors import DatabaseError, LockNotAvailable
from src.database.migrate.watch import Watch

__all__ = ["Patience", "migration_connection", "watch_of"]

LOCK_KEY: Final = 0x7468_6561  # "thea"
POLL_SECONDS: Final = 0.2
TELL_SECONDS: Final = 10.0
DEFAULT_LOCK_SECONDS: Final = 5.0

_HOLDER: Final = text("""
SELECT pid, application_name FROM pg_catalog.pg_locks LEFT JOIN pg_catalog.pg_stat_activity USING (pid)
 WHERE locktype = 'advisory' AND granted AND classid = 0 AND objid = :key
   AND pg_locks.database = (SELECT oid FROM pg_catalog.pg_database WHERE datname = current_database())
""")
_WATCH: Final = "thea_migration_watch"
_AS_ITS_REVISION_SAYS: Final = (
    "the database is not what its revision says: `thea-db verify` tells how; do not stamp it forward"
)
_IS_THERE: Final = (
    "the database has what this migration makes: `thea-db verify` names what differs, and the revision to stamp if"
    " nothing does"
)
_HINTS: Final = {
    "25006": "name the primary in DATABASE_MIGRATION_URL: a replica takes no writes",
    "42501": "migrations run as the owner of the tables: name it in DATABASE_MIGRATION_URL; `thea-db bootstrap` makes"
    " the roles and says which right is missing",
    "42701": _IS_THERE,
    "42703": _AS_ITS_REVISION_SAYS,
    "42710": _IS_THERE,
    "42723": _IS_THERE,
    "42883": _AS_ITS_REVISION_SAYS,
    "42P01": _AS_ITS_REVISION_SAYS,
    "42P07": _IS_THERE,
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Patience:
    """How long a migration waits for others, and how often it asks again.

    Args:
        turn: Seconds until another migrator is done.
        lock: Seconds for each lock of a table, and with it the longest that a request waits behind a migration. By
            default `lock_timeout` of the migrations' URL, or 5.
        attempts: How often a migration is begun that could not have a lock.
        pause: Seconds before the second attempt, give or take half; twice as long before each further one, up to 30.
    """

    turn: float = MIGRATION_WAIT_SECONDS
    lock: float | None = None
    attempts: int = MIGRATION_ATTEMPTS
    pause: float = 1.0

    def __post_init__(self) -> None:
        if self.attempts < 1:
            raise ValueError(f"attempts must be 1 or more, got {self.attempts}")
        for name in ("turn", "lock", "pause"):
            if (seconds := getattr(self, name)) is not None and seconds < 0:
                raise ValueError(f"{name} must be 0 seconds or more, got {seconds}")


@asynccontextmanager
async def migration_connection(
    settings: Settings, *, patience: Patience | None = None, alone: bool = True
) -> AsyncIterator[AsyncConnection]:
    """Connect as the owner of the tables, alone: two migrators at once would trip over each other.

    The lock is the connection's own, and not another's: so it is held for as long as the server works for a migrator
    that was killed, and lost as soon as it does not.

    Args:
        settings: Where to.
        patience: How long to wait.
        alone: False for what only reads, and need not wait for a migration to end.

    Raises:
        ConfigurationError: The target cannot be right; behind a transaction pooler DATABASE_MIGRATION_URL is missing.
        ConnectionFailed: The database cannot be reached.
        LockNotAvailable: Somebody else has been migrating for too long.
    """
    patience = patience or Patience()
    engine = create_engine(settings, poolclass=NullPool, purpose="migrations")
    try:
        async with engine.connect() as connection:
            if alone:
                await _take_turn(connection, patience.turn)
            lock_seconds = _lock_seconds(settings, patience)
            await connection.execute(text(f"SET lock_timeout = {round(lock_seconds * 1000)}"))
            pid = await connection.scalar(text("SELECT pg_backend_pid()"))
            await connection.commit()
            watch = Watch(engine, pid, lock_seconds)
            connection.sync_connection.info[_WATCH] = watch  # type: ignore[union-attr] # it is open
            watching = asyncio.create_task(watch.run())
            try:
                yield connection  # the lock goes with the connection
            finally:
                watching.cancel()
                await asyncio.wait([watching])
    except DatabaseError as error:
        error.hint = _HINTS.get(error.sqlstate or "", error.hint)
        raise
    finally:
        await engine.dispose()


def watch_of(info: dict[str, object]) -> Watch | None:
    """Return the watch over a connection that `migration_connection` has made, by its ``info``."""
    watch = info.get(_WATCH)
    return watch if isinstance(watch, Watch) else None


async def _take_turn(connection: AsyncConnection, seconds: float) -> None:
    """Take the advisory lock by asking for it: who waits inside a statement blocks CREATE INDEX CONCURRENTLY."""
    began = told = time.monotonic()
    while not await connection.scalar(text(f"SELECT pg_try_advisory_lock({LOCK_KEY})")):
        await connection.commit()
        now = time.monotonic()
        if now - began >= seconds:
            raise LockNotAvailable(
                f"another migration has held the lock for {seconds:.0f} s: {await _holder(connection)}",
                hint="wait for it to end and run again; pg_stat_activity tells what that process does",
            )
        if now - told >= TELL_SECONDS:
            told = now
            get_logger(__name__).info("another_migration_runs", held_by=await _holder(connection))
        await asyncio.sleep(POLL_SECONDS)
    await connection.commit()


async def _holder(connection: AsyncConnection) -> str:
    row = (await connection.execute(_HOLDER, {"key": LOCK_KEY})).first()
    await connection.commit()
    return f"pid {row.pid} ({row.application_name})" if row else "it has just ended"


def _lock_seconds(settings: Settings, patience: Patience) -> float:
    if patience.lock is not None:
        return patience.lock
    target = named_target(settings, "migrations")
    stated = None if target is None else target.lock_timeout
    return DEFAULT_LOCK_SECONDS if stated is None else stated / 1000
