"""Private names of asyncpg: each is used once, here.

A release of asyncpg may change them; `tests/database/connect/test_asyncpg_internals.py` has a canary for each.
"""

from __future__ import annotations

import asyncio
from collections.abc import Collection
from typing import Any

import asyncpg
from asyncpg.transaction import Transaction, TransactionState


class DriverConnection(asyncpg.Connection):  # type: ignore[misc] # asyncpg ships no types
    """The driver's connection, with public names for what the driver keeps private.

    Attributes:
        transport: The connection's transport, also after the connection has ended.
        loop: The event loop that opened the connection.
        is_introspecting: True while the driver reads a statement's types, before the driver sends the statement.
    """

    is_introspecting = False

    def __init__(
        self, protocol: Any, transport: asyncio.Transport, loop: asyncio.AbstractEventLoop, *arguments: Any
    ) -> None:
        super().__init__(protocol, transport, loop, *arguments)
        self._driver_protocol = protocol  # the driver sets its own reference to None when the connection ends
        self.transport = transport
        self.loop = loop

    @property
    def statements_sent(self) -> int:
        """The number of statements that the driver has sent, without statements that it has only prepared."""
        sent: int = self._driver_protocol.queries_count
        return sent

    @property
    def cancel_requests(self) -> Collection[asyncio.Task[None]]:
        """The requests to cancel a statement that the server has not received yet."""
        requests: Collection[asyncio.Task[None]] = self._cancellations
        return requests

    def take_command_timeout(self) -> float | None:
        """Return the time limit of each statement in seconds, or None; from now on the caller applies the limit."""
        parameters: Any = self._config
        self._config: Any = parameters._replace(command_timeout=None)
        seconds: float | None = parameters.command_timeout
        return seconds

    async def _introspect_types(self, *arguments: Any) -> Any:
        # Not in a finally block: after an error here the statement was never sent, and can be sent again.
        self.is_introspecting = True
        types = await super()._introspect_types(*arguments)
        self.is_introspecting = False
        return types


class BoundTransaction(Transaction):  # type: ignore[misc] # asyncpg ships no types
    """A transaction of the driver whose BEGIN is sent together with another statement."""

    async def start_with(self, statement: str) -> None:
        """Send BEGIN and the statement in one round trip, and record how the transaction can be begun again."""
        connection, isolation = self._connection, self._isolation
        words = ["BEGIN"]
        if isolation is not None:
            words.append(f"ISOLATION LEVEL {isolation.replace('_', ' ').upper()}")
        words += ["READ ONLY"] if self._readonly else []
        words += ["DEFERRABLE"] if self._deferrable else []
        script = f"{' '.join(words)}; {statement}"
        connection._top_xact = self  # noqa: SLF001 - as the driver's own `start` does
        try:
            await connection.execute(script)
        except BaseException:
            self._state = TransactionState.FAILED
            raise
        self._state = TransactionState.STARTED
        if self._readonly and isolation is None:
            connection.state.began(script)
