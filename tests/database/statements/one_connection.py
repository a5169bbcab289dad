"""A sender that sends the store's statements on one connection, in whatever transaction the connection is."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Callable
from typing import Any
from uuid import UUID

import asyncpg

from src.database.statements.call import Call
from src.database.statements.read import Read
from src.database.store.calls import Calls

__all__ = ["OneConnection"]


class OneConnection(Calls):
    """A sender on a connection of the test, which may roll back its transaction.

    Args:
        connection: The driver's connection.
        tenant_id: The current tenant.
        rewrite: Changes a statement before it is sent.
    """

    def __init__(
        self, connection: asyncpg.Connection[Any], tenant_id: UUID, rewrite: Callable[[str], str] = str
    ) -> None:
        self.connection = connection
        self._tenant_id = tenant_id
        self._rewrite = rewrite
        self.received: list[Any] = []
        """The rows that the server returned."""

    @property
    def tenant_id(self) -> UUID:
        """The current tenant."""
        return self._tenant_id

    async def call(self, call: Call[Any], *arguments: Any) -> list[Any]:
        """Call a function."""
        return await self._fetch(self._rewrite(call.sql), self._tenant_id, *arguments, row=call.row)

    async def read(self, read: Read[Any], *values: Any) -> list[Any]:
        """Send a read."""
        return await self._fetch(self._rewrite(read.sql), *read.arguments(self._tenant_id, values), row=read.row)

    async def stream(self, read: Read[Any], *values: Any) -> AsyncGenerator[list[Any], None]:
        """Send a read, and yield its rows in one batch."""
        yield await self.read(read, *values)

    async def _fetch(self, sql: str, *arguments: Any, row: Any) -> list[Any]:
        rows: list[Any] = await self.connection.fetch(sql, *arguments, record_class=row)
        self.received += rows
        return rows
