"""What a lost connection means to a transaction: nothing at its begin; at its end, that nobody knows how it ended."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final

from sqlalchemy import Connection, Engine, ExceptionContext, SelectBase, TextClause, event
from sqlalchemy.sql import visitors
from sqlalchemy.sql.dml import UpdateBase
from sqlalchemy.sql.functions import FunctionElement, GenericFunction, next_value

from src.database.engine.events import hear
from src.database.engine.pool import IDLE_SINCE
from src.database.engine.sqlalchemy_internals import replace_driver_connection
from src.database.errors import CommitOutcomeUnknown, ConnectionFailed

__all__ = [
    "READS_ONLY",
    "can_only_read",
    "is_uncertain",
    "note_write",
    "outcome_unknown",
    "reconnect",
    "twice_if_lost",
    "watch_commits",
]

_READS_ONLY: Final = "thea_reads_only"
READS_ONLY: Final = {_READS_ONLY: True}
"""Execution options: the statement writes nothing, though nobody can see that in its text."""

_MAY_HAVE_WRITTEN: Final = "thea_may_have_written"
_IS_SENT: Final = "thea_commit_is_sent"
_OPTIONS: Final = frozenset({"isolation_level", "postgresql_deferrable", "postgresql_readonly"})
_READS: Final = "thea_reads"


def watch_commits(engine: Engine) -> None:
    """Have an engine know of each transaction whether it may have written, and whether its COMMIT was sent."""
    event.listen(engine, "begin", _forget)
    hear(engine, "before_cursor_execute", _note_a_write)
    event.listen(engine, "commit", _note_the_commit)


def note_write(connection: Connection) -> None:
    """Remember that a statement is sent in this transaction that may write: one that SQLAlchemy does not send."""
    connection.info[_MAY_HAVE_WRITTEN] = True


def is_uncertain(context: ExceptionContext) -> bool:
    """Say whether it was a COMMIT that failed, one that was sent and may have made something last."""
    connection = context.connection
    if connection is None or context.statement is not None or connection.invalidated:
        return False
    return bool(connection.info.get(_IS_SENT)) and not connection.get_execution_options().get("postgresql_readonly")


def outcome_unknown() -> CommitOutcomeUnknown:
    """Return what is to be said of it."""
    return CommitOutcomeUnknown(
        "the connection was lost after COMMIT was sent and before its answer; whether it is committed is not known",
        hint="look whether it is there, or repeat what may be repeated; `run_transaction` does either by itself",
    )


def twice_if_lost(connection: Connection, begin: Callable[[], None]) -> None:
    """Begin a transaction; once more, on another connection, where the one that the pool had kept was dead already.

    Nobody's statement has been sent on it yet, so that nothing is done twice. A server that is silent is not asked
    twice, and a transaction with options of its own is not begun without them.

    Raises:
        ConnectionFailed: It was a new one, or the second is lost too.
    """
    was_kept = IDLE_SINCE in connection.info
    try:
        begin()
    except ConnectionFailed as error:
        has_options = _OPTIONS.intersection(connection.get_execution_options())
        is_dead = connection.invalidated and not isinstance(error.__cause__, TimeoutError)
        if not (was_kept and is_dead) or has_options:
            raise
    else:
        return
    reconnect(connection)
    begin()


def reconnect(connection: Connection) -> None:
    """Give a connection that was lost another one of the driver's, inside of what it has begun; nothing was sent yet.

    In a greenlet.
    """
    replace_driver_connection(connection)
    _forget(connection)


def _forget(connection: Connection) -> None:
    connection.info.pop(_MAY_HAVE_WRITTEN, None)
    connection.info.pop(_IS_SENT, None)


def _note_a_write(
    connection: Connection, _cursor: Any, _statement: str, _parameters: Any, context: Any, _many: bool
) -> None:
    if context is None:  # it is sent by us, who say it ourselves
        return
    compiled = context.compiled
    if compiled is None or not (_reads(compiled) or context.execution_options.get(_READS_ONLY)):
        connection.info[_MAY_HAVE_WRITTEN] = True


def _note_the_commit(connection: Connection) -> None:
    """Between here and the driver's write nothing else runs: what is open now, COMMIT is sent on."""
    if connection.invalidated:
        return
    info = connection.info
    driver: Any = connection.connection.driver_connection
    info[_IS_SENT] = info.get(_MAY_HAVE_WRITTEN, False) and not driver.is_closed()


def _reads(compiled: Any) -> bool:
    """Say it of what is compiled: it is looked at once, and kept where it is, since it is asked at each statement."""
    known: bool | None = compiled.__dict__.get(_READS)
    if known is None:
        known = compiled.__dict__[_READS] = can_only_read(compiled.statement)
    return known


def can_only_read(statement: Any) -> bool:
    """Say whether a statement can write nothing, as far as that can be seen: text and functions may do anything."""
    return isinstance(statement, SelectBase) and not any(map(_may_write, visitors.iterate(statement)))


def _may_write(element: Any) -> bool:
    if isinstance(element, FunctionElement):
        return isinstance(element, next_value) or not isinstance(element, GenericFunction)
    if getattr(element, "is_literal", False):  # of a count it is the star
        return "(" in str(element.name)
    return isinstance(element, UpdateBase | TextClause)
