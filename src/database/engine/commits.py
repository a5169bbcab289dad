"""Lost connections: a transaction that has sent nothing begins again; after COMMIT its outcome is not known."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final

from sqlalchemy import Connection, Engine, ExceptionContext, SelectBase, TextClause, event
from sqlalchemy.sql import visitors
from sqlalchemy.sql.dml import UpdateBase
from sqlalchemy.sql.functions import FunctionElement, GenericFunction, next_value

from src.database.connect import ConnectionState
from src.database.engine.events import hear
from src.database.engine.sqlalchemy_internals import has_fast_path, replace_driver_connection
from src.database.errors import CommitOutcomeUnknown, ConnectionFailed, TransactionAborted

_READS_ONLY: Final = "thea_reads_only"
READS_ONLY: Final = {_READS_ONLY: True}
"""Execution options: the statement writes nothing, though nobody can see that in its text."""

_OPTIONS: Final = frozenset({"isolation_level", "postgresql_deferrable", "postgresql_readonly"})
_READS: Final = "thea_reads"


def state_of(connection: Connection) -> ConnectionState:
    """Return the state of the driver's connection; after its loss, a state that tells nothing."""
    if connection.invalidated:
        return ConnectionState()
    state: ConnectionState = connection.connection.driver_connection.state  # type: ignore[union-attr] # it is there
    return state


def watch_transactions(engine: Engine, *, writes: bool) -> None:
    """Record for each transaction of an engine whether it is aborted, may have written, and has sent its COMMIT.

    A transaction of an engine that only reads ends with ROLLBACK, which undoes a caller's SET too.
    """
    event.listen(engine, "begin", lambda connection: state_of(connection).began())
    event.listen(engine, "rollback", lambda connection: state_of(connection).rolled_back())
    event.listen(engine, "savepoint", lambda connection, _name: state_of(connection).set_savepoint())
    event.listen(engine, "rollback_savepoint", lambda connection, *_: state_of(connection).rolled_back())
    if writes:
        hear(engine, "before_cursor_execute", _note_a_write)
        event.listen(engine, "commit", _send_commit)
    else:
        event.listen(engine, "commit", _roll_back)


def is_uncertain(context: ExceptionContext) -> bool:
    """Return True if a COMMIT failed that was sent and may have made something permanent."""
    connection = context.connection
    if connection is None or context.statement is not None:
        return False
    return state_of(connection).is_commit_sent and not connection.get_execution_options().get("postgresql_readonly")


def outcome_unknown() -> CommitOutcomeUnknown:
    """Return the error of a COMMIT without an answer."""
    return CommitOutcomeUnknown(
        "the connection was lost after COMMIT was sent and before its answer; whether it is committed is not known",
        hint="look whether it is there, or repeat what may be repeated; `run_transaction` does either by itself",
    )


def twice_if_lost(connection: Connection, begin: Callable[[], None]) -> None:
    """Begin a transaction; if the pool has kept a connection that is dead, begin it again on another one.

    No statement of a caller's has been sent yet, so that nothing is done twice. A server that is silent is not tried
    twice, and a transaction with options of its own is not begun without them.

    Raises:
        ConnectionFailed: The connection was new, or in a transaction already, or the second one is lost too.
    """
    driver: Any = connection.connection.driver_connection
    was_kept = state_of(connection).was_kept and not driver.is_in_transaction()
    try:
        begin()
    except ConnectionFailed as error:
        has_options = _OPTIONS.intersection(connection.get_execution_options())
        is_dead = connection.invalidated and not isinstance(error.__cause__, TimeoutError)
        if not (was_kept and is_dead and has_fast_path(connection)) or has_options:
            raise
    else:
        return
    reconnect(connection)
    begin()


def reconnect(connection: Connection) -> None:
    """Replace the driver's connection, which was lost, in a transaction that has sent nothing yet; in a greenlet."""
    replace_driver_connection(connection)
    state_of(connection).began()


def _note_a_write(
    connection: Connection, _cursor: Any, _statement: str, _parameters: Any, context: Any, _many: bool
) -> None:
    if context is None:  # the fast path sends it, and records it
        return
    compiled = context.compiled
    if compiled is None or not (_reads(compiled) or context.execution_options.get(_READS_ONLY)):
        state_of(connection).wrote()


def _roll_back(connection: Connection) -> None:
    if not connection.invalidated:
        connection.connection.dbapi_connection.rollback()  # type: ignore[union-attr] # it is there


def _send_commit(connection: Connection) -> None:
    """Raise for an aborted transaction; record for the others that COMMIT is sent, which the driver does next.

    PostgreSQL answers COMMIT after an error with ROLLBACK, and the driver is silent: a caller that caught the error
    would take what came before it for written.
    """
    state = state_of(connection)
    if state.is_aborted:
        state.rolled_back()
        raise TransactionAborted("a statement")
    if not connection.invalidated:
        driver: Any = connection.connection.driver_connection
        state.commit_sent(is_open=not driver.is_closed())


def _reads(compiled: Any) -> bool:
    """Return True if a compiled statement can only read; the answer is cached on the compiled statement."""
    known: bool | None = compiled.__dict__.get(_READS)
    if known is None:
        known = compiled.__dict__[_READS] = can_only_read(compiled.statement)
    return known


def can_only_read(statement: Any) -> bool:
    """Return True if a statement is seen to write nothing: text and functions may do anything."""
    return isinstance(statement, SelectBase) and not any(map(_may_write, visitors.iterate(statement)))


def is_select(statement: Any) -> bool:
    """Return True if a statement is a select without INSERT, UPDATE or DELETE; its functions may still write."""
    return isinstance(statement, SelectBase) and not any(
        isinstance(element, UpdateBase) for element in visitors.iterate(statement)
    )


def _may_write(element: Any) -> bool:
    if isinstance(element, FunctionElement):
        return isinstance(element, next_value) or not isinstance(element, GenericFunction)
    if getattr(element, "is_literal", False):  # of a count it is the star
        return "(" in str(element.name)
    return isinstance(element, UpdateBase | TextClause)
