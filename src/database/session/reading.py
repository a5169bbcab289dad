"""Read sessions: compiled reads outside of any transaction, a caller's own SQL in one that only reads."""

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

# Right after the header of a WAL page (24 bytes, or 40 at a segment's start) nothing has been written behind the page's
# start, which is as far as a replica then gets: without this an idle primary would seem ahead after `pg_switch_wal`.
# The shortest record is longer than the difference, and one that crosses the page's start is replayed with its end.
WRITTEN: Final = text(
    "SELECT (CASE WHEN into_page <= 40 THEN lsn - into_page ELSE lsn END)::text"
    "  FROM pg_current_wal_insert_lsn() AS lsn, LATERAL"
    " (SELECT (lsn - '0/0') % current_setting('wal_block_size')::numeric AS into_page) AS page"
)
# The driver takes no text for a parameter of type pg_lsn.
_REPLAYED: Final = "SELECT NOT pg_is_in_recovery() OR pg_last_wal_replay_lsn() >= CAST(CAST($1 AS text) AS pg_lsn)"


class ReadTenantSession(TenantSession):
    """The synchronous half of :class:`ReadSession`.

    A connection that a compiled read has checked out stays outside of transactions, bound to no tenant: such a read
    binds itself. The first statement of a caller's begins a transaction and binds it, in one round trip; all later
    statements are sent in that transaction.
    """

    always_refreshes = True
    _stays_outside = False

    @property
    def reads_outside(self) -> bool:
        """True if compiled reads may be sent outside of transactions: not if limits are set for each transaction."""
        return not self._binding.sets_limits

    def check_out(self) -> Connection:
        """Return a connection on which no transaction begins yet; in a greenlet."""
        self._stays_outside = True
        try:
            return Session.connection(self)
        finally:
            self._stays_outside = False

    def begin_on(self, connection: Connection) -> None:
        """Bind a transaction that begins, unless the connection is for a statement that binds itself."""
        if self._stays_outside:
            self.connection_in_use = connection
        else:
            super().begin_on(connection)

    def connection(self, *arguments: Any, **options: Any) -> Connection:
        """Return the connection of the transaction; bind it if a compiled read has checked it out."""
        self.enter_tenant(required=False)
        return super().connection(*arguments, **options)


class ReadSession(AsyncSession):
    """A session in which each statement sees what is committed by then, until `snapshot` makes them see one state.

    A row that is read again has the values and the relationships of the last read.
    """

    sync_session_class = ReadTenantSession
    sync_session: ReadTenantSession

    _snapshot_in: SessionTransaction | None = None

    async def snapshot(self) -> None:
        """Read the present state from here to the end of the session."""
        if self.in_transaction():
            await self.commit()  # nothing is written: the connection goes back to the pool
        connection = await self.connection(execution_options={"isolation_level": "REPEATABLE READ"})
        await connection.exec_driver_sql("SELECT 1")  # after a query, no caller can make the transaction write
        self._snapshot_in = self.sync_session.get_transaction()

    async def end(self) -> None:
        """Send pending changes, if there are any, so that the server refuses them."""
        if self.sync_session.has_changes():
            await self.commit()
        self.sync_session.is_read_to_its_end = True

    async def begin_stream(self) -> bool:
        """Begin a snapshot unless the session is in one; return True if this call has begun it."""
        if self._snapshot_in is not None and self.sync_session.get_transaction() is self._snapshot_in:
            return False
        await self.snapshot()
        return True

    async def stream(self, *arguments: Any, **options: Any) -> AsyncResult[Any]:
        """Execute a statement, and return its rows as they arrive, all of one state."""
        result: AsyncResult[Any]
        if await self.begin_stream():
            with suppress(SchemaChangedError):  # nothing was read yet: begin again
                result = await super().stream(*arguments, **options)
                return result
            await self.rollback()
            await self.snapshot()
        result = await super().stream(*arguments, **options)
        return result


async def wait_for_replica(primary: AsyncEngine, session: ReadSession) -> bool:
    """Wait until a session's server has all that was committed on the primary so far; return whether it has.

    It costs one round trip to the primary, and one to the replica if that is up to date. The session keeps its
    connection, since another may lead to another replica, and takes no tenant.

    Raises:
        ConnectionFailed: The primary cannot be reached; a replica that cannot be reached is not up to date.
    """
    async with primary.execution_options(isolation_level="AUTOCOMMIT").connect() as connection:
        written = await connection.scalar(WRITTEN)
    try:
        async with asyncio.timeout(REPLAY_WAIT_SECONDS):
            reading = await greenlet_spawn(session.sync_session.check_out)
            replica: Any = reading.connection.driver_connection
            while not await replica.fetchval(_REPLAYED, written):  # noqa: ASYNC110 - no event tells of it
                await asyncio.sleep(REPLAY_POLL_SECONDS)
    except (TimeoutError, ConnectionFailed, *DRIVER_ERRORS):
        await session.invalidate()  # the answer of the last query may still arrive
        return False
    return True
