"""How a statement of the store is sent: in one round trip, as the tenant who acts, and its errors in our own words."""

from __future__ import annotations

import functools
from collections.abc import AsyncGenerator, Awaitable, Callable, Sequence
from typing import Any, Final, TypeVar
from uuid import UUID

import asyncpg

from src.database.binding import TenantBinding
from src.database.connect import DRIVER_ERRORS
from src.database.connect.last_words import fatal_error
from src.database.errors import CommitOutcomeUnknown, ConnectionFailed, DatabaseError, NoTenantError
from src.database.store.pool import Slot, StorePool
from src.database.store.statement import Statement
from src.database.tenancy import current_tenant
from src.database.translation import translate

__all__ = ["Calls"]

RowT = TypeVar("RowT")

STREAM_BATCH: Final = 1000
# The statements are few, long and alike: planned once, they cost a fraction.
_BIND: Final = (
    "SELECT set_config('app.tenant_id', $1, false), set_config('plan_cache_mode', 'force_generic_plan', false)"
)


class Calls:
    """Sends statements over the store's connections.

    A connection keeps its tenant from call to call: no caller's own SQL ever runs on it, so nothing can change it
    unseen. Behind PgBouncer, where the next transaction may have another server, each one is bound anew.

    Args:
        pool: The connections.
        binding: Who acts where no tenant is named, and what each transaction needs.
        per_transaction: Bind each call by itself.
    """

    def __init__(self, pool: StorePool, binding: TenantBinding, *, per_transaction: bool = False) -> None:
        self._pool = pool
        self._binding = binding
        self._per_transaction = per_transaction
        self._is_ready = False

    @property
    def pool(self) -> StorePool:
        """Its connections, for whoever counts them."""
        return self._pool

    def _tenant(self) -> UUID:
        """Return who acts.

        Raises:
            NoTenantError: Nobody does.
        """
        tenant_id = current_tenant() or self._binding.use_default_tenant()
        if tenant_id is None:
            raise NoTenantError(
                "no tenant acts: there is no tenant_context and DATABASE_DEFAULT_TENANT is not set",
                hint="wrap the work in `with tenant_context(tenant_id):`",
            )
        return tenant_id

    async def _read(self, statement: Statement[RowT], *values: Any) -> list[RowT]:
        """Send a statement that writes nothing; once more where its connection turns out to be lost."""
        tenant_id = self._tenant()
        arguments = statement.arrange((tenant_id, *values))
        try:
            return await self._send_on_a_sound_one(tenant_id, statement, arguments)
        except _Lost:
            pass
        try:
            return await self._send_on_a_sound_one(tenant_id, statement, arguments)
        except _Lost as lost:
            raise ConnectionFailed(str(lost.args[0]), hint=lost.hint) from lost.__cause__

    async def _write(self, statement: Statement[RowT], *values: Any) -> list[RowT]:
        """Send a statement that writes, atomically by itself.

        Raises:
            CommitOutcomeUnknown: The connection was lost after the statement was sent, before the server answered.
            ConnectionFailed: It was lost before that: nothing is written.
        """
        tenant_id = self._tenant()
        arguments = statement.arrange((tenant_id, *values))
        try:
            return await self._send_on_a_sound_one(tenant_id, statement, arguments)
        except _Lost as lost:
            if not lost.may_be_written:
                raise ConnectionFailed(str(lost.args[0]), hint=lost.hint) from lost.__cause__
            raise CommitOutcomeUnknown(
                "the connection was lost before the server answered; whether this was written is not known",
                hint="send it again under the same message_id: what was written is then a duplicate",
            ) from lost.__cause__

    async def _send_on_a_sound_one(
        self, tenant_id: UUID, statement: Statement[RowT], arguments: Sequence[Any]
    ) -> list[RowT]:
        """Take connections until one takes the statement: those that the server has ended may not know of it yet."""
        while True:
            slot = await self._pool.take(tenant_id)
            try:
                return await self._send(slot, tenant_id, statement, arguments)
            except _NotSentError:
                continue

    async def _stream(self, statement: Statement[RowT], *values: Any) -> AsyncGenerator[list[RowT], None]:
        """Send a statement that writes nothing, and hand its rows out some at a time, all of one state."""
        tenant_id = self._tenant()
        slot = await self._pool.take(tenant_id)
        connection, is_done = slot.connection, False
        try:
            if slot.bound_to != tenant_id:
                await self._bind(slot, tenant_id)
            if not self._per_transaction:  # else the binding has begun it
                await connection.execute("BEGIN READ ONLY")
            fetch = await self._open_cursor(connection, statement, statement.arrange((tenant_id, *values)))
            while rows := await fetch():
                yield rows
            await connection.execute("COMMIT")  # after an error nothing is sent: the limit would run once more
            is_done = True
        except DRIVER_ERRORS as error:
            ended_by = fatal_error(connection, error)
            raise translate(ended_by or error, statement.sql) or ConnectionFailed("the connection was lost") from error
        finally:
            if is_done:
                self._pool.give_back(slot)
            else:
                self._pool.discard(slot)

    async def _open_cursor(
        self, connection: asyncpg.Connection[Any], statement: Statement[RowT], arguments: Sequence[Any]
    ) -> Callable[[], Awaitable[list[RowT]]]:
        """Open a cursor in the connection's transaction, and return the function that fetches its next rows."""
        if not self._per_transaction:
            cursor = await connection.cursor(statement.sql, *arguments, record_class=statement.row)
            return functools.partial(cursor.fetch, STREAM_BATCH)
        # The driver's cursor needs a named prepared statement, which would stay on the pooler's server connection.
        await connection.execute(f"DECLARE rows NO SCROLL CURSOR FOR {statement.sql}", *arguments)
        return functools.partial(connection.fetch, f"FETCH {STREAM_BATCH} FROM rows", record_class=statement.row)

    async def _prepare(self, slot: Slot) -> None:
        """Look at the schema once, and enter the default tenant in the registry, as a session does."""
        if not self._is_ready:
            self._is_ready = await self._binding.prepare(slot.connection)

    async def _send(
        self, slot: Slot, tenant_id: UUID, statement: Statement[RowT], arguments: Sequence[Any]
    ) -> list[RowT]:
        connection, is_answered, is_committing = slot.connection, False, False
        protocol, sent_before = connection._protocol, None  # noqa: SLF001 - it counts what it sends, without preparing
        try:
            if slot.bound_to != tenant_id:
                await self._bind(slot, tenant_id)
            sent_before = None if protocol is None else protocol.queries_count
            rows: list[RowT] = await connection.fetch(statement.sql, *arguments, record_class=statement.row)
            is_answered = True
            if self._per_transaction:
                is_committing = not connection.is_closed()
                await connection.execute("COMMIT")
                slot.bound_to = None
        except asyncpg.PostgresError as error:  # the server's answer: the connection is as it was before
            is_lost = connection.is_closed() or connection.is_in_transaction()
            (self._pool.discard if is_lost else self._pool.give_back)(slot)
            answered = translate(error, statement.sql) or DatabaseError("the server refused the statement")
            if not isinstance(answered, ConnectionFailed):
                raise answered from error
            is_sent = is_committing if self._per_transaction else _has_sent(connection, protocol, sent_before)
            raise _Lost(str(answered.args[0]), may_be_written=is_sent, hint=answered.hint) from error
        except BaseException as error:  # a cancelled statement costs its connection: nobody knows what it still does
            self._pool.discard(slot)
            if _is_refused_by_the_driver(error) and not is_answered:
                raise _NotSentError from error
            if not isinstance(error, DRIVER_ERRORS):
                raise
            # A transaction that is not committed is rolled back with its connection.
            is_sent = is_committing if self._per_transaction else _has_sent(connection, protocol, sent_before)
            if isinstance(error, TimeoutError):
                message, hint = "the server has not answered in time", "check the network and the server"
                raise _Lost(message, may_be_written=is_sent, hint=hint) from error
            raise _Lost("the connection was lost", may_be_written=is_sent) from error
        self._pool.give_back(slot)
        return rows

    async def _bind(self, slot: Slot, tenant_id: UUID) -> None:
        """Bind a connection; who it belongs to is known only once the server has said so."""
        slot.bound_to = None
        await self._prepare(slot)
        if self._per_transaction:
            await slot.connection.execute(self._binding.as_script(tenant_id))
            return
        await slot.connection.fetchval(_BIND, str(tenant_id))
        slot.bound_to = tenant_id


class _Lost(ConnectionFailed):
    """The connection broke under a call.

    Args:
        message: What happened.
        may_be_written: True if the server may have carried out and committed the statement.
        hint: The remedy.
    """

    def __init__(self, message: str, *, may_be_written: bool, hint: str | None = None) -> None:
        super().__init__(message, hint=hint)
        self.may_be_written = may_be_written


class _NotSentError(Exception):
    """The connection was done with before the statement was sent on it."""


def _is_refused_by_the_driver(error: BaseException) -> bool:
    """Say whether the driver has sent nothing: it was told that the server ends the connection, and waits for that."""
    return isinstance(error, asyncpg.InternalClientError) and str(error).startswith("cannot switch to state")


def _has_sent(connection: Any, protocol: Any, sent_before: int | None) -> bool:
    """Return True if the driver has sent the statement; the count is None where the connection was not bound yet."""
    return sent_before is not None and protocol.queries_count > sent_before and not connection.is_introspecting
