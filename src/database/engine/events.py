"""Who of us hears of each statement, whether SQLAlchemy sends it or we do; and whether anybody else wants to."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Final

from sqlalchemy import Connection, Engine, event

_EVENTS: Final = ("before_cursor_execute", "after_cursor_execute", "before_execute", "after_execute")

_Hear = Callable[..., None]
_OURS: Final = "thea_listeners"
"""An attribute of the dialect: the listeners refer to their engine, which in a weak dictionary would be a leak."""


class _Cursor:
    """What is left of a cursor where there was none."""

    def __init__(self, rowcount: int) -> None:
        self.rowcount = rowcount


def hear(engine: Engine, name: str, listener: _Hear) -> None:
    """Listen as `event.listen` has it; of what we send ourselves too, where there is no cursor yet and no context."""
    event.listen(engine, name, listener)
    vars(engine.dialect).setdefault(_OURS, []).append((name, listener))


def somebody_else_hears(connection: Connection) -> bool:
    """Say whether others than we here want to hear of each statement: SQLAlchemy has to send it then."""
    listeners = sum(len(getattr(connection.dispatch, name)) for name in _EVENTS)
    return listeners > len(_ours(connection))


def tell_sent(connection: Connection, sql: str, values: Sequence[Any]) -> None:
    """Tell ours that a statement is about to be sent."""
    for name, listener in _ours(connection):
        if name == "before_cursor_execute":
            listener(connection, None, sql, values, None, False)


def tell_answered(connection: Connection, sql: str, values: Sequence[Any], rows: int) -> None:
    """Tell ours that it was."""
    for name, listener in _ours(connection):
        if name == "after_cursor_execute":
            listener(connection, _Cursor(rows), sql, values, None, False)


def _ours(connection: Connection) -> Sequence[tuple[str, _Hear]]:
    """Return the names of the events that we listen to on the connection's engine, with their listeners."""
    listeners: Sequence[tuple[str, _Hear]] = vars(connection.dialect).get(_OURS, ())
    return listeners
