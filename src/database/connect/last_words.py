"""The error with which the server ended a connection, also while no statement was waiting for its answer."""

from __future__ import annotations

import asyncio
import os
from contextlib import suppress
from typing import Any, Final, cast

import asyncpg

__all__ = ["LastWords", "fatal_error"]

_KEPT: Final = 2048  # bytes; an error that ends a connection has some 200
_FATAL: Final = {"FATAL", "PANIC"}


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
        self._end = data[-_KEPT:]
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
                self._end = os.read(self._socket.fileno(), _KEPT) or self._end
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
