"""From the events of SQLAlchemy's engines, pools and sessions to the events of observers."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from typing import Any, Final
from weakref import WeakKeyDictionary

from sqlalchemy import Connection, ExceptionContext, PoolProxiedConnection, event
from sqlalchemy.exc import DisconnectionError
from sqlalchemy.orm import Session, SessionTransaction

from src.database.engine import SizedPool, listen_to_statements
from src.database.observability.observers import Call, PoolState, Source, TenantsSession, Unit

_UNIT: Final = "thea_unit"
"""The key in a session's `info` while its transaction is open."""
_units: Final[WeakKeyDictionary[Connection, Unit]] = WeakKeyDictionary()
"""The unit of work of each connection: the events of a statement have its connection and not its session."""


def observe_engine(source: Source) -> None:
    """Register listeners for those events of a source's engine that its observers implement."""
    engine = source.engine.sync_engine
    if source.has_listener("sent", "answered", "failed", "began", "ended"):
        observe_sessions()
        sent: WeakKeyDictionary[Connection, Call] = WeakKeyDictionary()

        def send(connection: Connection, _cursor: Any, sql: str, values: Any, _context: Any, _many: bool) -> None:
            unit = _units.get(connection)
            if unit is not None and unit.is_over:  # the connection is used again, outside of a session
                unit = None
            elif unit is not None and unit.source is None:
                unit.source = source
                source.notify("began", unit)
            call = sent[connection] = Call(source, sql, values, unit)
            source.notify("sent", call)

        def answer(connection: Connection, cursor: Any, *_of_the_statement: Any) -> None:
            if (call := sent.pop(connection, None)) is not None:
                call.end(rows=cursor.rowcount if cursor.rowcount >= 0 else None)

        def fail(context: ExceptionContext) -> None:
            error = getattr(context, "chained_exception", None) or context.original_exception
            call = None if context.connection is None else sent.pop(context.connection, None)
            if call is not None:
                call.end(error=error)
            else:
                source.notify("failed", source, error)

        listen_to_statements(engine, "before_cursor_execute", send)
        listen_to_statements(engine, "after_cursor_execute", answer)
        event.listen(engine, "handle_error", fail)  # registered after the translation: it sees translated errors
    _observe_connections(source)


def _observe_connections(source: Source) -> None:
    engine = source.engine.sync_engine
    if source.has_listener("opened"):
        event.listen(engine, "connect", lambda opened, _: source.notify("opened", source, opened.driver_connection))
    if source.has_listener("dropped"):
        event.listen(
            engine, "invalidate", lambda dropped, _, error: source.notify("dropped", source, _reason(dropped, error))
        )
    if isinstance(pool := source.engine.pool, SizedPool) and source.has_listener("took", "failed", "joined"):
        _observe_pool(source, pool)


def _observe_pool(source: Source, pool: SizedPool) -> None:
    waiting = 0

    def take(connect: Callable[[], PoolProxiedConnection]) -> PoolProxiedConnection:
        nonlocal waiting
        started, waiting = time.perf_counter(), waiting + 1
        try:
            return connect()
        except BaseException as error:
            source.notify("failed", source, error)
            raise
        finally:
            waiting -= 1
            source.notify("took", source, time.perf_counter() - started)

    def state() -> PoolState:
        present = source.engine.pool  # `dispose` replaces the pool by one of the same class
        assert isinstance(present, SizedPool)  # noqa: S101 - for mypy
        limits, in_use = source.engine.limits, present.checkedout()
        return PoolState(present.checkedin() + in_use, in_use, waiting, limits.size + max(0, limits.overflow))

    pool.around_connect = take
    source.pool_state = state


def _reason(dropped: Any, error: BaseException | None) -> str:
    """Return why a connection was dropped.

    ``aged`` if it was sound and the pool replaced it; a failed ping has the driver's error as its cause.
    """
    if isinstance(error, asyncio.CancelledError):
        return "cancelled"
    is_open = dropped is not None and not dropped.driver_connection.is_closed()
    is_stale = isinstance(error, DisconnectionError) and error.__cause__ is None
    return "aged" if is_open and is_stale else "lost"


def observe_sessions() -> None:
    """Register listeners for the beginning and the end of the transactions of all sessions, once a process."""
    listeners: dict[str, Callable[..., None]] = {
        "after_begin": _begin,
        "after_commit": _commit,
        "after_transaction_end": _end,
    }
    for name, listener in listeners.items():
        if not event.contains(Session, name, listener):
            event.listen(Session, name, listener, insert=True)  # before the tenant binding, the first statement


def _begin(session: Session, transaction: SessionTransaction, connection: Connection) -> None:
    if not transaction.nested and isinstance(session, TenantsSession):
        _units[connection] = session.info[_UNIT] = Unit(session)


def _commit(session: Session) -> None:
    unit = session.info.get(_UNIT)
    if unit is not None and not session.in_nested_transaction():
        unit.is_committed = True


def _end(session: Session, transaction: SessionTransaction) -> None:
    if transaction.parent is not None or (unit := session.info.pop(_UNIT, None)) is None:
        return
    unit.is_over = True
    unit.is_committed |= isinstance(session, TenantsSession) and session.has_only_read
    if unit.source is not None:
        unit.source.notify("ended", unit)
