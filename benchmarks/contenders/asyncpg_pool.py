"""asyncpg as its documentation shows it: a pool, and a transaction around several statements."""

from __future__ import annotations

from typing import Any
from uuid import UUID, uuid4

import asyncpg

from benchmarks.contenders import sql
from benchmarks.contenders.base import POOL_SIZE, Contender, Incoming, Place

__all__ = ["AsyncpgPool"]

PAGE = 100
FETCHED = 1000


class AsyncpgPool(Contender):
    """`async with pool.acquire()`: releasing the connection costs one more round trip."""

    async def open(self, place: Place) -> None:
        self._pool: Any = await asyncpg.create_pool(
            host=place.host, user=place.user, database=place.database, min_size=POOL_SIZE, max_size=POOL_SIZE
        )

    async def close(self) -> None:
        await self._pool.close()

    async def user_by_telegram_id(self, tenant_id: UUID, telegram_id: int) -> Any:
        async with self._pool.acquire() as connection:
            return await connection.fetchrow(sql.USER_BY_TELEGRAM_ID, tenant_id, telegram_id)

    async def get_or_create_user(self, tenant_id: UUID, telegram_id: int) -> Any:
        async with self._pool.acquire() as connection:
            user = await connection.fetchrow(sql.USER_BY_TELEGRAM_ID, tenant_id, telegram_id)
            if user is None:
                user = await connection.fetchrow(sql.NEW_USER, tenant_id, telegram_id, uuid4())
            return user

    async def get_or_start(self, tenant_id: UUID, user_id: UUID, chat: str) -> Any:
        async with self._pool.acquire() as connection:
            key = (tenant_id, user_id, "telegram", chat)
            conversation = await connection.fetchrow(sql.ACTIVE_CONVERSATION, *key)
            if conversation is None:
                conversation = await connection.fetchrow(sql.NEW_CONVERSATION, *key, uuid4(), uuid4().hex)
            return conversation

    async def append(self, tenant_id: UUID, conversation_id: UUID, message: Incoming) -> Any:
        async with self._pool.acquire() as connection, connection.transaction():
            conversation = await connection.fetchrow(sql.ADVANCE, tenant_id, conversation_id, 1, message.created_at)
            await connection.execute(
                sql.INSERT,
                tenant_id,
                uuid4(),
                conversation_id,
                conversation["user_id"],
                conversation["last_seq"],
                *message,
            )
            return conversation

    async def append_locked(self, tenant_id: UUID, conversation_id: UUID, message: Incoming) -> Any:
        async with self._pool.acquire() as connection, connection.transaction():
            conversation = await connection.fetchrow(sql.LOCK, tenant_id, conversation_id)
            if stored := await connection.fetchrow(sql.BY_KEY, tenant_id, message.message_id):
                return stored
            seq = conversation["last_seq"] + 1
            await connection.execute(sql.SET_LAST, tenant_id, conversation_id, seq, message.created_at)
            await connection.execute(
                sql.INSERT, tenant_id, uuid4(), conversation_id, conversation["user_id"], seq, *message
            )
            return conversation

    async def append_many(self, tenant_id: UUID, conversation_id: UUID, messages: list[Incoming]) -> Any:
        async with self._pool.acquire() as connection, connection.transaction():
            conversation = await connection.fetchrow(
                sql.ADVANCE, tenant_id, conversation_id, len(messages), messages[-1].created_at
            )
            first = conversation["last_seq"] - len(messages) + 1
            rows = [
                (tenant_id, uuid4(), conversation_id, conversation["user_id"], first + place, *one)
                for place, one in enumerate(messages)
            ]
            await connection.copy_records_to_table("message_history", records=rows, columns=sql.NEW_MESSAGE_COLUMNS)
            return rows

    async def recent(self, tenant_id: UUID, conversation_id: UUID, limit: int) -> Any:
        async with self._pool.acquire() as connection:
            rows = await connection.fetch(sql.RECENT, tenant_id, conversation_id, limit)
            return rows[::-1]

    async def turn(self, tenant_id: UUID, telegram_id: int, chat: str, messages: list[Incoming]) -> Any:
        async with self._pool.acquire() as connection, connection.transaction():
            user = await connection.fetchrow(sql.USER_BY_TELEGRAM_ID, tenant_id, telegram_id)
            conversation = await connection.fetchrow(sql.ACTIVE_CONVERSATION, tenant_id, user["id"], "telegram", chat)
            rows = await connection.fetch(sql.RECENT, tenant_id, conversation["id"], 20)
            last = await connection.fetchrow(
                sql.ADVANCE, tenant_id, conversation["id"], len(messages), messages[-1].created_at
            )
            first = last["last_seq"] - len(messages) + 1
            await connection.executemany(
                sql.INSERT,
                [
                    (tenant_id, uuid4(), conversation["id"], user["id"], first + place, *one)
                    for place, one in enumerate(messages)
                ],
            )
            return rows[::-1]

    async def pages(self, tenant_id: UUID, conversation_id: UUID, pages: int) -> int:
        count, seq = 0, 0
        for _ in range(pages):
            async with self._pool.acquire() as connection:
                rows = await connection.fetch(sql.AFTER, tenant_id, conversation_id, seq, PAGE)
            count += len(rows)
            seq = rows[-1]["seq"]
        return count

    async def stream(self, tenant_id: UUID, user_id: UUID) -> int:
        count = 0
        async with self._pool.acquire() as connection, connection.transaction():
            async for _ in connection.cursor(sql.OF_USER, tenant_id, user_id):
                count += 1
        return count

    async def search(self, tenant_id: UUID, user_id: UUID, query: str) -> Any:
        async with self._pool.acquire() as connection:
            return await connection.fetch(sql.SEARCH, tenant_id, user_id, query)
