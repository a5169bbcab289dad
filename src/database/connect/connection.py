"""The driver's connection, as ours: it fails in our words, and ends on the server too when it is dropped."""

from __future__ import annotations

import asyncio
from typing import Any, Final

import asyncpg

from src.database.connect.last_words import LastWords
from src.database.translation import translate_connect

__all__ = ["DRIVER_ERRORS", "OurConnection", "PgBouncerConnection", "is_running_here"]

DRIVER_ERRORS: Final = (asyncpg.PostgresError, asyncpg.InterfaceError, asyncpg.InternalClientError, OSError, EOFError)
"""What the driver raises where a connection fails, the system's own errors included."""
PARTING_SECONDS: Final = 2.0
"""How long a connection that is dropped has to tell the server to stop what it does."""


class OurConnection(asyncpg.Connection):  # type: ignore[misc] # it ships no types
    """The driver's, whose set-up fails in our words too: what SQLAlchemy does to it passes all translation by.

    Attributes:
        parting: The end of one that was dropped, where the server is being told to stop first.
        with_begin: What goes with the next BEGIN, in the same round trip.
        is_introspecting: True while the driver reads a statement's types, before it sends the statement.
    """

    parting: asyncio.Task[None] | None = None
    with_begin: str | None = None
    is_introspecting = False
    _is_dropped = False

    def __init__(self, protocol: Any, transport: asyncio.Transport, *arguments: Any) -> None:
        super().__init__(protocol, transport, *arguments)
        self._last_words = LastWords(protocol, transport)
        transport.set_protocol(self._last_words)

    @property
    def ended_by(self) -> asyncpg.PostgresError | None:
        """The FATAL error with which the server ended the connection; None if it has not, or sent none."""
        return self._last_words.ended_by

    async def execute(
        self,
        query: str,
        *arguments: Any,
        timeout: float | None = None,  # noqa: ASYNC109 - the driver's
    ) -> str:
        """Execute, and with a BEGIN what has to come first in its transaction."""
        if self.with_begin is not None and query.startswith("BEGIN"):
            query, self.with_begin = f"{query} {self.with_begin}", None
        status: str = await super().execute(query, *arguments, timeout=timeout)
        return status

    async def _introspect_types(self, *arguments: Any) -> Any:
        """Read types; where this fails, the flag stays."""
        self.is_introspecting = True
        types = await super()._introspect_types(*arguments)
        self.is_introspecting = False
        return types

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
        requests = self._cancellations
        if not requests or not is_running_here(self._loop) or asyncio.current_task() in requests:  # one that has failed
            super().terminate()
        else:
            self._is_dropped = True
            if not self.is_closed():  # else it is being closed already, which waits for the server too
                self.parting = self._loop.create_task(self.close(timeout=PARTING_SECONDS))

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
    """Say whether it is this loop that runs here: the garbage collector drops connections in any thread."""
    try:
        return asyncio.get_running_loop() is loop
    except RuntimeError:
        return False
