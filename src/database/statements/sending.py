"""A statement sent on the session's own connection: inside its transaction, as its tenant, and errors as always."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from functools import cached_property
from typing import Any, Generic, Protocol, TypeVar

from sqlalchemy import Connection, Executable
from sqlalchemy.util import greenlet_spawn

from src.database.base import TenantBase
from src.database.engine.commits import note_write, reconnect
from src.database.engine.events import somebody_else_hears, tell_answered, tell_sent
from src.database.engine.sqlalchemy_internals import raise_as_sqlalchemy, statement_lock
from src.database.errors import ConnectionFailed
from src.database.session import AsyncSession, TenantSession
from src.database.statements.compiled import Ready, compile_once, ready

__all__ = ["Prepared", "SentAsText", "records", "rows"]

ModelT = TypeVar("ModelT", bound=TenantBase)


class SentAsText(Protocol):
    """A statement as the driver takes it: its text, and whether it may write."""

    @property
    def sql(self) -> str:
        """The text, with $1, $2, ... for the parameters."""

    @property
    def may_write(self) -> bool:
        """Whether the transaction may have something to commit afterwards."""


class Prepared(Generic[ModelT]):
    """A statement that is built and compiled once.

    Args:
        statement: What varies in it is a `bindparam`; the one called `acting_tenant` is filled in.
        model: What it gives: `select(model)` or `.returning(model)`.
    """

    def __init__(self, statement: Executable, model: type[ModelT]) -> None:
        self._statement = statement
        self._model = model

    @cached_property
    def _ready(self) -> Ready | None:
        return compile_once(self._statement, self._model)

    async def rows(self, session: AsyncSession, *, refresh: bool = False, **values: Any) -> list[ModelT]:
        """Execute it; as the function `rows` does."""
        values["acting_tenant"] = session.tenant_id
        if (sent := await self._send(session, values)) is None:
            return await _by_sqlalchemy(session, self._statement, values, refresh=refresh)
        return _loaded(session, *sent, refresh=refresh)

    async def tuples(self, session: AsyncSession, *, refresh: bool = False, **values: Any) -> list[tuple[Any, ...]]:
        """Execute a select that gives more than its model, and return each row with that."""
        values["acting_tenant"] = session.tenant_id
        if (sent := await self._send(session, values)) is None:
            options = _options(refresh=refresh)
            return [tuple(row) for row in await session.execute(self._statement, values, execution_options=options)]
        prepared, records = sent
        entities, width = _loaded(session, prepared, records, refresh=refresh), len(prepared.entities.columns)
        return [(entity, *record[width:]) for entity, record in zip(entities, records, strict=True)]

    async def _send(self, session: AsyncSession, values: Mapping[str, Any]) -> tuple[Ready, list[Any]] | None:
        """Send it; None: SQLAlchemy has to."""
        if (prepared := self._ready) is None:
            return None
        records = await _sent(session, prepared, prepared.named_arguments(values))
        return None if records is None else (prepared, records)

    async def first(self, session: AsyncSession, *, refresh: bool = False, **values: Any) -> ModelT | None:
        """Execute it, and return the first row, or None."""
        found = await self.rows(session, refresh=refresh, **values)
        return found[0] if found else None


async def rows(session: AsyncSession, statement: Executable, model: type[Any], *, refresh: bool = False) -> list[Any]:
    """Execute a statement that gives the rows of one model, and return them as the session's.

    What SQLAlchemy does on the way for every kind of statement is left out: it is sent by the driver itself. Where
    somebody listens to SQLAlchemy's statements, or the statement is of another kind, SQLAlchemy sends it.

    Args:
        session: In whose transaction.
        statement: A select, an insert or an update.
        model: What it gives: `select(model)` or `.returning(model)`.
        refresh: A row that the session has already becomes as it is now.
    """
    session.sync_session.note_callers_sql()  # its conditions may be
    made = ready(statement, model)
    if made is not None and (found := await _sent(session, *made)) is not None:
        return _loaded(session, made[0], found, refresh=refresh)
    return await _by_sqlalchemy(session, statement, {}, refresh=refresh)


async def records(session: AsyncSession, statement: SentAsText, values: Sequence[Any]) -> list[Any]:
    """Send a statement with positional parameters in the session's transaction, and return the rows as sequences.

    The driver sends it; SQLAlchemy does if somebody listens to its statements.
    """
    if (found := await _sent(session, statement, values)) is not None:
        return found
    if session.sync_session.has_changes():
        await session.flush()
    result = await (await session.connection()).exec_driver_sql(statement.sql, tuple(values))
    return list(result.fetchall())


def _loaded(session: AsyncSession, prepared: Ready, records: Sequence[Any], *, refresh: bool) -> list[Any]:
    sync = session.sync_session
    return prepared.entities.load(sync, records, refresh=refresh or sync.always_refreshes)


async def _by_sqlalchemy(
    session: AsyncSession, statement: Executable, values: Mapping[str, Any], *, refresh: bool
) -> list[Any]:
    options = _options(refresh=refresh)
    return list((await session.scalars(statement, values or None, execution_options=options)).unique())


def _options(*, refresh: bool) -> dict[str, Any]:
    return {"populate_existing": True, "synchronize_session": False} if refresh else {}


async def _sent(session: AsyncSession, statement: SentAsText, values: Sequence[Any]) -> list[Any] | None:
    """Send a statement while no other task uses the session, and return the records; None: SQLAlchemy has to send it.

    Raises:
        SessionInUse: Another task uses the session.
    """
    with session.sync_session.use:
        connection = await _connection(session)
        return None if connection is None else await _fetch(session, connection, statement, values)


async def _connection(session: AsyncSession) -> Connection | None:
    """Return the connection to send on, with what is pending sent already; None: SQLAlchemy has more to do."""
    sync = session.sync_session
    if not sync.is_active or len(sync.dispatch.do_orm_execute) > sync.own_hooks:
        return None
    if sync.autoflush and sync.has_changes():
        await session.flush()
    connection = sync.bound_connection()
    if connection is None:
        connection = await greenlet_spawn(sync.open_connection)
    return connection if _can_be_bypassed(connection) else None


def _can_be_bypassed(connection: Connection) -> bool:
    """Say whether SQLAlchemy would do nothing with a statement but send it in the transaction that is open."""
    if connection.invalidated or connection.engine.logger.isEnabledFor(logging.INFO):
        return False
    if somebody_else_hears(connection):
        return False
    adapter: Any = connection.connection.dbapi_connection
    return bool(adapter.autocommit or adapter.driver_connection.is_in_transaction())


async def _fetch(
    session: AsyncSession, connection: Connection, prepared: SentAsText, values: Sequence[Any]
) -> list[Any]:
    """Send it; outside of a transaction, where nothing is written, once more if the connection turns out to be lost."""
    adapter: Any = connection.connection.dbapi_connection
    is_alone = adapter.autocommit
    try:
        return await _send(connection, prepared, values)
    except ConnectionFailed as error:
        if not (is_alone and connection.invalidated) or isinstance(error.__cause__, TimeoutError):
            raise
    await greenlet_spawn(_reconnect, session.sync_session, connection)
    return await _send(connection, prepared, values)


def _reconnect(session: TenantSession, connection: Connection) -> None:
    """Replace a lost connection. The pool binds the new one to the context's tenant, so bind it to the session's."""
    reconnect(connection)
    session.begin_on(connection)


async def _send(connection: Connection, prepared: SentAsText, values: Sequence[Any]) -> list[Any]:
    adapter: Any = connection.connection.dbapi_connection
    if prepared.may_write:
        note_write(connection)
    tell_sent(connection, prepared.sql, values)
    try:
        async with statement_lock(adapter):
            records: list[Any] = await adapter.driver_connection.fetch(prepared.sql, *values)
    except BaseException as error:
        await greenlet_spawn(raise_as_sqlalchemy, connection, prepared.sql, error)
        raise
    tell_answered(connection, prepared.sql, values, len(records))
    return records
