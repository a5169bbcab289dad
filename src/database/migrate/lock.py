"""The connection for migrations: as the owner of the tables, under an advisory lock, with limits on its waits."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from typing import Any, Final
from zlib import crc32

from sqlalchemy import Connection, Row, text
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine
from sqlalchemy.pool import NullPool

from src.config import Settings, get_logger
from src.config.constants import MIGRATION_ATTEMPTS, MIGRATION_WAIT_SECONDS
from src.config.profiles import named_target
from src.database.errors import ConfigurationError, DatabaseError, LockNotAvailable
from src.database.session import create_engine, resolve_target

SCHEMA: Final = "schema"
"""The attribute of Alembic's configuration, and the option of its context, that name the schema of printed SQL."""
LOCK_KEY: Final = 0x7468_6561  # "thea"
POLL_SECONDS: Final = 0.2
REPORT_SECONDS: Final = 10.0
DEFAULT_LOCK_SECONDS: Final = 5.0
FIRST_OBSERVATION_SECONDS: Final = 2.0
"""A migration that ends earlier opens no second connection."""
OBSERVATION_SECONDS: Final = 5.0
SHORTEST_OBSERVATION_SECONDS: Final = 0.1

_HOLDER: Final = text("""
SELECT pid, application_name FROM pg_catalog.pg_locks LEFT JOIN pg_catalog.pg_stat_activity USING (pid)
 WHERE locktype = 'advisory' AND granted AND (classid::bigint << 32) + objid::bigint = :key
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
    "the schema is not that of the recorded revision: `thea-db verify` names each difference; do not stamp a later"
    " revision"
)
_EXISTS: Final = (
    "the database already has what this migration creates: `thea-db verify` names each difference, or the revision to"
    " stamp if there is no difference"
)
_INSUFFICIENT_PRIVILEGE: Final = "42501"
_HINTS: Final = {
    # read_only_sql_transaction
    "25006": "name the primary in DATABASE_MIGRATION_URL: a replica accepts no writes",
    # dependent_objects_still_exist
    "2BP01": "another object refers to what this migration drops: for a table of the service, run"
    " `thea-db downgrade <revision> --history service` first",
    _INSUFFICIENT_PRIVILEGE: "migrations run as the owner of the tables: name the owner in DATABASE_MIGRATION_URL;"
    " `thea-db bootstrap` creates the roles and reports missing privileges. If the migration creates an extension: run"
    " CREATE EXTENSION in this database as a superuser, or as the administrator of a managed server",
    "42701": _EXISTS,  # duplicate_column
    "42703": _IS_OF_ANOTHER_REVISION,  # undefined_column
    "42710": _EXISTS,  # duplicate_object
    "42723": _EXISTS,  # duplicate_function
    "42883": _IS_OF_ANOTHER_REVISION,  # undefined_function
    "42P01": _IS_OF_ANOTHER_REVISION,  # undefined_table
    "42P07": _EXISTS,  # duplicate_table
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Patience:
    """The limits of a migration: its waits for other sessions, and its retries.

    Args:
        migrator_seconds: The longest wait for another migrator to end.
        lock_seconds: The longest wait for each lock on a table. Requests wait behind the migration for as long. The
            default is `lock_timeout` of the URL for migrations, or 5; 0 is without limit.
        attempts: How many times a migration is started that does not get a lock.
        pause_seconds: The mean pause before the second attempt, doubled before each further attempt, 30 at most; the
            actual pause is random, from half to one and a half of the mean.

    Raises:
        ValueError: A value is too small.
    """

    migrator_seconds: float = MIGRATION_WAIT_SECONDS
    lock_seconds: float | None = None
    attempts: int = MIGRATION_ATTEMPTS
    pause_seconds: float = 1.0

    def __post_init__(self) -> None:
        if self.attempts < 1:
            raise ValueError(f"attempts must be 1 or more, got {self.attempts}")
        for name in ("migrator_seconds", "lock_seconds", "pause_seconds"):
            if (seconds := getattr(self, name)) is not None and seconds < 0:
                raise ValueError(f"{name} must be 0 or more, got {seconds}")


@asynccontextmanager
async def migration_connection(
    settings: Settings, *, patience: Patience | None = None, exclusive: bool = True
) -> AsyncIterator[AsyncConnection]:
    """Open a connection as the owner of the tables, under the advisory lock of migrations; close it at the end.

    The lock belongs to the session of this connection, not to a second one: if a migrator is killed while the server
    still executes its statement, the server keeps the lock until that statement has ended. A firewall cannot drop an
    idle second connection, and with it the lock, while the migration goes on.

    Args:
        settings: The settings that name the database. Under the lock, a missing schema of DATABASE_SCHEMA is created.
        patience: How long to wait for another migrator and for locks; None for the defaults.
        exclusive: False to connect without the advisory lock, for code that only reads and need not wait for a running
            migration.

    Raises:
        ConfigurationError: The target is invalid, DATABASE_MIGRATION_URL is missing behind a transaction pooler, or the
            role may not create the schema.
        ConnectionFailed: The database cannot be reached.
        LockNotAvailable: Another migrator has held the lock for too long.
    """
    patience = patience or Patience()
    engine = create_engine(settings, poolclass=NullPool, purpose="migrations")
    try:
        async with engine.connect() as connection:
            if exclusive:
                await _take_lock(connection, settings.DATABASE_SCHEMA, patience.migrator_seconds)
                if settings.DATABASE_SCHEMA is not None:
                    await _create_schema(connection, settings.DATABASE_SCHEMA, resolve_target(settings).user)
            lock_seconds = _lock_seconds(settings, patience)
            # For the session, not SET LOCAL: each migration has its own transaction.
            await connection.execute(text(f"SET lock_timeout = {round(lock_seconds * 1000)}"))
            pid = await connection.scalar(text("SELECT pg_backend_pid()"))
            await connection.commit()
            observer = _Observer(engine, pid, lock_seconds)
            connection.sync_connection.info[_OBSERVER] = observer  # type: ignore[union-attr] # it is open
            observing = asyncio.create_task(observer.run())
            try:
                yield connection  # the server releases the lock when the connection is closed
            finally:
                observing.cancel()
                await asyncio.wait([observing])
    except DatabaseError as error:
        error.hint = _HINTS.get(error.sqlstate or "", error.hint)
        raise
    finally:
        await engine.dispose()


def blockers_of(connection: Connection) -> str | None:
    """Return the sessions that a connection of `migration_connection` waited for last; None if none was observed.

    The server forgets them when the wait times out, so that they can be queried only during the wait.
    """
    observer = connection.info.get(_OBSERVER)
    return observer.blockers if isinstance(observer, _Observer) else None


@dataclass(slots=True)
class _Observer:
    """The logging of the sessions that a migration waits for, and of the progress of an index, by a second connection.

    Args:
        engine: The engine for migrations.
        pid: The process id, on the server, of the connection that migrates.
        lock_seconds: The `lock_timeout` of that connection, 0 if it has none: a wait must be observed before it ends.
    """

    engine: AsyncEngine
    pid: int
    lock_seconds: float
    blockers: str | None = field(default=None, init=False)

    async def run(self) -> None:
        """Observe until cancelled. A failure of the second connection does not fail the migration."""
        interval = OBSERVATION_SECONDS
        if self.lock_seconds:
            interval = max(SHORTEST_OBSERVATION_SECONDS, self.lock_seconds / 3)
        await asyncio.sleep(min(FIRST_OBSERVATION_SECONDS, interval))
        with suppress(DatabaseError):
            # AUTOCOMMIT, because CREATE INDEX CONCURRENTLY waits for every transaction that has a snapshot: the
            # migration would wait for its observer.
            async with self.engine.connect() as plain:
                connection = await plain.execution_options(isolation_level="AUTOCOMMIT")
                while True:
                    await self._observe(connection)
                    await asyncio.sleep(min(OBSERVATION_SECONDS, interval))

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
    """Return the name of a session, without the text of its query, which can quote data."""
    name = f"pid {blocker.pid} ({blocker.usename or 'unknown'}, {blocker.application_name or 'unnamed'}"
    return f"{name})" if blocker.seconds is None else f"{name}, in a transaction for {blocker.seconds:.0f} s)"


async def _take_lock(connection: AsyncConnection, schema: str | None, seconds: float) -> None:
    """Poll for the advisory lock of a schema, with a transaction for each attempt.

    Installations in two schemas of a database do not wait for each other.

    A waiting pg_advisory_lock() has a snapshot, for which CREATE INDEX CONCURRENTLY of the other migrator would wait,
    while this one waits for the other's lock: a deadlock.
    """
    key = lock_key(schema or await connection.scalar(text("SELECT current_schema()")))
    began = reported = time.monotonic()
    while not await connection.scalar(text(f"SELECT pg_try_advisory_lock({key})")):
        await connection.commit()
        now = time.monotonic()
        if now - began >= seconds:
            raise LockNotAvailable(
                f"another migration has held the lock for {seconds:.0f} s: {await _holder(connection, key)}",
                hint="run the migrations again when that migration has ended; pg_stat_activity shows the statement of"
                " its pid",
            )
        if now - reported >= REPORT_SECONDS:
            reported = now
            get_logger(__name__).info("another_migration_runs", held_by=await _holder(connection, key))
        await asyncio.sleep(POLL_SECONDS)
    await connection.commit()


async def _create_schema(connection: AsyncConnection, schema: str, application: str) -> None:
    """Create the schema if it is missing, and let the application use it.

    Args:
        connection: The connection of the owner, under the advisory lock: two sessions that create a schema at the same
            time fail also with IF NOT EXISTS.
        schema: The schema.
        application: The role of the application.

    Raises:
        ConfigurationError: The role may not create schemas in the database.
    """
    exists = text("SELECT to_regnamespace(quote_ident(:schema)) IS NOT NULL, quote_ident(:schema), quote_ident(:role)")
    is_there, name, role = (await connection.execute(exists, {"schema": schema, "role": application})).one()
    if not is_there:
        try:
            await connection.execute(text(f"CREATE SCHEMA {name}"))
            await connection.execute(text(f"GRANT USAGE ON SCHEMA {name} TO {role}"))
        except DatabaseError as error:
            if error.sqlstate != _INSUFFICIENT_PRIVILEGE:
                raise
            raise ConfigurationError(
                f"the schema of DATABASE_SCHEMA, {schema}, does not exist, and this role may not create schemas",
                hint="run `thea-db bootstrap`, or as an administrator: CREATE SCHEMA"
                f" {name} AUTHORIZATION <the owner>; GRANT USAGE ON SCHEMA {name} TO {role}",
            ) from error
    await connection.commit()


def lock_key(schema: str | None) -> int:
    """Return the key of the advisory lock: the schema in the high half, and zero there for `public`."""
    high = 0 if schema is None or schema == "public" else crc32(schema.encode()) & 0x7FFF_FFFF
    return high << 32 | LOCK_KEY


async def _holder(connection: AsyncConnection, key: int) -> str:
    row = (await connection.execute(_HOLDER, {"key": key})).first()
    await connection.commit()
    return f"pid {row.pid} ({row.application_name})" if row else "that migration has just ended"


def _lock_seconds(settings: Settings, patience: Patience) -> float:
    if patience.lock_seconds is not None:
        return patience.lock_seconds
    target = named_target(settings, "migrations")
    if target is None or target.lock_timeout is None:
        return DEFAULT_LOCK_SECONDS
    return target.lock_timeout / 1000
