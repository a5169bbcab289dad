"""The errors of this package, each of which a caller can handle."""

from __future__ import annotations

__all__ = [
    "AuthenticationFailed",
    "CheckViolation",
    "CommitOutcomeUnknown",
    "ConfigurationError",
    "ConnectionFailed",
    "DatabaseError",
    "DatabaseMissing",
    "DeadlockError",
    "DuplicateKeyError",
    "ForeignKeyError",
    "IdempotencyConflictError",
    "IntegrityError",
    "LazyLoadError",
    "LockNotAvailable",
    "MultipleResultsFoundError",
    "NoTenantError",
    "NotFoundError",
    "PoolExhausted",
    "QueryTimeout",
    "SchemaChangedError",
    "SchemaDriftError",
    "SerializationError",
    "SessionClosed",
    "SessionInUse",
    "StaleDataError",
    "TenantMismatchError",
    "TlsFailed",
    "TransactionAborted",
    "TunnelFailed",
]


class DatabaseError(Exception):
    """The base of every error of this package.

    Args:
        message: What happened, without secrets and without data.
        sqlstate: The server's five-character code, if the server answered.
        constraint: The name of the constraint that was violated, if one was.
        hint: The remedy.
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
    """The settings cannot work as they are; every fault found is named."""


class NoTenantError(DatabaseError):
    """There is no current tenant: none in the context, and no default tenant."""


class TenantMismatchError(DatabaseError):
    """A session or a row belongs to another tenant than the current one."""


class SessionClosed(DatabaseError):
    """A session was used after its block, its request or its transaction had ended; nothing was sent."""

    def __init__(self) -> None:
        super().__init__(
            "the session is closed, so that nothing more is read or written in it",
            hint="do the work inside the session's block, or open another session with get_db() where the work is done:"
            " a task that outlives the block, a streamed response and a background task need one of their own",
        )


class SessionInUse(DatabaseError):
    """A session was used by two tasks at the same time; the second one's operation was not sent."""

    def __init__(self) -> None:
        super().__init__(
            "the session is in use by another task: one session serves one task at a time",
            hint="open a session of its own with get_db() in each task of `asyncio.gather` or a TaskGroup,"
            " or await one operation after the other; await the tasks before the session's block ends",
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
    """The SSH tunnel could not be opened, or its far end cannot reach the server."""


class PoolExhausted(ConnectionFailed):
    """All connections of the pool stayed in use until the caller's time limit."""


class NotFoundError(DatabaseError):
    """No row of this tenant matches."""


class MultipleResultsFoundError(DatabaseError):
    """More than one row matches where one was expected."""


class StaleDataError(DatabaseError):
    """The row has been changed since it was read: a lost lease, an older version."""


class LazyLoadError(DatabaseError):
    """An attribute that was not loaded was read: a row sends no query of its own."""


class IntegrityError(DatabaseError):
    """A rule of the schema refused the row."""


class DuplicateKeyError(IntegrityError):
    """A row with this key is there already."""


class IdempotencyConflictError(DuplicateKeyError):
    """The idempotency key is taken by a message with other content, or of another chat."""


class ForeignKeyError(IntegrityError):
    """The row refers to a row that does not exist, or other rows still refer to it."""


class CheckViolation(IntegrityError):
    """A CHECK, a NOT NULL or the row-level security policy refused the row."""


class SerializationError(DatabaseError):
    """Two transactions cannot both have happened; run the whole unit again."""


class DeadlockError(DatabaseError):
    """Two transactions waited for each other; run the whole unit again."""


class SchemaChangedError(DatabaseError):
    """The schema changed under a statement that was prepared before; run the whole unit again."""


class LockNotAvailable(DatabaseError):
    """The lock was not free within its limit."""


class QueryTimeout(DatabaseError):
    """The statement was cancelled, or its transaction ended, as a rule by a time limit."""


class CommitOutcomeUnknown(DatabaseError):
    """The connection was lost before the server confirmed the COMMIT: the work may be committed, or not.

    If the task is cancelled at that time, this is the cause of its `CancelledError`.
    """


class TransactionAborted(DatabaseError):
    """An earlier error of the transaction was caught, so that nothing of it can be committed.

    Args:
        what: What failed before: a statement, a flush.
        sqlstate: The server's code, if the server refused to continue.
    """

    def __init__(self, what: str, *, sqlstate: str | None = None) -> None:
        super().__init__(
            f"nothing was committed: {what} of this transaction failed before, and the error was caught",
            sqlstate=sqlstate,
            hint="let the error end the session, or wrap what may fail in `async with session.begin_nested():`",
        )


class SchemaDriftError(DatabaseError):
    """The database lacks a table, a column or a function that this release needs."""
