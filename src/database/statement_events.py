"""Who of us hears of each statement, whether SQLAlchemy sends it or we do; and whether anybody else wants to."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Final
from weakref import WeakKeyDictionary

from sqlalchemy import Connection, Dialect, Engine, event

__all__ = ["hear", "somebody_else_hears", "tell_answered", "tell_sent"]

_EVENTS: Final = ("before_cursor_execute", "after_cursor_execute", "before_execute", "after_execute")

_Hear = Callable[..., None]
_ours: Final[WeakKeyDictionary[Dialect, list[tuple[str, _Hear]]]] = WeakKeyDictionary()


class _Cursor:
    """What is left of a cursor where there was none."""

    def __init__(self, rowcount: int) -> None:
        self.rowcount = rowcount


def hear(engine: Engine, name: str, listener: _Hear) -> None:
    """Listen as `event.listen` has it; of what we send ourselves too, where there is no cursor yet and no context."""
    event.listen(engine, name, listener)
    _ours.setdefault(engine.dialect, []).append((name, listener))


def somebody_else_hears(connection: Connection) -> bool:
    """Say whether others than we here want to hear of each statement: SQLAlchemy has to send it then."""
    if not connection._has_events:  # noqa: SLF001 - nobody at all
        return False
    listeners = sum(len(getattr(connection.dispatch, name)) for name in _EVENTS)
    return listeners > len(_ours.get(connection.dialect, ()))


def tell_sent(connection: Connection, sql: str, values: Sequence[Any]) -> None:
    """Tell ours that a statement is about to be sent."""
    for name, listener in _ours.get(connection.dialect, ()):
        if name == "before_cursor_execute":
            listener(connection, None, sql, values, None, False)


def tell_answered(connection: Connection, sql: str, values: Sequence[Any], rows: int) -> None:
    """Tell ours that it was."""
    for name, listener in _ours.get(connection.dialect, ()):
        if name == "after_cursor_execute":
            listener(connection, _Cursor(rows), sql, values, None, False)
