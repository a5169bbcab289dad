"""The fast path: send compiled statements on a session's connection without SQLAlchemy's execution.

Transactions, the tenant, listeners and errors are those of SQLAlchemy's execution. SQLAlchemy sends a statement itself
wherever it would do more than send it: with foreign listeners, with echo, or with a setting that turns the path off.
"""

from __future__ import annotations

import logging
from collections.abc import AsyncGenerator, Awaitable, Callable, Mapping, Sequence
from functools import cached_property, partial
from typing import Any, Final, Generic, Protocol, TypeVar

from sqlalchemy import Connection, Executable, Select
from sqlalchemy.util import greenlet_spawn

from src.database.base import TenantBase
from src.database.connect import PgBouncerConnection
from src.database.engine import (
    has_fast_path,
    has_foreign_listener,
    notify_answered,
    notify_sent,
    raise_as_sqlalchemy,
    reconnect,
    state_of,
    statement_lock,
)
from src.database.errors import ConnectionFailed, DatabaseError, SchemaChangedError
from src.database.session import AsyncSession, ReadSession, ReadTenantSession, TenantSession
from src.database.statements.compiled import DriverStatement, compile_cached, compile_statement
from src.database.statements.entities import entities_of
from src.database.statements.fence import TENANT

_UNKNOWN_ROWCOUNT: Final = -1
"""The `rowcount` of a cursor (PEP 249) whose rows are still to be fetched."""

ModelT = TypeVar("ModelT", bound=TenantBase)
ValueT = TypeVar("ValueT")


class SentAsText(Protocol):
    """A statement as text for the driver."""

    @property
    def sql(self) -> str:
        """The text, with $1, $2, ... for the parameters."""

    @property
    def may_write(self) -> bool:
        """True if the transaction may have changes to commit afterwards."""


class CompiledStatement(Generic[ModelT]):
    """A statement that is built once and compiled at its first use.

    Args:
        statement: A `select(model)`, or a statement with `.returning(model)`. Its values are `bindparam`s, of which
            `TENANT` is the session's tenant.
        model: The mapped class.
    """

    def __init__(self, statement: Executable, model: type[ModelT]) -> None:
        self._statement = statement
        self._model = model

    @cached_property
    def _compiled(self) -> DriverStatement | None:
        return compile_statement(self._statement, self._model)

    async def rows(self, session: AsyncSession, *, refresh: bool = False, **values: Any) -> list[ModelT]:
        """Execute the statement with these values and return entities, as `fetch_entities` does."""
        if (sent := await self._send(session, values)) is None:
            return await _by_sqlalchemy(session, self._statement, values, refresh=refresh)
        return _loaded(session, *sent, refresh=refresh)

    async def tuples(self, session: AsyncSession, *, refresh: bool = False, **values: Any) -> list[tuple[Any, ...]]:
        """Execute a select of the model and more columns; return each row as a tuple that begins with the entity."""
        if (sent := await self._send(session, values)) is None:
            options = _options(refresh=refresh)
            return [tuple(row) for row in await session.execute(self._statement, values, execution_options=options)]
        compiled, records = sent
        entities = _loaded(session, compiled, records, refresh=refresh)
        width = len(entities_of(self._model).columns)
        return [(entity, *record[width:]) for entity, record in zip(entities, records, strict=True)]

    async def _send(self, session: AsyncSession, values: dict[str, Any]) -> tuple[DriverStatement, list[Any]] | None:
        """Send the statement with the values and the tenant; return None if SQLAlchemy has to send it."""
        values[TENANT] = session.tenant_id
        if _needs_sqlalchemy(session.sync_session) or (compiled := self._compiled) is None:
            return None
        records = await _send_compiled(session, compiled, lambda form: form.named_arguments(values), autocommit=True)
        return None if records is None else (compiled, records)

    async def first(self, session: AsyncSession, *, refresh: bool = False, **values: Any) -> ModelT | None:
        """Execute the statement, and return the first entity, or None if there is none."""
        found = await self.rows(session, refresh=refresh, **values)
        return found[0] if found else None


async def fetch_entities(
    session: AsyncSession, statement: Executable, model: type[Any], *, refresh: bool = False
) -> list[Any]:
    """Execute a statement in the session's transaction, and return the session's entities of its rows.

    Args:
        session: The session.
        statement: A `select(model)`, or an insert or update with `.returning(model)`.
        model: The mapped class.
        refresh: Set all attributes of an entity that the session has already; else only expired ones.
    """
    if (sent := await _send_cached(session, statement, model)) is None:
        return await _by_sqlalchemy(session, statement, {}, refresh=refresh)
    return _loaded(session, *sent, refresh=refresh)


async def stream_entities(
    session: AsyncSession, statement: Select[Any], model: type[ModelT], *, batch: int, options: Sequence[Any] = ()
) -> AsyncGenerator[list[ModelT], None]:
    """Send a select in the session's transaction, and yield its entities as they arrive, all of one state.

    The loader of SQLAlchemy takes more than twice the time of a row with JSON columns that this package's takes.

    Args:
        session: The session. A read session begins a snapshot, which lasts until the session ends.
        statement: A select of the model's rows.
        model: The mapped class.
        batch: The number of rows that are fetched at a time, and of the entities in each list but the last.
        options: SQLAlchemy's loader options; SQLAlchemy sends a statement that has any.

    Raises:
        DatabaseError: The transaction ended before the last row was read.
    """
    opened = None if options else await _open_cursor(session, statement, model)
    if opened is None:
        results = await session.stream_scalars(statement.options(*options).execution_options(yield_per=batch))
        async for part in results.partitions():
            yield list(part)
        return
    compiled, connection, cursor = opened
    while True:
        with session.sync_session.use:
            if session.sync_session.connection_in_use is not connection:
                raise DatabaseError(
                    "the transaction of a stream ended before the last row was read",
                    hint="commit or roll back after the stream, or use another session for other work",
                )
            fetched = await _drive(connection, compiled.sql, partial(cursor.fetch, batch))
            entities = _loaded(session, compiled, fetched, refresh=False)
        if not entities:
            break
        yield entities


async def _open_cursor(
    session: AsyncSession, statement: Select[Any], model: type[Any]
) -> tuple[DriverStatement, Connection, Any] | None:
    """Open a cursor of the driver in the session's transaction; return None if SQLAlchemy has to send the statement."""
    if _needs_sqlalchemy(session.sync_session) or (cached := compile_cached(statement, model)) is None:
        return None
    compiled, bound = cached
    sql, values = compiled.sql, compiled.arguments(bound)
    if isinstance(session, ReadSession):
        await session.begin_stream()
    with session.sync_session.use:
        connection = await _connection(session)
        if connection is None or not _is_in_transaction(connection):
            return None
        driver = _adapter(connection).driver_connection
        # The driver's cursor would leave its prepared statement on a server connection of PgBouncer. Not isinstance():
        # the driver's metaclass answers True for every connection.
        if type(driver) is PgBouncerConnection:
            return None
        notify_sent(connection, sql, values)
        try:
            cursor = await _drive(connection, sql, partial(_cursor, driver, sql, values))
        except SchemaChangedError:
            if not isinstance(session, ReadSession):
                raise
            await session.rollback()  # no row has been read yet: SQLAlchemy begins another snapshot
            return None
        # Now, as SQLAlchemy does: the reader may leave the stream, or send other statements before its end.
        notify_answered(connection, sql, values, _UNKNOWN_ROWCOUNT)
        return compiled, connection, cursor


async def _cursor(driver: Any, sql: str, values: Sequence[Any]) -> Any:
    return await driver.cursor(sql, *values)


async def fetch_value(session: AsyncSession, statement: Select[ValueT]) -> ValueT:
    """Execute a select of one row with one value that needs no conversion, such as a count, and return the value.

    A read session sends it in one round trip, as `fetch_entities` does.
    """
    if (sent := await _send_cached(session, statement, None)) is None:
        return (await session.scalars(statement)).one()
    value: ValueT = sent[1][0][0]
    return value


async def records(session: AsyncSession, statement: SentAsText, values: Sequence[Any]) -> list[Any]:
    """Send a statement with positional parameters in the session's transaction, and return the rows as sequences.

    SQLAlchemy sends the statement if its events have foreign listeners.
    """
    with session.sync_session.use:
        connection = await _connection(session)
        if connection is not None:
            return await _fetch(connection, statement, values)
        if session.sync_session.has_changes():
            await session.flush()
        result = await (await session.connection()).exec_driver_sql(statement.sql, tuple(values))
        return list(result.fetchall())


def _loaded(session: AsyncSession, compiled: DriverStatement, records: Sequence[Any], *, refresh: bool) -> list[Any]:
    sync = session.sync_session
    assert compiled.entities is not None  # noqa: S101 - it was compiled for a model
    return compiled.entities.load(sync, records, refresh=refresh or sync.always_refreshes)


async def _by_sqlalchemy(
    session: AsyncSession, statement: Executable, values: Mapping[str, Any], *, refresh: bool
) -> list[Any]:
    options = _options(refresh=refresh)
    return list((await session.scalars(statement, values or None, execution_options=options)).unique())


def _options(*, refresh: bool) -> dict[str, Any]:
    return {"populate_existing": True, "synchronize_session": False} if refresh else {}


async def _send_cached(
    session: AsyncSession, statement: Executable, model: type[Any] | None
) -> tuple[DriverStatement, list[Any]] | None:
    """Send a caller's statement; return its compiled form and the records, or None if SQLAlchemy has to send it."""
    if _needs_sqlalchemy(session.sync_session) or (cached := compile_cached(statement, model)) is None:
        return None
    compiled, bound = cached
    autocommit = not compiled.may_write  # a caller's condition may call a function that writes
    records = await _send_compiled(session, compiled, lambda form: form.arguments(bound), autocommit=autocommit)
    return None if records is None else (compiled, records)


async def _send_compiled(
    session: AsyncSession,
    compiled: DriverStatement,
    arguments: Callable[[DriverStatement], list[Any]],
    *,
    autocommit: bool,
) -> list[Any] | None:
    """Send a statement and return its records; return None if SQLAlchemy has to send it.

    Args:
        session: The session.
        compiled: The statement, in the form for a transaction.
        arguments: Returns the arguments of a form of the statement, in a transaction or with a fence.
        autocommit: True if a read session may send the statement outside of a transaction.

    Raises:
        SessionInUse: Another task uses the session.
    """
    with session.sync_session.use:
        if (
            autocommit
            and isinstance(session.sync_session, ReadTenantSession)
            and (fenced := compiled.fenced) is not None
        ):
            free = await _autocommit_connection(session.sync_session)
            if free is not None:
                return await _read_in_autocommit(free, fenced, arguments(fenced))
        connection = await _connection(session)
        if connection is None:
            return None
        try:
            return await _fetch(connection, compiled, arguments(compiled))
        except SchemaChangedError:
            if state_of(connection).begun_with is None:
                raise
            return None  # the transaction has sent no other statement: SQLAlchemy begins it again


async def _autocommit_connection(sync: ReadTenantSession) -> Connection | None:
    """Return a read session's connection for a fenced statement; return None if the statement needs a transaction."""
    if not sync.reads_in_autocommit or _needs_sqlalchemy(sync) or (sync.autoflush and sync.has_changes()):
        return None
    connection = sync.connection_in_use
    if connection is None:
        connection = await greenlet_spawn(sync.check_out)
    return connection if _can_be_bypassed(connection) and not _is_in_transaction(connection) else None


async def _read_in_autocommit(connection: Connection, fenced: DriverStatement, values: Sequence[Any]) -> list[Any]:
    """Send a read outside of a transaction, and a second time on a new connection if the connection is lost.

    After a timeout the read is not sent again: the server may still execute it.
    """
    try:
        return await _fetch(connection, fenced, values)
    except ConnectionFailed as error:
        if not connection.invalidated or isinstance(error.__cause__, TimeoutError):
            raise
    await greenlet_spawn(reconnect, connection)
    return await _fetch(connection, fenced, values)


async def _connection(session: AsyncSession) -> Connection | None:
    """Flush pending changes and return the connection of the session's transaction; None if SQLAlchemy has to send."""
    sync = session.sync_session
    if _needs_sqlalchemy(sync):
        return None
    if sync.autoflush and sync.has_changes():
        await session.flush()
    connection = sync.bound_connection()
    if connection is None:
        connection = await greenlet_spawn(sync.open_connection)
    if not _can_be_bypassed(connection) or state_of(connection).is_aborted:
        return None
    return connection if _is_in_transaction(connection) or _adapter(connection).autocommit else None


def _needs_sqlalchemy(session: TenantSession) -> bool:
    """Return True if SQLAlchemy has to send the session's statements: by a setting, a failed flush or a listener."""
    return not has_fast_path(session.bind) or not session.is_active or len(session.dispatch.do_orm_execute) > 1


def _can_be_bypassed(connection: Connection) -> bool:
    """Return True if SQLAlchemy would only send a statement on this connection."""
    is_echoed = connection.engine.logger.isEnabledFor(logging.INFO)
    return not (connection.invalidated or is_echoed or has_foreign_listener(connection))


def _is_in_transaction(connection: Connection) -> bool:
    return bool(_adapter(connection).driver_connection.is_in_transaction())


def _adapter(connection: Connection) -> Any:
    return connection.connection.dbapi_connection


async def _fetch(connection: Connection, statement: SentAsText, values: Sequence[Any]) -> list[Any]:
    if statement.may_write:
        state_of(connection).wrote()
    notify_sent(connection, statement.sql, values)
    fetch = partial(_adapter(connection).driver_connection.fetch, statement.sql, *values)
    records: list[Any] = await _drive(connection, statement.sql, fetch)
    notify_answered(connection, statement.sql, values, len(records))
    return records


async def _drive(connection: Connection, sql: str, work: Callable[[], Awaitable[ValueT]]) -> ValueT:
    """Await work on the driver's connection and translate its errors.

    The lock is the one that SQLAlchemy's adapter takes for each statement. Without it, asyncpg raises InterfaceError if
    two tasks use the connection.
    """
    try:
        async with statement_lock(_adapter(connection)):
            return await work()
    except BaseException as error:
        await greenlet_spawn(raise_as_sqlalchemy, connection, sql, error)
        raise
