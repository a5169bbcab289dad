"""The errors of this package. Each class is a case that a caller may handle in its own way."""

from __future__ import annotations


class DatabaseError(Exception):
    """The base of every error of this package.

    Args:
        message: What happened, without secrets and without data.
        sqlstate: The server's five-character code, if the server answered.
        constraint: The name of the violated constraint, if there is one.
        hint: The remedy. The error's text ends with it.

    Attributes:
        came_from_server: True if the server reported the error; False for this package's own and for the driver's.
    """

    def __init__(
        self,
        message: str,
        *,
        sqlstate: str | None = None,
        constraint: str | None = None,
        hint: str | None = None,
    ) -> None:
        super().__init__(message)
        self.sqlstate = sqlstate
        self.constraint = constraint
        self.hint = hint
        self.came_from_server = False

    def __str__(self) -> str:
        message = super().__str__()
        return f"{message}\nhint: {self.hint}" if self.hint else message


class ConfigurationError(DatabaseError):
    """The settings, an argument or the installation are not valid, or do not fit the database.

    If several settings have faults, the message has one line for each fault.
    """


class NoTenantError(DatabaseError):
    """There is no current tenant: no `tenant_context`, and no DATABASE_DEFAULT_TENANT. Or a request names no tenant."""


class TenantMismatchError(DatabaseError):
    """A session or a row belongs to a tenant that is not the current one."""


class TenantRefused(DatabaseError):
    """The tenant of a request is unknown or suspended, or the caller does not belong to it."""


class SessionClosed(DatabaseError):
    """A session was used after its block, its request or its transaction ended. Nothing was sent."""

    def __init__(self) -> None:
        super().__init__(
            "the session is closed",
            hint="do the work inside the session's block, or open another session with get_db(): a task that outlives"
            " the block, a streamed response and a background task each need a session of their own",
        )


class SessionInUse(DatabaseError):
    """Two tasks used a session at the same time. The operation of the second was not sent."""

    def __init__(self) -> None:
        super().__init__(
            "the session is in use by another task: a session serves one task at a time",
            hint="open a session with get_db() in each task of `asyncio.gather` or a TaskGroup, or await one operation"
            " after the other; await the tasks before the session's block ends",
        )


class ConnectionFailed(DatabaseError):
    """No connection could be opened, or the connection in use was lost."""


class AuthenticationFailed(ConnectionFailed):
    """The server refused the user or the password."""


class DatabaseMissing(ConnectionFailed):
    """The server has no database of that name."""


class TlsFailed(ConnectionFailed):
    """TLS is required and failed, or the certificate is not valid."""


class TunnelFailed(ConnectionFailed):
    """The SSH tunnel could not be opened, or the gateway cannot reach the server."""


class PoolExhausted(ConnectionFailed):
    """No connection of the pool became free within the time limit."""


class NotFoundError(DatabaseError):
    """No row of the current tenant matches."""


class MultipleResultsFoundError(DatabaseError):
    """Several rows match, and one was expected."""


class StaleDataError(DatabaseError):
    """A row has changed since the caller read it: its version, its lease, or a value that the caller expects."""


class LazyLoadError(DatabaseError):
    """An attribute that was not loaded was read: an entity sends no query of its own."""


class IntegrityError(DatabaseError):
    """A constraint of the schema refused the row."""


class DuplicateKeyError(IntegrityError):
    """A row with this key already exists."""


class IdempotencyConflictError(DuplicateKeyError):
    """The idempotency key belongs to a message with other content, or to a message of another chat."""


class ForeignKeyError(IntegrityError):
    """The row refers to a row that does not exist, or other rows still refer to it."""


class CheckViolation(IntegrityError):
    """A CHECK, a NOT NULL or the row-level security policy refused the row."""


class SerializationError(DatabaseError):
    """The transaction conflicts with another one. Run the whole unit of work again."""


class DeadlockError(DatabaseError):
    """Two transactions waited for each other. Run the whole unit of work again."""


class SchemaChangedError(DatabaseError):
    """The schema changed under a prepared statement. Run the whole unit of work again."""


class LockNotAvailable(DatabaseError):
    """A lock was not released within the time limit."""


class QueryTimeout(DatabaseError):
    """The server cancelled the statement or ended its transaction, usually because of a time limit."""


class CommitOutcomeUnknown(DatabaseError):
    """The connection was lost before the server confirmed the COMMIT: the work may be committed or not.

    If the task is cancelled at that time, this error is the cause of its `CancelledError`.
    """


class TransactionAborted(DatabaseError):
    """An earlier error of the transaction was caught, so that the transaction cannot be committed.

    Args:
        what: What failed before, such as ``a statement`` or ``a flush``.
        sqlstate: The server's code, if the server refused to continue.
    """

    def __init__(self, what: str, *, sqlstate: str | None = None) -> None:
        super().__init__(
            f"nothing was committed: {what} of this transaction failed before, and the error was caught",
            sqlstate=sqlstate,
            hint="do not catch the error inside the session's block, or run the statement that may fail in `async with"
            " session.begin_nested():`",
        )


class SchemaDriftError(DatabaseError):
    """The database lacks a table, a column or a function that this release needs.

    At startup, a missing isolation layer raises it too.
    """
