"""Read sessions: compiled reads are sent without a transaction, a caller's own SQL in a READ ONLY transaction."""

from __future__ import annotations

import asyncio
from contextlib import suppress
from typing import Any, Final

from sqlalchemy import Connection, text
from sqlalchemy.ext.asyncio import AsyncEngine, AsyncResult
from sqlalchemy.orm import Session, SessionTransaction
from sqlalchemy.util import greenlet_spawn

from src.database.connect import DRIVER_ERRORS
from src.database.errors import ConnectionFailed, SchemaChangedError
from src.database.session.session import AsyncSession, TenantSession

REPLAY_WAIT_SECONDS: Final = 1.0
REPLAY_POLL_SECONDS: Final = 0.01

# The insert position can be right behind the header of a WAL page (24 bytes, or 40 at the start of a segment) while no
# record follows the header. A replica then replays to the start of the page alone, and an idle primary would seem ahead
# of it forever, for example after `pg_switch_wal`: so the header is subtracted. This skips no record: the shortest one
# is longer than the header, and one that crosses the start of the page is replayed with its end.
WRITTEN: Final = text(
    "SELECT (CASE WHEN into_page <= 40 THEN lsn - into_page ELSE lsn END)::text"
    "  FROM pg_current_wal_insert_lsn() AS lsn, LATERAL"
    " (SELECT (lsn - '0/0') % current_setting('wal_block_size')::numeric AS into_page) AS page"
)
# The inner cast makes the parameter a text: the driver accepts no text for a parameter of type pg_lsn.
_REPLAYED: Final = "SELECT NOT pg_is_in_recovery() OR pg_last_wal_replay_lsn() >= CAST(CAST($1 AS text) AS pg_lsn)"


class ReadTenantSession(TenantSession):
    """The synchronous half of :class:`ReadSession`.

    A compiled read checks a connection out without a transaction or a binding: the statement itself sets the tenant.
    The first SQL of a caller begins a transaction and binds it, in one round trip; all later statements are sent in it.
    """

    always_refreshes = True
    _skips_binding = False

    @property
    def reads_in_autocommit(self) -> bool:
        """True if compiled reads are sent without a transaction.

        False behind PgBouncer: the time limits are set in each transaction.
        """
        return not self._binding.sets_limits

    def check_out(self) -> Connection:
        """Return a connection on which no transaction has begun; call it in a greenlet."""
        self._skips_binding = True
        try:
            return Session.connection(self)
        finally:
            self._skips_binding = False

    def bind_new_transaction(self, connection: Connection) -> None:
        """Bind a transaction that begins, unless `check_out` asks for the connection."""
        if self._skips_binding:
            self.connection_in_use = connection
        else:
            super().bind_new_transaction(connection)

    def connection(self, *arguments: Any, **options: Any) -> Connection:
        """Return the connection of the transaction; bind it if a compiled read has checked it out."""
        self.bind_tenant()
        return super().connection(*arguments, **options)


class ReadSession(AsyncSession):
    """A session that reads: each statement sees the state that is committed when it starts.

    After `snapshot`, all statements see the same state. A row that is read again has the values and the relationships
    of the last read.
    """

    sync_session_class = ReadTenantSession
    sync_session: ReadTenantSession

    _snapshot_in: SessionTransaction | None = None

    async def snapshot(self) -> None:
        """Make all later statements of the session see the present state."""
        if self.in_transaction():
            await self.commit()  # nothing is written: this returns the connection to the pool
        connection = await self.connection(execution_options={"isolation_level": "REPEATABLE READ"})
        # This takes the snapshot; and after a query the server refuses SET TRANSACTION READ WRITE.
        await connection.exec_driver_sql("SELECT 1")
        self._snapshot_in = self.sync_session.get_transaction()

    async def end(self) -> None:
        """End the session's work; send pending changes, so that the server refuses them with an error."""
        if self.sync_session.has_changes():
            await self.commit()
        self.sync_session.has_only_read = True

    async def begin_stream(self) -> bool:
        """Begin a snapshot unless the session is in one; return True if this call has begun it."""
        if self._snapshot_in is not None and self.sync_session.get_transaction() is self._snapshot_in:
            return False
        await self.snapshot()
        return True

    async def stream(self, *arguments: Any, **options: Any) -> AsyncResult[Any]:
        """Execute a statement, and return its rows as they arrive, all of one state: this takes a snapshot."""
        result: AsyncResult[Any]
        if await self.begin_stream():
            with suppress(SchemaChangedError):  # no row was read yet: it is safe to try once more
                result = await super().stream(*arguments, **options)
                return result
            await self.rollback()
            await self.snapshot()
        result = await super().stream(*arguments, **options)
        return result


async def wait_for_replica(primary: AsyncEngine, session: ReadSession) -> bool:
    """Wait, at most 1 s, until a session's server has replayed what was committed on the primary before the call.

    This costs one round trip to the primary, and one to the replica if it is up to date. The session keeps its
    connection, since another connection may lead to another replica. The session does not take a tenant.

    Returns:
        False if the replica is behind or cannot be reached.

    Raises:
        ConnectionFailed: The primary cannot be reached.
    """
    async with primary.execution_options(isolation_level="AUTOCOMMIT").connect() as connection:
        written = await connection.scalar(WRITTEN)
    try:
        async with asyncio.timeout(REPLAY_WAIT_SECONDS):
            reading = await greenlet_spawn(session.sync_session.check_out)
            replica: Any = reading.connection.driver_connection
            while not await replica.fetchval(_REPLAYED, written):  # noqa: ASYNC110 - PostgreSQL sends no event
                await asyncio.sleep(REPLAY_POLL_SECONDS)
    except (TimeoutError, ConnectionFailed, *DRIVER_ERRORS):
        await session.invalidate()  # the answer of the last query may still arrive on the connection
        return False
    return True
