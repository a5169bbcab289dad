"""The connection of this package: the driver's, with a state, its last error, and a `terminate` that cancels first."""

from __future__ import annotations

import asyncio
import math
import os
import time
from contextlib import suppress
from dataclasses import dataclass
from typing import Any, Final, cast

import asyncpg

from src.database.connect.asyncpg_internals import DriverConnection
from src.database.translation import translate_connect

DRIVER_ERRORS: Final = (asyncpg.PostgresError, asyncpg.InterfaceError, asyncpg.InternalClientError, OSError, EOFError)
"""The errors that the driver raises for a connection that fails, including those of the operating system."""
CANCEL_SECONDS: Final = 2.0
"""How long a dropped connection stays open for the request that cancels its statement."""
_KEPT_BYTES: Final = 2048
"""How much of the server's latest output is kept; an error that ends a connection has some 200 bytes."""
_FATAL: Final = {"FATAL", "PANIC"}


@dataclass(slots=True)
class ConnectionState:
    """The state of a connection that the driver does not know, from its opening to its end. It has no tenant.

    | transition | when | what changes |
    | --- | --- | --- |
    | `opened` | the pool has opened the connection | it has a time to retire |
    | `checked_in` | the pool gets the connection back | it is idle from now on |
    | `began` | a transaction begins, or begins again | nothing is written, no COMMIT is sent, nothing has failed |
    | `wrote` | a statement that may write is sent | the transaction may have written |
    | `failed` | the server refuses a statement | inside a transaction, only a rollback is possible |
    | `set_savepoint` | a savepoint is set | the transaction cannot be begun again |
    | `rolled_back` | the transaction, or a savepoint, is rolled back | nothing has failed |
    | `commit_sent` | COMMIT is about to be sent | its outcome is unknown until the server answers |

    Attributes:
        retires_at: When the pool replaces the connection, in seconds of the monotonic clock.
        idle_since: When the pool last got the connection back; None if the connection is in use for the first time.
        may_have_written: True if the open transaction may have written.
        is_commit_sent: True if COMMIT was sent for a transaction that may have written.
        is_aborted: True if the open transaction can only be rolled back.
        begun_with: The statements that begin the open transaction again; None if the transaction may write, uses one
            snapshot for all its statements, or has a savepoint: to begin it again would change its results.
    """

    retires_at: float = math.inf
    idle_since: float | None = None
    may_have_written: bool = False
    is_commit_sent: bool = False
    is_aborted: bool = False
    begun_with: str | None = None

    @property
    def was_kept(self) -> bool:
        """True if the connection was idle in the pool: the server may have ended it meanwhile."""
        return self.idle_since is not None

    def opened(self, *, lifetime: float) -> None:
        """Set the time to retire; `lifetime` is in seconds."""
        self.retires_at = time.monotonic() + lifetime

    def checked_in(self) -> None:
        """Start the idle time."""
        self.idle_since = time.monotonic()

    def began(self, begun_with: str | None = None) -> None:
        """Reset what was recorded for the previous transaction."""
        self.may_have_written = self.is_commit_sent = self.is_aborted = False
        self.begun_with = begun_with

    def wrote(self) -> None:
        """Record that a statement that may write is sent."""
        self.may_have_written = True

    def failed(self, *, in_transaction: bool) -> None:
        """Record that the server refused a statement; outside of a transaction nothing is aborted."""
        self.is_aborted = in_transaction

    def set_savepoint(self) -> None:
        """Record a savepoint, which would be lost if the transaction was begun again."""
        self.begun_with = None

    def rolled_back(self) -> None:
        """Record that the transaction has ended, or can continue after a rollback to a savepoint."""
        self.is_aborted = False

    def commit_sent(self, *, is_open: bool) -> None:
        """Record that COMMIT is sent, unless the connection is already closed."""
        self.is_commit_sent = self.may_have_written and is_open

    def has_lost_its_transaction(self, *, in_transaction: bool) -> bool:
        """Return True if the transaction was aborted or ended, and can be begun again without a loss."""
        return self.begun_with is not None and (self.is_aborted or not in_transaction)


class StatefulConnection(DriverConnection):
    """The connection that every engine, store and command of this package uses.

    Attributes:
        closing: The task that closes a dropped connection, if a statement is being cancelled; else None.
        state: What the driver does not know about the connection.
    """

    closing: asyncio.Task[None] | None = None
    _is_dropped = False

    def __init__(self, protocol: Any, transport: asyncio.Transport, *arguments: Any) -> None:
        super().__init__(protocol, transport, *arguments)
        self.state = ConnectionState()
        # asyncpg creates the connection after the login, from a protocol that the transport already has: this is the
        # first moment at which its input can be observed.
        self._output = RecordingProtocol(protocol, transport)
        transport.set_protocol(self._output)

    @property
    def ended_by(self) -> asyncpg.PostgresError | None:
        """The FATAL error with which the server ended the connection; None if the server has not, or sent none."""
        return self._output.find_fatal_error()

    async def begin_again(self) -> None:
        """Roll back the rest of the transaction, and begin the transaction again."""
        begun_with = self.state.begun_with
        await self.execute(f"ROLLBACK; {begun_with}")
        self.state.began(begun_with)

    async def set_type_codec(self, *arguments: Any, **options: Any) -> None:
        """Register a codec; SQLAlchemy calls this while it connects, outside of its own translation of errors."""
        try:
            await super().set_type_codec(*arguments, **options)
        except DRIVER_ERRORS as error:
            raise translate_connect(error, where="the server after the login") from error

    def terminate(self) -> None:
        """Drop the connection immediately; if a statement is being cancelled, once the server has that request.

        The driver sends the request over a second connection, in the background, and its own `terminate` cancels that
        task. The server would then run the statement to its end, keep its locks, and commit.
        """
        requests = self.cancel_requests
        # The driver also calls this from a request that failed: to wait for that request would be to wait for itself.
        if not requests or not is_running_here(self.loop) or asyncio.current_task() in requests:
            super().terminate()
        else:
            self._is_dropped = True
            if not self.is_closed():  # otherwise close() was called before, and waits for the server already
                self.closing = self.loop.create_task(self.close(timeout=CANCEL_SECONDS))

    async def close(self, *, timeout: float | None = None) -> None:  # noqa: ASYNC109 - the driver's signature
        """Close the connection within `timeout` seconds; a dropped connection raises no error of the driver."""
        try:
            await super().close(timeout=timeout)
        except DRIVER_ERRORS:
            if not self._is_dropped:
                raise


class PgBouncerConnection(StatefulConnection):
    """A connection to PgBouncer, which reports the parameters of the first server connection that it opened.

    A failover may have replaced that server since. The driver therefore has to query the server for its role.
    """

    def get_settings(self) -> Any:
        """Return the reported parameters, without those that tell a primary from a standby."""
        return _SettingsWithoutRole(super().get_settings())


class _SettingsWithoutRole:
    """The driver's settings; asyncpg queries the server if the two parameters are missing (`target_session_attrs`)."""

    def __init__(self, settings: Any) -> None:
        self._settings = settings

    def __getattr__(self, name: str) -> Any:
        if name in {"in_hot_standby", "default_transaction_read_only"}:
            raise AttributeError(name)
        return getattr(self._settings, name)


def is_running_here(loop: asyncio.AbstractEventLoop) -> bool:
    """Return True if this loop runs in this thread: the garbage collector drops connections in any thread."""
    try:
        return asyncio.get_running_loop() is loop
    except RuntimeError:
        return False


class RecordingProtocol(asyncio.Protocol):
    """Forwards everything to the driver's protocol, and keeps the end of the server's output.

    The driver ignores an error that arrives between two statements: the next statement fails with "connection is
    closed", and the reason is lost. `idle_in_transaction_session_timeout` always ends a connection that way.

    Args:
        driver: The protocol of the driver's connection.
        transport: The connection's transport.
    """

    def __init__(self, driver: Any, transport: asyncio.BaseTransport) -> None:
        self._driver = driver
        self._socket = transport.get_extra_info("socket")
        self._end = b""

    def find_fatal_error(self) -> asyncpg.PostgresError | None:
        """Return the FATAL error that the output ends with, or None.

        The format is in https://www.postgresql.org/docs/18/protocol-error-fields.html.
        """
        end = self._end
        # The length field decides which "E" is a message: the message must end exactly where the output ends.
        start = end.rfind(b"E")
        while start >= 0:
            if int.from_bytes(end[start + 1 : start + 5]) == len(end) - start - 1:
                fields = end[start + 5 :].decode(errors="replace").split("\0")
                error = {field[0]: field[1:] for field in fields if field}
                return asyncpg.PostgresError.new(error) if error.get("V") in _FATAL else None
            start = end.rfind(b"E", 0, start)
        return None

    def data_received(self, data: bytes) -> None:
        """Keep the end of the data, and forward all of it."""
        self._end = data[-_KEPT_BYTES:]
        self._driver.data_received(data)

    def connection_lost(self, exc: Exception | None) -> None:
        """Read the rest from the socket, and forward the loss.

        A Unix socket refuses to send as soon as the server has closed it. If the event loop was blocked until then, the
        transport gives up before it has read the error that the server sent. Under TLS the rest is not readable here.
        """
        if exc is not None:
            with suppress(OSError, ValueError):
                self._end = os.read(self._socket.fileno(), _KEPT_BYTES) or self._end
        self._driver.connection_lost(exc)

    def eof_received(self) -> bool | None:
        """Forward the end of the server's output."""
        return cast("bool | None", self._driver.eof_received())

    def pause_writing(self) -> None:
        """Forward that the transport's buffer is full."""
        self._driver.pause_writing()

    def resume_writing(self) -> None:
        """Forward that the transport's buffer has room again."""
        self._driver.resume_writing()


def fatal_error(connection: Any, error: BaseException) -> asyncpg.PostgresError | None:
    """Return the FATAL error that ended a connection, or None.

    Args:
        connection: The driver's connection.
        error: The error of a statement. If the FATAL error was the answer to the statement, it is among the causes.
    """
    if (ended_by := getattr(connection, "ended_by", None)) is not None:
        return cast("asyncpg.PostgresError", ended_by)
    cause: BaseException | None = error
    while cause is not None:
        if isinstance(cause, asyncpg.PostgresError) and cause.severity_en in _FATAL:
            return cause
        cause = cause.__cause__
    return None
