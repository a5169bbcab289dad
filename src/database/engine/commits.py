"""Transactions of lost connections: one that has sent nothing begins again; after COMMIT the outcome is not known."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final

from sqlalchemy import Connection, Engine, ExceptionContext, SelectBase, TextClause, event
from sqlalchemy.sql import visitors
from sqlalchemy.sql.dml import UpdateBase
from sqlalchemy.sql.functions import FunctionElement, GenericFunction, next_value

from src.database.connect import ConnectionState
from src.database.engine.events import listen_to_statements
from src.database.engine.sqlalchemy_internals import has_fast_path, replace_driver_connection
from src.database.errors import CommitOutcomeUnknown, ConnectionFailed, TransactionAborted

_READS_ONLY: Final = "thea_reads_only"
READS_ONLY: Final = {_READS_ONLY: True}
"""Execution options of a statement that writes nothing although its text could: a function call."""

_BEGIN_OPTIONS: Final = frozenset({"isolation_level", "postgresql_deferrable", "postgresql_readonly"})
_CAN_ONLY_READ: Final = "thea_can_only_read"


def state_of(connection: Connection) -> ConnectionState:
    """Return the state of the driver's connection; a new state if that connection is lost."""
    if connection.invalidated:
        return ConnectionState()
    state: ConnectionState = connection.connection.driver_connection.state  # type: ignore[union-attr] # it is there
    return state


def track_transactions(engine: Engine, *, writes: bool) -> None:
    """Record for each transaction of an engine whether it is aborted, may have written, and has sent its COMMIT.

    If the engine only reads, a transaction ends with ROLLBACK in place of COMMIT: that undoes a caller's SET too.
    """
    event.listen(engine, "begin", lambda connection: state_of(connection).began())
    event.listen(engine, "rollback", lambda connection: state_of(connection).rolled_back())
    event.listen(engine, "savepoint", lambda connection, _name: state_of(connection).set_savepoint())
    event.listen(engine, "rollback_savepoint", lambda connection, *_: state_of(connection).rolled_back())
    if writes:
        listen_to_statements(engine, "before_cursor_execute", _record_write)
        event.listen(engine, "commit", _before_commit)
    else:
        event.listen(engine, "commit", _roll_back)


def is_uncertain(context: ExceptionContext) -> bool:
    """Return True if the error is that of a COMMIT that was sent and may have made changes permanent."""
    connection = context.connection
    if connection is None or context.statement is not None:  # COMMIT is not a statement for SQLAlchemy
        return False
    return state_of(connection).is_commit_sent and not connection.get_execution_options().get("postgresql_readonly")


def outcome_unknown() -> CommitOutcomeUnknown:
    """Return the error of a COMMIT that was not answered."""
    return CommitOutcomeUnknown(
        "the connection was lost after COMMIT was sent and before its answer; whether the work is committed is not"
        " known",
        hint="check whether the changes are in the database, or repeat the work if a repetition is safe;"
        " `run_transaction` queries the outcome itself, and with idempotent=True also repeats work whose outcome stays"
        " unknown",
    )


def begin_on_live_connection(connection: Connection, begin: Callable[[], None]) -> None:
    """Begin a transaction; if the pool's connection turns out to be dead, begin it once more on another connection.

    The pool does not ping a connection that was idle for a short time, since that would cost each session a round trip:
    so the first statement, BEGIN, finds out that the server or a firewall has closed the connection. No statement of a
    caller has been sent before it, so that nothing is executed twice.

    There is no second attempt after a timeout: a server that does not answer would cost the caller that time again. Nor
    is there one for a transaction with options of its own, such as an isolation level: the new connection lacks them.

    Raises:
        ConnectionFailed: The connection was new, or in a transaction already, or the second one is lost too.
    """
    driver: Any = connection.connection.driver_connection
    was_kept = state_of(connection).was_kept and not driver.is_in_transaction()
    try:
        begin()
    except ConnectionFailed as error:
        has_options = _BEGIN_OPTIONS.intersection(connection.get_execution_options())
        is_dead = connection.invalidated and not isinstance(error.__cause__, TimeoutError)
        if not (was_kept and is_dead and has_fast_path(connection)) or has_options:
            raise
    else:
        return
    reconnect(connection)
    begin()


def reconnect(connection: Connection) -> None:
    """Replace a lost driver connection in a transaction that has sent nothing yet; call it in a greenlet."""
    replace_driver_connection(connection)
    state_of(connection).began()


def _record_write(
    connection: Connection, _cursor: Any, _statement: str, _parameters: Any, context: Any, _many: bool
) -> None:
    if context is None:  # the fast path sends the statement, and records a write itself
        return
    compiled = context.compiled
    if compiled is None or not (_is_read(compiled) or context.execution_options.get(_READS_ONLY)):
        state_of(connection).wrote()


def _roll_back(connection: Connection) -> None:
    if not connection.invalidated:
        connection.connection.dbapi_connection.rollback()  # type: ignore[union-attr] # it is there


def _before_commit(connection: Connection) -> None:
    """Raise for an aborted transaction; for another one record that COMMIT is sent, which SQLAlchemy does next.

    After an error PostgreSQL answers COMMIT with ROLLBACK, and the driver does not raise: a caller that has caught the
    error would believe that the changes before it are committed.
    """
    state = state_of(connection)
    if state.is_aborted:
        state.rolled_back()
        raise TransactionAborted("a statement")
    if not connection.invalidated:
        driver: Any = connection.connection.driver_connection
        state.commit_sent(is_open=not driver.is_closed())


def _is_read(compiled: Any) -> bool:
    """Return True if a compiled statement can only read; SQLAlchemy caches the compiled statement, and this with it."""
    known: bool | None = compiled.__dict__.get(_CAN_ONLY_READ)
    if known is None:
        known = compiled.__dict__[_CAN_ONLY_READ] = can_only_read(compiled.statement)
    return known


def can_only_read(statement: Any) -> bool:
    """Return True if a statement certainly writes nothing; text and the database's own functions may write."""
    return isinstance(statement, SelectBase) and not any(map(_may_write, visitors.iterate(statement)))


def is_select(statement: Any) -> bool:
    """Return True if a statement is a select without INSERT, UPDATE or DELETE; its functions may still write."""
    return isinstance(statement, SelectBase) and not any(
        isinstance(element, UpdateBase) for element in visitors.iterate(statement)
    )


def _may_write(element: Any) -> bool:
    if isinstance(element, FunctionElement):
        return isinstance(element, next_value) or not isinstance(element, GenericFunction)
    if getattr(element, "is_literal", False):  # literal_column: any text; for count() it is the star
        return "(" in str(element.name)
    return isinstance(element, UpdateBase | TextClause)
