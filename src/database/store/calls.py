"""Sending a statement of the store: one round trip, for the current tenant, with errors of this package."""

from __future__ import annotations

import functools
from collections.abc import AsyncGenerator, Awaitable, Callable, Sequence
from typing import Any, Final, Protocol, TypeVar
from uuid import UUID

import asyncpg

from src.database.connect import DRIVER_ERRORS, fatal_error
from src.database.errors import CommitOutcomeUnknown, ConnectionFailed, DatabaseError, NoTenantError, SchemaDriftError
from src.database.session import TenantBinding, current_tenant
from src.database.statements import Call, Read, raise_if_missing
from src.database.store.pool import PooledConnection, StorePool
from src.database.translation import translate

RowT = TypeVar("RowT")

STREAM_BATCH: Final = 1000


class Sent(Protocol):
    """A statement as it is sent: its text, and the class of its rows."""

    @property
    def sql(self) -> str:
        """The text, with $1, $2, ... for the parameters."""

    @property
    def row(self) -> Any:
        """The class of a row."""


class Calls:
    """Sends statements over the store's connections.

    Every statement binds its own transaction to the tenant, so that no connection remembers a tenant: any connection
    serves any tenant, behind a transaction pooler too.

    Args:
        pool: The connections.
        binding: The default tenant, and the preparation of a database at its first use.
        is_pooled_elsewhere: True behind a transaction pooler, where nothing may outlive a transaction.
    """

    def __init__(self, pool: StorePool, binding: TenantBinding, *, is_pooled_elsewhere: bool = False) -> None:
        self._pool = pool
        self._binding = binding
        self._is_pooled_elsewhere = is_pooled_elsewhere
        self._is_ready = False

    @property
    def pool(self) -> StorePool:
        """The connections, for metrics."""
        return self._pool

    @property
    def tenant_id(self) -> UUID:
        """The current tenant.

        Raises:
            NoTenantError: There is no current tenant.
        """
        tenant_id = current_tenant() or self._binding.use_default_tenant()
        if tenant_id is None:
            raise NoTenantError(
                "there is no current tenant: no tenant_context is open and DATABASE_DEFAULT_TENANT is not set",
                hint="wrap the work in `with tenant_context(tenant_id):`",
            )
        return tenant_id

    async def read(self, read: Read[RowT], *values: Any) -> list[RowT]:
        """Send a read; if its connection turns out to be lost, send the read once more."""
        tenant_id = self.tenant_id
        arguments = read.arguments(tenant_id, values)
        try:
            return await self._send_on_live(tenant_id, read, arguments)
        except _Lost:
            pass
        try:
            return await self._send_on_live(tenant_id, read, arguments)
        except _Lost as lost:
            raise ConnectionFailed(str(lost.args[0]), hint=lost.hint) from lost.__cause__

    async def call(self, call: Call[RowT], *arguments: Any) -> list[RowT]:
        """Call a function, which is atomic by itself.

        Raises:
            CommitOutcomeUnknown: The connection was lost after the call was sent, before the server answered.
            ConnectionFailed: The connection was lost before that: nothing is written.
            SchemaDriftError: The database does not have the function.
        """
        tenant_id = self.tenant_id
        try:
            return await self._send_on_live(tenant_id, call, (tenant_id, *arguments))
        except _Lost as lost:
            if not lost.may_be_written:
                raise ConnectionFailed(str(lost.args[0]), hint=lost.hint) from lost.__cause__
            raise CommitOutcomeUnknown(
                "the connection was lost before the server answered; whether the call was executed is not known",
                hint="call again with the same arguments: a message that is already stored is not stored a second time."
                " But a second `fork` without a session_id makes a second copy, and a second `pop` without last_seq"
                " deletes further messages",
            ) from lost.__cause__
        except SchemaDriftError as error:
            raise_if_missing(call, error)
            raise

    async def _send_on_live(self, tenant_id: UUID, statement: Sent, arguments: Sequence[Any]) -> list[Any]:
        """Take connections until one accepts the statement.

        The driver of a connection that the server has ended may not have read the end yet.
        """
        while True:
            pooled = await self._pool.take()
            try:
                return await self._send(pooled, tenant_id, statement, arguments)
            except _NotSentError:
                continue

    async def stream(self, read: Read[RowT], *values: Any) -> AsyncGenerator[list[RowT], None]:
        """Send a read in a transaction of its own, and yield its rows in batches. All rows are of one state."""
        tenant_id = self.tenant_id
        pooled = await self._pool.take()
        connection, is_done, limit = pooled.connection, False, self._pool.time_limit
        try:
            await self._prepare(pooled)
            with limit.apply():
                await connection.execute(self._binding.as_script(tenant_id, read_only=True))
            with limit.apply():
                fetch = await self._open_cursor(connection, read, read.arguments(tenant_id, values))
            while True:
                with limit.apply():
                    rows = await fetch()
                if not rows:
                    break
                yield rows
            with limit.apply():
                await connection.execute("COMMIT")  # after an error nothing is sent: the limit would run once more
            is_done = True
        except DRIVER_ERRORS as error:
            ended_by = fatal_error(connection, error)
            raise translate(ended_by or error, read.sql) or ConnectionFailed("the connection was lost") from error
        finally:
            if is_done:
                self._pool.release(pooled)
            else:
                self._pool.discard(pooled)

    async def _open_cursor(
        self, connection: asyncpg.Connection[Any], read: Read[RowT], arguments: Sequence[Any]
    ) -> Callable[[], Awaitable[list[RowT]]]:
        """Open a cursor in the connection's transaction, and return the function that fetches its next rows."""
        if not self._is_pooled_elsewhere:
            cursor = await connection.cursor(read.sql, *arguments, record_class=read.row)
            return functools.partial(cursor.fetch, STREAM_BATCH)
        # The driver's cursor needs a named prepared statement, which would stay on the pooler's server connection.
        await connection.execute(f"DECLARE rows NO SCROLL CURSOR FOR {read.sql}", *arguments)
        return functools.partial(connection.fetch, f"FETCH {STREAM_BATCH} FROM rows", record_class=read.row)

    async def _prepare(self, pooled: PooledConnection) -> None:
        """Check the schema once, and register the default tenant, as a session does."""
        if not self._is_ready:
            with self._pool.time_limit.apply():
                self._is_ready = await self._binding.prepare(pooled.connection)

    async def _send(
        self, pooled: PooledConnection, tenant_id: UUID, statement: Sent, arguments: Sequence[Any]
    ) -> list[Any]:
        connection = pooled.connection
        sent_before: int | None = None
        try:
            if not self._is_ready:
                await self._prepare(pooled)
            sent_before = connection.statements_sent
            with self._pool.time_limit.apply():
                rows: list[Any] = await connection.fetch(statement.sql, *arguments, record_class=statement.row)
        except asyncpg.PostgresError as error:  # the server's answer: the connection is as it was before
            is_lost = connection.is_closed() or connection.is_in_transaction()
            (self._pool.discard if is_lost else self._pool.release)(pooled)
            answered = translate(error, statement.sql) or DatabaseError("the server refused the statement")
            if not isinstance(answered, ConnectionFailed):
                raise answered from error
            is_sent = _has_sent(connection, sent_before)
            raise _Lost(str(answered.args[0]), may_be_written=is_sent, hint=answered.hint) from error
        except BaseException as error:  # a cancelled statement costs its connection, which may still be busy with it
            self._pool.discard(pooled)
            if _is_refused_by_the_driver(error):
                raise _NotSentError from error
            if not isinstance(error, DRIVER_ERRORS):
                raise
            is_sent = _has_sent(connection, sent_before)
            if isinstance(error, TimeoutError):
                message, hint = "the server has not answered in time", "check the network and the server"
                raise _Lost(message, may_be_written=is_sent, hint=hint) from error
            raise _Lost("the connection was lost", may_be_written=is_sent) from error
        self._pool.release(pooled)
        return rows


class _Lost(ConnectionFailed):
    """The connection was lost during a call.

    Args:
        message: What happened.
        may_be_written: True if the server may have carried out and committed the statement.
        hint: The remedy.
    """

    def __init__(self, message: str, *, may_be_written: bool, hint: str | None = None) -> None:
        super().__init__(message, hint=hint)
        self.may_be_written = may_be_written


class _NotSentError(Exception):
    """The connection was closed before the statement was sent on it."""


def _is_refused_by_the_driver(error: BaseException) -> bool:
    """Return True if the driver has sent nothing, because the server has announced the end of the connection."""
    return isinstance(error, asyncpg.InternalClientError) and str(error).startswith("cannot switch to state")


def _has_sent(connection: Any, sent_before: int | None) -> bool:
    """Return True if the driver has sent the statement; the count is None if the preparation was not complete."""
    return sent_before is not None and connection.statements_sent > sent_before and not connection.is_introspecting
