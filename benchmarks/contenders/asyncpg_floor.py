"""asyncpg at its floor: no pool, and each operation one hand-written statement on this project's schema."""

from __future__ import annotations

import asyncio
from typing import Any
from uuid import UUID

import asyncpg

from benchmarks.contenders import sql
from benchmarks.contenders.asyncpg_pool import FETCHED, PAGE
from benchmarks.contenders.base import CONVERSATION, MESSAGE, POOL_SIZE, USER, Contender, Incoming, Place

__all__ = ["AsyncpgFloor"]

_USER = sql.under_row_level_security(sql.USER_BY_TELEGRAM_ID)
_RECENT = sql.under_row_level_security(sql.RECENT)
_AFTER = sql.under_row_level_security(sql.AFTER)
_OF_USER = sql.under_row_level_security(sql.OF_USER)
_SEARCH = sql.under_row_level_security(sql.SEARCH)
# The functions of floor.sql.
_GET_OR_CREATE = f"SELECT {USER} FROM bench_get_or_create_user($1, $2)"
_GET_OR_START = f"SELECT {CONVERSATION} FROM bench_get_or_start($1, $2, 'telegram', $3)"
_APPEND = "SELECT bench_append($1, $2, $3, $4, $5, $6, $7)"
_APPEND_MANY = "SELECT bench_append_many($1, $2, $3, $4, $5, $6, $7)"
_TURN = (
    f"SELECT person, conversation, {', '.join(f'(message).{name}' for name in MESSAGE.split(', '))}"
    " FROM bench_turn($1, $2, 'telegram', $3, $4, $5, $6, $7, $8)"
)


class AsyncpgFloor(Contender):
    """The application's role, the tenant in the statement, one round trip an operation; nothing is checked."""

    async def open(self, place: Place) -> None:
        connecting = (
            asyncpg.connect(host=place.host, user=place.user, database=place.database) for _ in range(POOL_SIZE)
        )
        self._free: list[Any] = await asyncio.gather(*connecting)

    async def close(self) -> None:
        for connection in self._free:
            await connection.close()

    async def _fetch(self, statement: str, *values: Any) -> Any:
        connection = self._free.pop()  # as many as there are callers
        try:
            return await connection.fetch(statement, *values)
        finally:
            self._free.append(connection)

    async def user_by_telegram_id(self, tenant_id: UUID, telegram_id: int) -> Any:
        return await self._fetch(_USER, tenant_id, telegram_id)

    async def get_or_create_user(self, tenant_id: UUID, telegram_id: int) -> Any:
        return await self._fetch(_GET_OR_CREATE, tenant_id, telegram_id)

    async def get_or_start(self, tenant_id: UUID, user_id: UUID, chat: str) -> Any:
        return await self._fetch(_GET_OR_START, tenant_id, user_id, chat)

    async def append(self, tenant_id: UUID, conversation_id: UUID, message: Incoming) -> Any:
        return await self._fetch(_APPEND, tenant_id, conversation_id, *message)

    async def append_many(self, tenant_id: UUID, conversation_id: UUID, messages: list[Incoming]) -> Any:
        await self._fetch(_APPEND_MANY, tenant_id, conversation_id, *map(list, zip(*messages, strict=True)))
        return messages

    async def recent(self, tenant_id: UUID, conversation_id: UUID, limit: int) -> Any:
        return (await self._fetch(_RECENT, tenant_id, conversation_id, limit))[::-1]

    async def turn(self, tenant_id: UUID, telegram_id: int, chat: str, messages: list[Incoming]) -> Any:
        _, *newest = await self._fetch(_TURN, tenant_id, telegram_id, chat, *map(list, zip(*messages, strict=True)))
        return newest[::-1]

    async def pages(self, tenant_id: UUID, conversation_id: UUID, pages: int) -> int:
        count, seq = 0, 0
        for _ in range(pages):
            rows = await self._fetch(_AFTER, tenant_id, conversation_id, seq, PAGE)
            count, seq = count + len(rows), rows[-1]["seq"]
        return count

    async def stream(self, tenant_id: UUID, user_id: UUID) -> int:
        count = 0
        connection = self._free.pop()
        try:
            async with connection.transaction():
                cursor = await connection.cursor(_OF_USER, tenant_id, user_id)
                while rows := await cursor.fetch(FETCHED):
                    count += len(rows)
        finally:
            self._free.append(connection)
        return count

    async def search(self, tenant_id: UUID, user_id: UUID, query: str) -> Any:
        return await self._fetch(_SEARCH, tenant_id, user_id, query)
