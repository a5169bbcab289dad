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
    """Sends calls and reads on a connection of the test's, which may roll back what they do.

    Args:
        connection: The driver's connection.
        tenant_id: The current tenant.
        rewrite: Changes a statement before it is sent.
    """

    def __init__(
        self, connection: asyncpg.Connection[Any], tenant_id: UUID, rewrite: Callable[[str], str] = str
    ) -> None:
        self._connection = connection
        self._tenant_id = tenant_id
        self._rewrite = rewrite

    @property
    def tenant_id(self) -> UUID:
        """The current tenant."""
        return self._tenant_id

    async def call(self, call: Call[Any], *arguments: Any) -> list[Any]:
        """Call a function."""
        sql = self._rewrite(call.sql)
        return await self._connection.fetch(sql, self._tenant_id, *arguments, record_class=call.row)

    async def read(self, read: Read[Any], *values: Any) -> list[Any]:
        """Send a read."""
        sql = self._rewrite(read.sql)
        return await self._connection.fetch(sql, *read.arguments(self._tenant_id, values), record_class=read.row)

    async def stream(self, read: Read[Any], *values: Any) -> AsyncGenerator[list[Any], None]:
        """Send a read, and yield its rows in one batch."""
        yield await self.read(read, *values)
