"""The connection that migrates: as the owner of the tables, under a lock, with limits on how long it waits."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from typing import Any, Final

from sqlalchemy import Connection, Row, text
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine
from sqlalchemy.pool import NullPool

from src.config import Settings, get_logger
from src.config.constants import MIGRATION_ATTEMPTS, MIGRATION_WAIT_SECONDS
from src.config.profiles import named_target
from src.database.errors import DatabaseError, LockNotAvailable
from src.database.session import create_engine

LOCK_KEY: Final = 0x7468_6561  # "thea"
POLL_SECONDS: Final = 0.2
REPORT_SECONDS: Final = 10.0
DEFAULT_LOCK_SECONDS: Final = 5.0
FIRST_LOOK_SECONDS: Final = 2.0
"""A migration that ends before needs no second connection."""
LOOK_SECONDS: Final = 5.0
SOONEST_SECONDS: Final = 0.1

_HOLDER: Final = text("""
SELECT pid, application_name FROM pg_catalog.pg_locks LEFT JOIN pg_catalog.pg_stat_activity USING (pid)
 WHERE locktype = 'advisory' AND granted AND classid = 0 AND objid = :key
   AND pg_locks.database = (SELECT oid FROM pg_catalog.pg_database WHERE datname = current_database())
""")
_BLOCKERS: Final = text("""
SELECT pid, usename, application_name, extract(epoch FROM clock_timestamp() - xact_start) AS seconds
  FROM unnest(pg_blocking_pids(:pid)) AS blocking (pid) LEFT JOIN pg_catalog.pg_stat_activity USING (pid)
""")
_INDEXES: Final = text("""
SELECT relid::regclass::text AS name, phase, blocks_done, blocks_total, tuples_done, tuples_total
  FROM pg_catalog.pg_stat_progress_create_index WHERE pid = :pid
""")
_OBSERVER: Final = "thea_migration_observer"
_IS_OF_ANOTHER_REVISION: Final = (
    "the database is not what its revision says: `thea-db verify` tells how; do not stamp it forward"
)
_EXISTS: Final = (
    "the database has what this migration makes: `thea-db verify` names what differs, and the revision to stamp if"
    " nothing does"
)
_HINTS: Final = {
    "25006": "name the primary in DATABASE_MIGRATION_URL: a replica takes no writes",
    "42501": "migrations run as the owner of the tables: name it in DATABASE_MIGRATION_URL; `thea-db bootstrap` makes"
    " the roles and says which right is missing",
    "42701": _EXISTS,
    "42703": _IS_OF_ANOTHER_REVISION,
    "42710": _EXISTS,
    "42723": _EXISTS,
    "42883": _IS_OF_ANOTHER_REVISION,
    "42P01": _IS_OF_ANOTHER_REVISION,
    "42P07": _EXISTS,
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Patience:
    """How long a migration waits for other sessions, and how often it retries.

    Args:
        turn: Seconds until another migrator is done.
        lock: Seconds for each lock of a table, and with it the longest that a request waits behind a migration. By
            default `lock_timeout` of the migrations' URL, or 5.
        attempts: How often a migration is started that could not have a lock.
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
    """Connect as the owner of the tables, under the lock of migrations: two migrators would disturb each other.

    The connection itself has the lock: the server keeps it as long as it works for a migrator that was killed, and
    releases it immediately afterwards.

    Args:
        settings: The database.
        patience: How long to wait.
        alone: False to connect without the lock, for what only reads and need not wait for a migration to end.

    Raises:
        ConfigurationError: The target cannot be right; behind a transaction pooler DATABASE_MIGRATION_URL is missing.
        ConnectionFailed: The database cannot be reached.
        LockNotAvailable: Another migrator has had the lock for too long.
    """
    patience = patience or Patience()
    engine = create_engine(settings, poolclass=NullPool, purpose="migrations")
    try:
        async with engine.connect() as connection:
            if alone:
                await _take_lock(connection, patience.turn)
            lock_seconds = _lock_seconds(settings, patience)
            await connection.execute(text(f"SET lock_timeout = {round(lock_seconds * 1000)}"))
            pid = await connection.scalar(text("SELECT pg_backend_pid()"))
            await connection.commit()
            observer = _Observer(engine, pid, lock_seconds)
            connection.sync_connection.info[_OBSERVER] = observer  # type: ignore[union-attr] # it is open
            observing = asyncio.create_task(observer.run())
            try:
                yield connection  # the lock is released with the connection
            finally:
                observing.cancel()
                await asyncio.wait([observing])
    except DatabaseError as error:
        error.hint = _HINTS.get(error.sqlstate or "", error.hint)
        raise
    finally:
        await engine.dispose()


def blockers_of(connection: Connection) -> str | None:
    """Return the sessions that a connection of `migration_connection` waited for last; None if none was observed."""
    observer = connection.info.get(_OBSERVER)
    return observer.blockers if isinstance(observer, _Observer) else None


@dataclass(slots=True)
class _Observer:
    """Log what a migration waits for and how far an index is, observed from a second connection.

    Args:
        engine: The engine of migrations.
        pid: The server process of the connection that migrates.
        lock_seconds: The longest that it waits for a lock: it has to be observed meanwhile; 0 is without limit.
    """

    engine: AsyncEngine
    pid: int
    lock_seconds: float
    blockers: str | None = field(default=None, init=False)

    async def run(self) -> None:
        """Observe until cancelled. A failure of this connection is no reason for the migration to fail."""
        interval = max(SOONEST_SECONDS, self.lock_seconds / 3) if self.lock_seconds else LOOK_SECONDS
        await asyncio.sleep(min(FIRST_LOOK_SECONDS, interval))
        with suppress(DatabaseError):
            # In AUTOCOMMIT: CREATE INDEX CONCURRENTLY waits for every transaction that has a snapshot.
            async with self.engine.connect() as plain:
                connection = await plain.execution_options(isolation_level="AUTOCOMMIT")
                while True:
                    await self._observe(connection)
                    await asyncio.sleep(min(LOOK_SECONDS, interval))

    async def _observe(self, connection: Any) -> None:
        parameters = {"pid": self.pid}
        blockers = (await connection.execute(_BLOCKERS, parameters)).all()
        if blockers:
            self.blockers = "; ".join(map(_describe, blockers))
            get_logger(__name__).warning("migration_waits", held_by=self.blockers)
        for index in (await connection.execute(_INDEXES, parameters)).all():
            done, total = index.tuples_done or index.blocks_done, index.tuples_total or index.blocks_total
            get_logger(__name__).info("index_is_built", table=index.name, phase=index.phase, done=done, of=total)


def _describe(blocker: Row[Any]) -> str:
    """Return the name of a session; the text of its query can quote data and is not repeated."""
    name = f"pid {blocker.pid} ({blocker.usename or 'unknown'}, {blocker.application_name or 'unnamed'}"
    return f"{name})" if blocker.seconds is None else f"{name}, in its transaction for {blocker.seconds:.0f} s)"


async def _take_lock(connection: AsyncConnection, seconds: float) -> None:
    """Poll for the advisory lock: a statement that waits for it would block CREATE INDEX CONCURRENTLY."""
    began = reported = time.monotonic()
    while not await connection.scalar(text(f"SELECT pg_try_advisory_lock({LOCK_KEY})")):
        await connection.commit()
        now = time.monotonic()
        if now - began >= seconds:
            raise LockNotAvailable(
                f"another migration has held the lock for {seconds:.0f} s: {await _holder(connection)}",
                hint="wait for it to end and run again; pg_stat_activity tells what that process does",
            )
        if now - reported >= REPORT_SECONDS:
            reported = now
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
