"""asyncpg as its documentation shows it: a pool, a transaction where several statements belong together."""

from __future__ import annotations

from typing import Any
from uuid import UUID, uuid4

import asyncpg

from benchmarks.contenders import sql
from benchmarks.contenders.base import POOL_SIZE, Contender, Place, Said

__all__ = ["AsyncpgPool"]

PAGE = 100
FETCHED = 1000


class AsyncpgPool(Contender):
    """`async with pool.acquire()`, which costs a further round trip when the connection goes back."""

    async def open(self, place: Place) -> None:
        self._tenant = place.tenant_id
        self._pool: Any = await asyncpg.create_pool(
            host=place.host, user=place.user, database=place.database, min_size=POOL_SIZE, max_size=POOL_SIZE
        )

    async def close(self) -> None:
        await self._pool.close()

    async def user_by_telegram_id(self, telegram_id: int) -> Any:
        async with self._pool.acquire() as connection:
            return await connection.fetchrow(sql.USER_BY_TELEGRAM_ID, self._tenant, telegram_id)

    async def get_or_create_user(self, telegram_id: int) -> Any:
        async with self._pool.acquire() as connection:
            user = await connection.fetchrow(sql.USER_BY_TELEGRAM_ID, self._tenant, telegram_id)
            if user is None:
                user = await connection.fetchrow(sql.NEW_USER, self._tenant, telegram_id, uuid4())
            return user

    async def append(self, conversation_id: UUID, said: Said) -> Any:
        async with self._pool.acquire() as connection, connection.transaction():
            talk = await connection.fetchrow(sql.ADVANCE, self._tenant, conversation_id, 1, said.created_at)
            await connection.execute(
                sql.INSERT, self._tenant, uuid4(), conversation_id, talk["user_id"], talk["last_seq"], *said
            )
            return talk

    async def append_locked(self, conversation_id: UUID, said: Said) -> Any:
        async with self._pool.acquire() as connection, connection.transaction():
            talk = await connection.fetchrow(sql.LOCK, self._tenant, conversation_id)
            if stored := await connection.fetchrow(sql.BY_KEY, self._tenant, said.message_id):
                return stored
            seq = talk["last_seq"] + 1
            await connection.execute(sql.SET_LAST, self._tenant, conversation_id, seq, said.created_at)
            await connection.execute(sql.INSERT, self._tenant, uuid4(), conversation_id, talk["user_id"], seq, *said)
            return talk

    async def append_many(self, conversation_id: UUID, said: list[Said]) -> Any:
        async with self._pool.acquire() as connection, connection.transaction():
            talk = await connection.fetchrow(sql.ADVANCE, self._tenant, conversation_id, len(said), said[-1].created_at)
            first = talk["last_seq"] - len(said) + 1
            rows = [
                (self._tenant, uuid4(), conversation_id, talk["user_id"], first + place, *one)
                for place, one in enumerate(said)
            ]
            await connection.copy_records_to_table("message_history", records=rows, columns=sql.NEW_MESSAGE_COLUMNS)
            return rows

    async def recent(self, conversation_id: UUID, limit: int) -> Any:
        async with self._pool.acquire() as connection:
            rows = await connection.fetch(sql.RECENT, self._tenant, conversation_id, limit)
            return rows[::-1]

    async def turn(self, telegram_id: int, chat: str, said: list[Said]) -> Any:
        async with self._pool.acquire() as connection, connection.transaction():
            user = await connection.fetchrow(sql.USER_BY_TELEGRAM_ID, self._tenant, telegram_id)
            talk = await connection.fetchrow(sql.ACTIVE_CONVERSATION, self._tenant, user["id"], "telegram", chat)
            rows = await connection.fetch(sql.RECENT, self._tenant, talk["id"], 20)
            last = await connection.fetchrow(sql.ADVANCE, self._tenant, talk["id"], len(said), said[-1].created_at)
            first = last["last_seq"] - len(said) + 1
            await connection.executemany(
                sql.INSERT,
                [
                    (self._tenant, uuid4(), talk["id"], user["id"], first + place, *one)
                    for place, one in enumerate(said)
                ],
            )
            return rows[::-1]

    async def pages(self, conversation_id: UUID, pages: int) -> int:
        count, seq = 0, 0
        for _ in range(pages):
            async with self._pool.acquire() as connection:
                rows = await connection.fetch(sql.AFTER, self._tenant, conversation_id, seq, PAGE)
            count += len(rows)
            seq = rows[-1]["seq"]
        return count

    async def stream(self, user_id: UUID) -> int:
        count = 0
        async with self._pool.acquire() as connection, connection.transaction():
            async for _ in connection.cursor(sql.OF_USER, self._tenant, user_id):
                count += 1
        return count

    async def search(self, user_id: UUID, query: str) -> Any:
        async with self._pool.acquire() as connection:
            return await connection.fetch(sql.SEARCH, self._tenant, user_id, query)
