"""Read sessions: outside of transactions, the tenant bound when the pool hands a connection out, writes refused."""

from __future__ import annotations

import asyncio
from contextlib import suppress
from typing import Any, Final
from uuid import UUID

import asyncpg
from sqlalchemy import Connection, Engine, event, text
from sqlalchemy.exc import DisconnectionError
from sqlalchemy.ext.asyncio import AsyncEngine, AsyncResult
from sqlalchemy.orm import ORMExecuteState, SessionTransaction

from src.database.connect import DRIVER_ERRORS
from src.database.engine.pool import drop
from src.database.errors import ConnectionFailed, SchemaChangedError
from src.database.session.binding import TenantBinding
from src.database.session.session import AsyncSession, TenantSession
from src.database.tenant_scope import current_tenant
from src.database.translation import translate

__all__ = ["WRITTEN", "ReadBinding", "ReadSession", "wait_for_replica"]

REPLAY_WAIT_SECONDS: Final = 1.0
REPLAY_POLL_SECONDS: Final = 0.01

_BOUND: Final = "thea_bound_to"
_USED: Final = "thea_used_before"
_OURS_ALONE: Final = "thea_ours_alone"
"""In a connection's `info` while only statements of our own were sent since it was bound: then it still is."""
_NOBODY: Final = object()
# Both in one statement: somebody's own SET of either is undone with no further round trip.
_BIND: Final = "SELECT set_config('app.tenant_id', $1, false), set_config('default_transaction_read_only', 'on', false)"
# Right after the header of a WAL page (24 bytes, or 40 at a segment's start) nothing has been written behind the page's
# start, which is as far as a replica then gets: without this an idle primary would seem ahead after `pg_switch_wal`.
# The shortest record is longer than the difference, and one that crosses the page's start is replayed with its end.
WRITTEN: Final = text(
    "SELECT (CASE WHEN into_page <= 40 THEN lsn - into_page ELSE lsn END)::text"
    "  FROM pg_current_wal_insert_lsn() AS lsn, LATERAL"
    " (SELECT (lsn - '0/0') % current_setting('wal_block_size')::numeric AS into_page) AS page"
)
# The driver takes no text for a parameter of type pg_lsn.
_REPLAYED: Final = text(
    "SELECT NOT pg_is_in_recovery() OR pg_last_wal_replay_lsn() >= CAST(CAST(:written AS text) AS pg_lsn)"
)


_TAKEN_AS_BOUND: Final = "thea_taken_as_bound"
"""In its `info` while the server was not heard of since: it may have ended the connection."""


class ReadBinding(TenantBinding):
    """How the connections of an engine for reading are bound: for the session, at every checkout, in one round trip."""

    def bind_at_checkout(self, engine: Engine) -> None:
        """Have whatever the pool hands out be bound to who acts, or to nobody."""

        def bind(connection: Any, entry: Any, _proxy: Any) -> None:
            has_been_used = entry.info.get(_USED, False)
            entry.info[_USED] = True
            tenant_id = current_tenant() or self.default_tenant
            if entry.info.pop(_OURS_ALONE, False) and entry.info.get(_BOUND, _NOBODY) == tenant_id:
                entry.info[_TAKEN_AS_BOUND] = True
                return
            try:
                _bind(connection, entry.info, tenant_id)
            except ConnectionFailed as error:
                if has_been_used:  # it may have died while it was idle: the pool opens another in its place
                    drop(connection)
                    raise DisconnectionError(str(error)) from error
                raise

        event.listen(engine, "checkout", bind)

    def bind(self, connection: Connection, tenant_id: UUID | None) -> None:
        """Bind the connection where it is bound to another; as a rule the checkout has done it."""
        if connection.info.get(_BOUND, _NOBODY) == tenant_id:
            return
        try:
            _bind(connection.connection.dbapi_connection, connection.info, tenant_id)
        except ConnectionFailed as error:
            connection.invalidate(error)
            raise


class ReadTenantSession(TenantSession):
    """The synchronous half of :class:`ReadSession`."""

    always_refreshes = True
    own_hooks = 2
    _sent_callers_sql = False

    def note_callers_sql(self) -> None:
        """Have the connection be bound anew when it is next handed out."""
        self._sent_callers_sql = True
        connection = self._connection_in_use
        if connection is not None and not connection.invalidated:  # one that was lost remembers nothing
            connection.info.pop(_OURS_ALONE, None)

    def begin_on(self, connection: Connection) -> None:
        """Bind a connection that this session begins to use; what is not ours is not sent on one that may be dead."""
        if connection.info.pop(_TAKEN_AS_BOUND, False) and self._sent_callers_sql:
            connection.info.pop(_BOUND, None)
        super().begin_on(connection)
        if not self._sent_callers_sql and connection.info.get(_BOUND, _NOBODY) is not _NOBODY:
            connection.info[_OURS_ALONE] = True

    def get(self, entity: Any, ident: Any, **options: Any) -> Any:
        """Fetch by id, also where it was read before."""
        return super().get(entity, ident, **{**options, "populate_existing": True})

    def get_one(self, entity: Any, ident: Any, **options: Any) -> Any:
        """Fetch by id as `get` does, or raise where there is no such row."""
        return super().get_one(entity, ident, **{**options, "populate_existing": True})


@event.listens_for(ReadTenantSession, "do_orm_execute")
def _refresh_rows(state: ORMExecuteState) -> None:
    """Have a row that was read before be as it is now: there is no transaction that shows it twice the same.

    One that comes along through a relationship stays as it is, for it may be the very one that it is loaded for.
    """
    if state.is_select and not state.is_column_load:
        state.update_execution_options(populate_existing=not state.is_relationship_load)


class ReadSession(AsyncSession):
    """A session whose every statement sees what is committed by then, until `snapshot` has them see one state.

    A row that is read again is as it is by then, and has the relationships that were asked for then.
    """

    sync_session_class = ReadTenantSession

    _snapshot_in: SessionTransaction | None = None

    async def snapshot(self) -> None:
        """From here to the end of the session, read one state: the one of now."""
        if self.in_transaction():
            await self.commit()  # nothing can have been written: it gives the connection back
        options = {"isolation_level": "REPEATABLE READ", "postgresql_readonly": True}
        connection = await self.connection(execution_options=options)
        await connection.exec_driver_sql("SELECT 1")  # after a query nobody can make the transaction write
        self._snapshot_in = self.sync_session.get_transaction()

    async def end(self) -> None:
        """Send what somebody added, so that the server can refuse it; as a rule there is nothing."""
        if self.sync_session.has_changes():
            await self.commit()
        self.sync_session.is_read_to_its_end = True

    async def stream(self, *arguments: Any, **options: Any) -> AsyncResult[Any]:
        """Execute, and hand the rows out as they come: they are all of one state, since a cursor is."""
        result: AsyncResult[Any]
        if self._snapshot_in is None or self.sync_session.get_transaction() is not self._snapshot_in:
            await self.snapshot()
            with suppress(SchemaChangedError):  # nothing was read yet: it begins anew
                result = await super().stream(*arguments, **options)
                return result
            await self.rollback()
            await self.snapshot()
        result = await super().stream(*arguments, **options)
        return result


async def wait_for_replica(primary: AsyncEngine, session: AsyncSession) -> bool:
    """Wait until a session's server has all that was committed on the primary so far; say whether it has.

    It costs one round trip to the primary, and one to the replica where that is up to date. The session keeps its
    connection, since another may lead to another replica, and no tenant: the caller has named none yet.

    Raises:
        ConnectionFailed: The primary cannot be reached; a replica that cannot has not got it either.
    """
    async with primary.execution_options(isolation_level="AUTOCOMMIT").connect() as connection:
        written = await connection.scalar(WRITTEN)
    try:
        async with asyncio.timeout(REPLAY_WAIT_SECONDS):
            while not await session.scalar(_REPLAYED, {"written": written}):  # noqa: ASYNC110 - no event tells of it
                await asyncio.sleep(REPLAY_POLL_SECONDS)
    except (TimeoutError, ConnectionFailed):
        return False
    session.sync_session.forget_tenant()
    return True


def _bind(connection: Any, info: Any, tenant_id: UUID | None) -> None:
    """Bind, and remember it only once it is done, and where no rollback can undo it."""
    info.pop(_BOUND, None)
    connection.run_async(lambda driver: _send_binding(driver, str(tenant_id or "")))
    if not connection.driver_connection.is_in_transaction():
        info[_BOUND] = tenant_id


async def _send_binding(connection: asyncpg.Connection[Any], tenant_id: str) -> None:
    try:
        await connection.fetchval(_BIND, tenant_id)
    except DRIVER_ERRORS as error:
        raise translate(error) or ConnectionFailed("the connection was lost") from error
