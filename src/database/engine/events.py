"""Statement listeners: they are called for statements that SQLAlchemy sends and for those of the fast path."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Final

from sqlalchemy import Connection, Engine, event

_EVENTS: Final = ("before_cursor_execute", "after_cursor_execute", "before_execute", "after_execute")

_Hear = Callable[..., None]
_OURS: Final = "thea_listeners"
"""An attribute of the dialect: the listeners refer to their engine, which in a weak dictionary would be a leak."""


class _Cursor:
    """Stands for the cursor of a statement that the fast path sends, which has none."""

    def __init__(self, rowcount: int) -> None:
        self.rowcount = rowcount


def hear(engine: Engine, name: str, listener: _Hear) -> None:
    """Register a listener as `event.listen` does; the fast path calls it too, without a cursor and a context."""
    event.listen(engine, name, listener)
    vars(engine.dialect).setdefault(_OURS, []).append((name, listener))


def somebody_else_hears(connection: Connection) -> bool:
    """Return True if a listener is registered by other code than `hear`: SQLAlchemy then has to send the statement."""
    listeners = sum(len(getattr(connection.dispatch, name)) for name in _EVENTS)
    return listeners > len(_ours(connection))


def tell_sent(connection: Connection, sql: str, values: Sequence[Any]) -> None:
    """Call the listeners that `hear` has registered before a statement is sent."""
    for name, listener in _ours(connection):
        if name == "before_cursor_execute":
            listener(connection, None, sql, values, None, False)


def tell_answered(connection: Connection, sql: str, values: Sequence[Any], rows: int) -> None:
    """Call the listeners that `hear` has registered after a statement was answered."""
    for name, listener in _ours(connection):
        if name == "after_cursor_execute":
            listener(connection, _Cursor(rows), sql, values, None, False)


def _ours(connection: Connection) -> Sequence[tuple[str, _Hear]]:
    """Return the names of the events that we listen to on the connection's engine, with their listeners."""
    listeners: Sequence[tuple[str, _Hear]] = vars(connection.dialect).get(_OURS, ())
    return listeners
