"""From SQLAlchemy's events of engines, pools and sessions to the events of observers."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from typing import Any, Final
from weakref import WeakKeyDictionary

from sqlalchemy import Connection, ExceptionContext, PoolProxiedConnection, event
from sqlalchemy.exc import DisconnectionError
from sqlalchemy.orm import Session, SessionTransaction

from src.database.engine.events import hear
from src.database.engine.pool import SizedPool
from src.database.observability.watcher import Call, PoolState, Source, TenantsSession, Unit

_UNIT: Final = "thea_unit"
"""The key in a session's `info` while its transaction is open."""
_units: Final[WeakKeyDictionary[Connection, Unit]] = WeakKeyDictionary()


def watch_engine(source: Source) -> None:
    """Listen to the events of a source's engine that one of its observers listens to."""
    engine = source.engine.sync_engine
    if source.has_listener("sent", "answered", "failed", "began", "ended"):
        watch_sessions()
        on_their_way: WeakKeyDictionary[Connection, Call] = WeakKeyDictionary()

        def send(connection: Connection, _cursor: Any, sql: str, values: Any, _context: Any, _many: bool) -> None:
            unit = _units.get(connection)
            if unit is not None and unit.is_over:  # the statement is not part of it
                unit = None
            elif unit is not None and unit.source is None:
                unit.source = source
                source.notify("began", unit)
            call = on_their_way[connection] = Call(source, sql, values, unit)
            source.notify("sent", call)

        def answer(connection: Connection, cursor: Any, *_of_the_statement: Any) -> None:
            if (call := on_their_way.pop(connection, None)) is not None:
                call.end(rows=cursor.rowcount if cursor.rowcount >= 0 else None)

        def fail(context: ExceptionContext) -> None:
            error = getattr(context, "chained_exception", None) or context.original_exception
            call = None if context.connection is None else on_their_way.pop(context.connection, None)
            if call is not None:
                call.end(error=error)
            else:
                source.notify("failed", source, error)

        hear(engine, "before_cursor_execute", send)
        hear(engine, "after_cursor_execute", answer)
        event.listen(engine, "handle_error", fail)  # after the translation, whose errors it sees
    _watch_connections(source)


def _watch_connections(source: Source) -> None:
    engine = source.engine.sync_engine
    if source.has_listener("opened"):
        event.listen(engine, "connect", lambda opened, _: source.notify("opened", source, opened.driver_connection))
    if source.has_listener("dropped"):
        event.listen(
            engine, "invalidate", lambda left, _, error: source.notify("dropped", source, _reason(left, error))
        )
    if isinstance(pool := source.engine.pool, SizedPool) and source.has_listener("took", "failed", "joined"):
        _watch_pool(source, pool)


def _watch_pool(source: Source, pool: SizedPool) -> None:
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
        now = source.engine.pool
        assert isinstance(now, SizedPool)  # noqa: S101 - an engine keeps to its kind of pool
        limits = source.engine.limits
        return PoolState(
            now.checkedin() + now.checkedout(), now.checkedout(), waiting, limits.size + max(0, limits.overflow)
        )

    pool.around_connect = take
    source.pool_state = state


def _reason(left: Any, error: BaseException | None) -> str:
    """Return why a connection was dropped: for its age only if nothing was wrong with it."""
    if isinstance(error, asyncio.CancelledError):
        return "cancelled"
    is_sound = left is not None and not left.driver_connection.is_closed()
    was_asked = error is not None and error.__cause__ is not None
    return "aged" if is_sound and isinstance(error, DisconnectionError) and not was_asked else "lost"


def watch_sessions() -> None:
    """Listen to the beginning and the end of transactions of all sessions."""
    listeners: dict[str, Callable[..., None]] = {
        "after_begin": _begin,
        "after_commit": _commit,
        "after_transaction_end": _end,
    }
    for name, listener in listeners.items():
        if not event.contains(Session, name, listener):
            event.listen(Session, name, listener, insert=True)  # before it is bound: that is its first statement


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
    unit.is_committed |= isinstance(session, TenantsSession) and session.is_read_to_its_end
    if unit.source is not None:
        unit.source.notify("ended", unit)
