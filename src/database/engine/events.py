"""Statement listeners: they are called for statements that SQLAlchemy sends and for those of the fast path."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Final

from sqlalchemy import Connection, Engine, event

_EVENTS: Final = ("before_cursor_execute", "after_cursor_execute", "before_execute", "after_execute")
# The listeners refer to their engine. In a weak dictionary by engine, a value that refers to its key is never released;
# as an attribute of the dialect, the listeners are released with the engine.
_ATTRIBUTE: Final = "thea_listeners"

_Listener = Callable[..., None]


class _Cursor:
    """Stands for the cursor of a statement that the fast path sends, which has none."""

    def __init__(self, rowcount: int) -> None:
        self.rowcount = rowcount


def listen_to_statements(engine: Engine, name: str, listener: _Listener) -> None:
    """Register a listener as `event.listen` does; the fast path calls it too.

    Args:
        engine: The engine.
        name: ``before_cursor_execute`` or ``after_cursor_execute``.
        listener: Takes the arguments of the event. For a statement of the fast path the context is None; the cursor is
            None before the statement, and has only a `rowcount` after it.
    """
    event.listen(engine, name, listener)
    vars(engine.dialect).setdefault(_ATTRIBUTE, []).append((name, listener))


def has_foreign_listener(connection: Connection) -> bool:
    """Return True if other code listens to statements: SQLAlchemy then has to send them.

    Such a listener may rely on the cursor or the context, or change the statement.
    """
    listeners = sum(len(getattr(connection.dispatch, name)) for name in _EVENTS)
    return listeners > len(_registered(connection))


def notify_sent(connection: Connection, sql: str, values: Sequence[Any]) -> None:
    """Call the registered listeners before the fast path sends a statement."""
    for name, listener in _registered(connection):
        if name == "before_cursor_execute":
            listener(connection, None, sql, values, None, False)


def notify_answered(connection: Connection, sql: str, values: Sequence[Any], rows: int) -> None:
    """Call the registered listeners after a statement of the fast path was answered."""
    for name, listener in _registered(connection):
        if name == "after_cursor_execute":
            listener(connection, _Cursor(rows), sql, values, None, False)


def _registered(connection: Connection) -> Sequence[tuple[str, _Listener]]:
    listeners: Sequence[tuple[str, _Listener]] = vars(connection.dialect).get(_ATTRIBUTE, ())
    return listeners
