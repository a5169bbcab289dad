"""Listeners of every engine: they translate errors, and report a COMMIT that has committed nothing."""

from __future__ import annotations

import logging
from typing import Any, Final

from sqlalchemy import Engine, ExceptionContext, event
from sqlalchemy.exc import StatementError

from src.database.connect import fatal_error
from src.database.engine.commits import is_uncertain, outcome_unknown, watch_transactions
from src.database.engine.sqlalchemy_internals import begin_again
from src.database.errors import ConnectionFailed, QueryTimeout
from src.database.translation import translate

LOGGING_NAME: Final = "thea"
"""The name of this package's engines in the log; the filter below applies to them alone."""
_READ_ONLY: Final = "25006"


class _WithoutRows(logging.Filter):
    """Keeps the rows of every answer out of the log that SQLAlchemy writes at DEBUG; parameters are hidden anyway."""

    def filter(self, record: logging.LogRecord) -> bool:
        return "Row %r" not in str(record.msg)


_without_rows: Final = _WithoutRows()


def listen(engine: Engine, *, writes: bool, needs_a_writer: bool) -> None:
    """Register the listeners on an engine that the rest of the package relies on.

    Args:
        engine: Any of ours.
        writes: False if its transactions only read: then each is READ ONLY.
        needs_a_writer: Its target asks for a server that takes writes: one that no longer does is left for another.
    """

    def raise_ours(context: ExceptionContext) -> BaseException | None:
        if needs_a_writer and _is_refused_by_its_server(context):
            context.is_disconnect = True
            return ConnectionFailed("the server takes no writes any more: another one may have been promoted")
        return _raise_ours(context)

    event.listen(engine, "handle_error", raise_ours)
    logging.getLogger(f"sqlalchemy.engine.Engine.{LOGGING_NAME}").addFilter(_without_rows)
    watch_transactions(engine, writes=writes)
    if not writes:
        dialect: Any = engine.dialect
        event.listen(engine, "connect", lambda adapter, _entry: dialect.set_readonly(adapter, True))
        event.listen(engine, "do_execute", _execute_in_a_sound_transaction)


def _is_refused_by_its_server(context: ExceptionContext) -> bool:
    """Return True if a write was refused because the server takes none, not because the transaction is READ ONLY."""
    connection = context.connection
    if getattr(context.original_exception, "sqlstate", None) != _READ_ONLY or connection is None:
        return False
    if connection.get_execution_options().get("postgresql_readonly"):
        return False
    driver: Any = connection.connection.driver_connection
    server = driver.get_settings()  # the server reports every change of these two
    in_recovery = getattr(server, "in_hot_standby", None)
    # Not known behind PgBouncer, where it may well be the server.
    return in_recovery is None or "on" in {in_recovery, getattr(server, "default_transaction_read_only", None)}


def _execute_in_a_sound_transaction(cursor: Any, statement: str, parameters: Any, context: Any) -> bool:
    """Execute a statement of a reader, in a transaction that is begun again if it is aborted or ended.

    A reader goes on after an error, and the statement is sent again after a change of the schema: no write is lost.
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
        context.handle_dbapi_exception(error)  # all prepared statements are forgotten
        context.pre_exec()  # and the cursor learns of it
        if driver.is_in_transaction():
            begin_again(adapter)
        cursor.execute(statement, parameters)
    return True


def _raise_ours(context: ExceptionContext) -> BaseException | None:
    """Hand out our errors in place of the driver's, and say of a COMMIT without an answer what that means."""
    if not is_uncertain(context):
        return _translated(context)
    origin = context.original_exception
    if not isinstance(origin, Exception):  # a cancellation stays one: its cause tells what it cut short
        origin.__cause__ = outcome_unknown()
        return None
    ours = _translated(context)
    return outcome_unknown() if isinstance(ours, ConnectionFailed) else ours


def _translated(context: ExceptionContext) -> BaseException | None:
    """Return our error in place of the driver's, and a bad value's own error in place of SQLAlchemy's wrapper."""
    origin = context.original_exception
    if not isinstance(origin, Exception):
        return None  # a cancelled statement costs its connection, but a cancellation is what it stays
    if isinstance(origin, TimeoutError) and context.connection is not None:
        return _leave_a_silent_server(context)
    answered = translate(origin, context.statement)
    if context.is_disconnect:
        if limit := _time_limit_that_ended(context):
            return limit
        return answered if isinstance(answered, ConnectionFailed) else ConnectionFailed("the connection was lost")
    if answered is not None and answered.came_from_server and context.connection is not None:
        driver: Any = context.connection.connection.driver_connection
        driver.state.failed(in_transaction=driver.is_in_transaction())
    if isinstance(origin, ValueError | TypeError) and isinstance(context.sqlalchemy_exception, StatementError):
        return type(origin)(*origin.args)
    return answered


def _time_limit_that_ended(context: ExceptionContext) -> QueryTimeout | None:
    """Return the error of the server's time limit for transactions, where that is what ended the connection.

    The transaction is rolled back then. To repeat it would take as long, and reach the limit again.
    """
    if context.connection is None or context.connection.invalidated:
        return None
    ended_by = fatal_error(context.connection.connection.driver_connection, context.original_exception)
    ours = None if ended_by is None else translate(ended_by)
    return ours if isinstance(ours, QueryTimeout) else None


def _leave_a_silent_server(context: ExceptionContext) -> ConnectionFailed:
    """Discard a connection whose server has not answered within its own time limit for the statement."""
    context.is_disconnect = True
    context.invalidate_pool_on_disconnect = False  # the others may well be sound
    return ConnectionFailed(
        "the server has not answered in time; whether the statement was carried out is not known",
        hint="check the network and the server; statements are limited by DATABASE_STATEMENT_TIMEOUT",
    )
