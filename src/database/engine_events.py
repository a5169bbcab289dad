"""What happens on every engine: errors in our own words, dead connections replaced, lost work not called done."""

from __future__ import annotations

from typing import Any, Final

from sqlalchemy import Connection, Engine, ExceptionContext, event
from sqlalchemy.exc import DisconnectionError, StatementError

from src.database.errors import ConnectionFailed, TransactionAborted
from src.database.translation import translate

__all__ = ["listen"]

_ABORTED: Final = "thea_transaction_aborted"
"""In a connection's `info` while its transaction can only be rolled back."""


def listen(engine: Engine) -> None:
    """Have an engine behave as the rest of the package expects."""
    event.listen(engine, "handle_error", _raise_ours)
    event.listen(engine, "checkout", _refuse_a_closed_one)
    event.listen(engine, "begin", _forget)
    event.listen(engine, "rollback", _forget)
    event.listen(engine, "rollback_savepoint", lambda connection, _name, _context: _forget(connection))
    event.listen(engine, "commit", _refuse_an_aborted_one)


def _raise_ours(context: ExceptionContext) -> BaseException | None:
    """Hand out our errors in place of the driver's, and a bad value's own error in place of SQLAlchemy's wrapper."""
    origin = context.original_exception
    if not isinstance(origin, Exception):
        return None  # a cancelled statement costs its connection, but a cancellation is what it stays
    answered = translate(origin)
    if context.is_disconnect:
        return answered if isinstance(answered, ConnectionFailed) else ConnectionFailed("the connection was lost")
    if answered is not None and answered.came_from_server and context.connection is not None:
        context.connection.info[_ABORTED] = True
    if isinstance(origin, ValueError | TypeError) and isinstance(context.sqlalchemy_exception, StatementError):
        return type(origin)(*origin.args)
    return answered


def _refuse_a_closed_one(dbapi_connection: Any, _record: Any, _proxy: Any) -> None:
    """Have the pool replace a connection that closed while it lay idle; it costs no round trip."""
    if dbapi_connection.driver_connection.is_closed():
        raise DisconnectionError("the connection closed while it was idle")


def _forget(connection: Connection) -> None:
    """A transaction that begins, or is rolled back, wholly or to a savepoint, is sound."""
    if not connection.invalidated:  # then there is no connection to remember anything of
        connection.info.pop(_ABORTED, None)


def _refuse_an_aborted_one(connection: Connection) -> None:
    """Say that nothing was committed: PostgreSQL answers COMMIT after an error with ROLLBACK, and the driver is silent.

    Without this, who catches an error inside a transaction and goes on would take what came before it for written.
    """
    if not connection.invalidated and connection.info.pop(_ABORTED, False):
        raise TransactionAborted("a statement")
