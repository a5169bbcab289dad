"""The driver's connection, as ours: it fails in our words, and ends on the server too when it is dropped."""

from __future__ import annotations

import asyncio
import os
from contextlib import suppress
from typing import Any, Final, cast

import asyncpg

from src.database.connect.asyncpg_internals import DriverConnection
from src.database.connect.state import ConnectionState
from src.database.translation import translate_connect

DRIVER_ERRORS: Final = (asyncpg.PostgresError, asyncpg.InterfaceError, asyncpg.InternalClientError, OSError, EOFError)
"""The errors of the driver for a connection that fails, including those of the operating system."""
PARTING_SECONDS: Final = 2.0
"""How long a connection that is dropped has to tell the server to stop what it does."""
_KEPT_BYTES: Final = 2048
"""The part of the server's output that is kept; an error that ends a connection has some 200 bytes."""
_FATAL: Final = {"FATAL", "PANIC"}


class OurConnection(DriverConnection):
    """The driver's, whose set-up fails in our words too: what SQLAlchemy does to it passes all translation by.

    Attributes:
        parting: The end of one that was dropped, where the server is being told to stop first.
        state: What is known of the connection beside the driver's own state.
    """

    parting: asyncio.Task[None] | None = None
    _is_dropped = False

    def __init__(self, protocol: Any, transport: asyncio.Transport, *arguments: Any) -> None:
        super().__init__(protocol, transport, *arguments)
        self.state = ConnectionState()
        self._last_words = LastWords(protocol, transport)
        transport.set_protocol(self._last_words)

    @property
    def ended_by(self) -> asyncpg.PostgresError | None:
        """The FATAL error with which the server ended the connection; None if it has not, or sent none."""
        return self._last_words.ended_by

    async def begin_again(self) -> None:
        """Roll back what is left of the transaction, and begin it again."""
        begun_with = self.state.begun_with
        await self.execute(f"ROLLBACK; {begun_with}")
        self.state.began(begun_with)

    async def set_type_codec(self, *arguments: Any, **options: Any) -> None:
        """Teach it a type."""
        try:
            await super().set_type_codec(*arguments, **options)
        except DRIVER_ERRORS as error:
            raise translate_connect(error, where="the server, just connected to") from error

    def terminate(self) -> None:
        """Drop it at once; where a statement is being cancelled, only once the server has heard of that.

        The driver's own takes the request to cancel back: the server would go on with the statement for as long as it
        takes, hold its locks, and commit it in the end.
        """
        requests = self.cancel_requests
        if not requests or not is_running_here(self.loop) or asyncio.current_task() in requests:  # one that has failed
            super().terminate()
        else:
            self._is_dropped = True
            if not self.is_closed():  # else it is being closed already, which waits for the server too
                self.parting = self.loop.create_task(self.close(timeout=PARTING_SECONDS))

    async def close(self, *, timeout: float | None = None) -> None:  # noqa: ASYNC109 - the driver's
        """Close it; of one that was dropped nobody waits to hear that it was not in time, or broken."""
        try:
            await super().close(timeout=timeout)
        except DRIVER_ERRORS:
            if not self._is_dropped:
                raise


class PgBouncerConnection(OurConnection):
    """One whose server may be another by now: what PgBouncer said of it at the start is what its first one was."""

    def get_settings(self) -> Any:
        """Return what the server reported, without what may not be true any more."""
        return _WithoutTheServersState(super().get_settings())


class _WithoutTheServersState:
    """Settings that do not tell whether the server takes writes: then the driver asks the server itself."""

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


class LastWords(asyncio.Protocol):
    """Pass everything on to the driver's protocol, and keep the end of what the server sent.

    The driver drops an error that arrives between two statements: the next statement then fails with "connection is
    closed", and the reason is lost. `idle_in_transaction_session_timeout` always ends a connection that way.

    Args:
        driver: The protocol of the driver's connection.
        transport: The connection's transport.
    """

    def __init__(self, driver: Any, transport: asyncio.BaseTransport) -> None:
        self._driver = driver
        self._socket = transport.get_extra_info("socket")
        self._end = b""

    @property
    def ended_by(self) -> asyncpg.PostgresError | None:
        """The FATAL error that the server sent last, or None."""
        return _find_fatal_error(self._end)

    def data_received(self, data: bytes) -> None:
        """Keep the end, and pass all of it on."""
        self._end = data[-_KEPT_BYTES:]
        self._driver.data_received(data)

    def eof_received(self) -> bool | None:
        """Pass it on."""
        is_kept_open: bool | None = self._driver.eof_received()
        return is_kept_open

    def connection_lost(self, exc: Exception | None) -> None:
        """Read what is left on the socket, and pass the loss on.

        A Unix socket refuses to send as soon as the server has closed it. If the event loop was blocked until then, the
        transport gives up without reading the error that the server had sent. Under TLS nothing can be read here.
        """
        if exc is not None:
            with suppress(OSError, ValueError):
                self._end = os.read(self._socket.fileno(), _KEPT_BYTES) or self._end
        self._driver.connection_lost(exc)

    def pause_writing(self) -> None:
        """Pass it on."""
        self._driver.pause_writing()

    def resume_writing(self) -> None:
        """Pass it on."""
        self._driver.resume_writing()


def fatal_error(connection: Any, error: BaseException) -> asyncpg.PostgresError | None:
    """Return the FATAL error that ended a connection, or None.

    Args:
        connection: The driver's connection.
        error: What a statement failed with. Where the FATAL error was the statement's answer, it is one of the causes.
    """
    if (ended_by := getattr(connection, "ended_by", None)) is not None:
        return cast("asyncpg.PostgresError", ended_by)
    cause: BaseException | None = error
    while cause is not None:
        if isinstance(cause, asyncpg.PostgresError) and cause.severity_en in _FATAL:
            return cause
        cause = cause.__cause__
    return None


def _find_fatal_error(end: bytes) -> asyncpg.PostgresError | None:
    """Return the error of a FATAL ErrorResponse that these bytes end with, or None.

    The format: https://www.postgresql.org/docs/18/protocol-error-fields.html
    """
    start = end.rfind(b"E")
    while start >= 0:
        if int.from_bytes(end[start + 1 : start + 5]) == len(end) - start - 1:
            fields = end[start + 5 :].decode(errors="replace").split("\0")
            error = {field[0]: field[1:] for field in fields if field}
            return asyncpg.PostgresError.new(error) if error.get("V") in _FATAL else None
        start = end.rfind(b"E", 0, start)
    return None
