"""asyncpg at its floor: no pool, a connection for each who asks, and each operation a statement written by hand."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any
from uuid import UUID, uuid4

import asyncpg

from benchmarks.contenders import sql
from benchmarks.contenders.asyncpg_pool import FETCHED, PAGE
from benchmarks.contenders.base import POOL_SIZE, Contender, Place, Said

__all__ = ["AsyncpgFloor"]


class AsyncpgFloor(Contender):
    """As few round trips as there can be, and nothing checked, counted or given back in between."""

    async def open(self, place: Place) -> None:
        self._tenant = place.tenant_id
        connecting = (
            asyncpg.connect(host=place.host, user=place.user, database=place.database) for _ in range(POOL_SIZE)
        )
        self._free: list[Any] = await asyncio.gather(*connecting)

    async def close(self) -> None:
        for connection in self._free:
            await connection.close()

    @asynccontextmanager
    async def _connection(self) -> AsyncIterator[Any]:
        """Take one for what is several calls."""
        connection = self._free.pop()
        try:
            yield connection
        finally:
            self._free.append(connection)

    async def _fetch(self, statement: str, *values: Any) -> Any:
        connection = self._free.pop()  # there is one for each: nobody waits
        try:
            return await connection.fetch(statement, self._tenant, *values)
        finally:
            self._free.append(connection)

    async def user_by_telegram_id(self, telegram_id: int) -> Any:
        return await self._fetch(sql.USER_BY_TELEGRAM_ID, telegram_id)

    async def get_or_create_user(self, telegram_id: int) -> Any:
        return await self._fetch(sql.GET_OR_CREATE, telegram_id, uuid4())

    async def append(self, conversation_id: UUID, said: Said) -> Any:
        return await self._fetch(sql.APPEND, conversation_id, *said)

    async def append_many(self, conversation_id: UUID, said: list[Said]) -> Any:
        async with self._connection() as connection, connection.transaction():
            [talk] = await connection.fetch(sql.ADVANCE, self._tenant, conversation_id, len(said), said[-1].created_at)
            user_id, first = talk["user_id"], talk["last_seq"] - len(said) + 1
            rows = [
                (self._tenant, uuid4(), conversation_id, user_id, first + place, *one) for place, one in enumerate(said)
            ]
            await connection.copy_records_to_table("message_history", records=rows, columns=sql.NEW_MESSAGE_COLUMNS)
            return rows

    async def recent(self, conversation_id: UUID, limit: int) -> Any:
        return (await self._fetch(sql.RECENT, conversation_id, limit))[::-1]

    async def turn(self, telegram_id: int, chat: str, said: list[Said]) -> Any:
        columns = map(list, zip(*said, strict=True))
        return (await self._fetch(sql.TURN, telegram_id, "telegram", chat, *columns))[::-1]

    async def pages(self, conversation_id: UUID, pages: int) -> int:
        count, seq = 0, 0
        for _ in range(pages):
            rows = await self._fetch(sql.AFTER, conversation_id, seq, PAGE)
            count += len(rows)
            seq = rows[-1]["seq"]
        return count

    async def stream(self, user_id: UUID) -> int:
        count = 0
        async with self._connection() as connection, connection.transaction():
            cursor = await connection.cursor(sql.OF_USER, self._tenant, user_id)
            while rows := await cursor.fetch(FETCHED):
                count += len(rows)
        return count

    async def search(self, user_id: UUID, query: str) -> Any:
        return await self._fetch(sql.SEARCH, user_id, query)
