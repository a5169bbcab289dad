"""Listeners of every engine: they translate errors, track transactions and keep read transactions usable."""

from __future__ import annotations

import logging
from typing import Any, Final

from sqlalchemy import Engine, ExceptionContext, event
from sqlalchemy.exc import StatementError

from src.database.connect import fatal_error
from src.database.engine.commits import is_uncertain, outcome_unknown, track_transactions
from src.database.engine.sqlalchemy_internals import begin_again
from src.database.errors import ConnectionFailed, QueryTimeout
from src.database.translation import translate

LOGGING_NAME: Final = "thea"
"""The name of this package's engines in the log; the filter below applies to them alone."""
_READ_ONLY_SQL_TRANSACTION: Final = "25006"


class _WithoutRows(logging.Filter):
    """Keeps the rows of results out of the log that SQLAlchemy writes at DEBUG.

    `hide_parameters` hides parameters alone, and rows contain what users have written.
    """

    def filter(self, record: logging.LogRecord) -> bool:
        return "Row %r" not in str(record.msg)


_without_rows: Final = _WithoutRows()


def register_listeners(engine: Engine, *, writes: bool, needs_writable_server: bool) -> None:
    """Register the listeners that the rest of the package relies on.

    Args:
        engine: The engine.
        writes: False to make every transaction READ ONLY.
        needs_writable_server: The target requires a server that accepts writes. If the server no longer does, after a
            failover, its connection is dropped and the next one finds the new primary.
    """

    def replace_error(context: ExceptionContext) -> BaseException | None:
        if needs_writable_server and _is_standby_by_now(context):
            context.is_disconnect = True
            return ConnectionFailed("the server accepts no writes any more: another server may have been promoted")
        return _error_to_raise(context)

    event.listen(engine, "handle_error", replace_error)
    logging.getLogger(f"sqlalchemy.engine.Engine.{LOGGING_NAME}").addFilter(_without_rows)
    track_transactions(engine, writes=writes)
    if not writes:
        dialect: Any = engine.dialect
        event.listen(engine, "connect", lambda adapter, _entry: dialect.set_readonly(adapter, True))
        event.listen(engine, "do_execute", _execute_in_live_transaction)


def _is_standby_by_now(context: ExceptionContext) -> bool:
    """Return True if the server refused a write because it is a standby, not because the transaction is READ ONLY."""
    connection = context.connection
    if getattr(context.original_exception, "sqlstate", None) != _READ_ONLY_SQL_TRANSACTION or connection is None:
        return False
    if connection.get_execution_options().get("postgresql_readonly"):
        return False
    driver: Any = connection.connection.driver_connection
    server = driver.get_settings()  # PostgreSQL 14 and later report each change of these two to the client
    in_recovery = getattr(server, "in_hot_standby", None)
    # PgBouncer does not pass them on. Unknown counts as a standby: the cost is one connection.
    return in_recovery is None or "on" in {in_recovery, getattr(server, "default_transaction_read_only", None)}


def _execute_in_live_transaction(cursor: Any, statement: str, parameters: Any, context: Any) -> bool:
    """Execute a statement of an engine that only reads; begin its transaction again if it is aborted or has ended.

    A read session can thus go on after an error that its caller has caught, and a statement that fails because a
    migration has changed its prepared plan is sent again. Neither can lose a write.
    """
    adapter: Any = context.root_connection.connection.dbapi_connection
    driver = adapter.driver_connection
    if driver.state.has_lost_its_transaction(in_transaction=driver.is_in_transaction()):
        begin_again(adapter)
    try:
        cursor.execute(statement, parameters)
    except context.dialect.loaded_dbapi.InvalidCachedStatementError as error:
        if driver.is_in_transaction() and driver.state.begun_with is None:
            raise
        context.handle_dbapi_exception(error)  # the dialect discards its prepared statements
        context.pre_exec()  # the cursor compares its time with that of the discarding
        if driver.is_in_transaction():
            begin_again(adapter)
        cursor.execute(statement, parameters)
    return True


def _error_to_raise(context: ExceptionContext) -> BaseException | None:
    """Return the error to raise in place of the driver's; None to raise SQLAlchemy's. See `is_uncertain` for COMMIT."""
    if not is_uncertain(context):
        return _translated(context)
    origin = context.original_exception
    if not isinstance(origin, Exception):  # a cancellation must stay one; its cause has the outcome
        origin.__cause__ = outcome_unknown()
        return None
    error = _translated(context)
    return outcome_unknown() if isinstance(error, ConnectionFailed) else error


def _translated(context: ExceptionContext) -> BaseException | None:
    """Return the translated error; for a value that cannot be encoded its own error, without SQLAlchemy's wrapper."""
    origin = context.original_exception
    if not isinstance(origin, Exception):
        return None  # a cancellation must stay one; SQLAlchemy invalidates the connection
    if isinstance(origin, TimeoutError) and context.connection is not None:
        return _discard_unanswering_connection(context)
    answered = translate(origin, context.statement)
    if context.is_disconnect:
        if limit := _transaction_timeout(context):
            return limit
        return answered if isinstance(answered, ConnectionFailed) else ConnectionFailed("the connection was lost")
    if answered is not None and answered.came_from_server and context.connection is not None:
        driver: Any = context.connection.connection.driver_connection
        driver.state.failed(in_transaction=driver.is_in_transaction())
    if isinstance(origin, ValueError | TypeError) and isinstance(context.sqlalchemy_exception, StatementError):
        return type(origin)(*origin.args)
    return answered


def _transaction_timeout(context: ExceptionContext) -> QueryTimeout | None:
    """Return an error if a time limit for transactions made the server end the connection, else None.

    It is no ConnectionFailed, which `run_transaction` repeats: the repetition would take as long and reach the limit
    again.
    """
    if context.connection is None or context.connection.invalidated:
        return None
    ended_by = fatal_error(context.connection.connection.driver_connection, context.original_exception)
    error = None if ended_by is None else translate(ended_by)
    return error if isinstance(error, QueryTimeout) else None


def _discard_unanswering_connection(context: ExceptionContext) -> ConnectionFailed:
    """Discard the connection of a statement that was not answered within `command_timeout`, and return the error."""
    context.is_disconnect = True
    context.invalidate_pool_on_disconnect = False  # the other connections may work
    return ConnectionFailed(
        "the server has not answered in time; whether the statement was executed is not known",
        hint="check the network and the server; statements are limited by DATABASE_STATEMENT_TIMEOUT",
    )
