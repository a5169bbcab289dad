"""psycopg 3 as its documentation shows it: an AsyncConnectionPool, whose `connection()` is a transaction."""

from __future__ import annotations

import re
from typing import Any, Final
from uuid import UUID, uuid4

from psycopg.rows import dict_row
from psycopg_pool import AsyncConnectionPool

from benchmarks.contenders import sql
from benchmarks.contenders.base import POOL_SIZE, Contender, Incoming, Place

__all__ = ["PsycopgPool"]

_COLUMNS: Final = ", ".join(sql.NEW_MESSAGE_COLUMNS)


def _named(statement: str) -> str:
    """Return a statement with the placeholders of psycopg."""
    return re.sub(r"\$(\d+)", r"%(p\1)s", statement)


_STATEMENTS: Final = {
    statement: _named(statement)
    for statement in (
        sql.USER_BY_TELEGRAM_ID,
        sql.NEW_USER,
        sql.ACTIVE_CONVERSATION,
        sql.NEW_CONVERSATION,
        sql.RECENT,
        sql.AFTER,
        sql.OF_USER,
        sql.ADVANCE,
        sql.INSERT,
        sql.SEARCH,
    )
}


class PsycopgPool(Contender):
    """Rows as dictionaries, by its own `dict_row`."""

    async def open(self, place: Place) -> None:
        self._pool: Any = AsyncConnectionPool(
            f"host={place.host} user={place.user} dbname={place.database}",
            min_size=POOL_SIZE,
            max_size=POOL_SIZE,
            kwargs={"row_factory": dict_row},
            open=False,
        )
        await self._pool.open(wait=True)

    async def close(self) -> None:
        await self._pool.close()

    async def user_by_telegram_id(self, tenant_id: UUID, telegram_id: int) -> Any:
        async with self._pool.connection() as connection:
            return await self._one(connection, sql.USER_BY_TELEGRAM_ID, tenant_id, telegram_id)

    async def get_or_create_user(self, tenant_id: UUID, telegram_id: int) -> Any:
        async with self._pool.connection() as connection:
            user = await self._one(connection, sql.USER_BY_TELEGRAM_ID, tenant_id, telegram_id)
            if user is None:
                user = await self._one(connection, sql.NEW_USER, tenant_id, telegram_id, uuid4())
            return user

    async def get_or_start(self, tenant_id: UUID, user_id: UUID, chat: str) -> Any:
        async with self._pool.connection() as connection:
            key = (tenant_id, user_id, "telegram", chat)
            conversation = await self._one(connection, sql.ACTIVE_CONVERSATION, *key)
            if conversation is None:
                conversation = await self._one(connection, sql.NEW_CONVERSATION, *key, uuid4(), uuid4().hex)
            return conversation

    async def append(self, tenant_id: UUID, conversation_id: UUID, message: Incoming) -> Any:
        async with self._pool.connection() as connection:
            conversation = await self._one(connection, sql.ADVANCE, tenant_id, conversation_id, 1, message.created_at)
            values = _values(
                tenant_id, uuid4(), conversation_id, conversation["user_id"], conversation["last_seq"], *message
            )
            await connection.execute(_STATEMENTS[sql.INSERT], values)
            return conversation

    async def append_many(self, tenant_id: UUID, conversation_id: UUID, messages: list[Incoming]) -> Any:
        async with self._pool.connection() as connection, connection.cursor() as cursor:
            conversation = await self._one(
                connection, sql.ADVANCE, tenant_id, conversation_id, len(messages), messages[-1].created_at
            )
            first = conversation["last_seq"] - len(messages) + 1
            async with cursor.copy(f"COPY message_history ({_COLUMNS}) FROM STDIN") as copy:
                for place, one in enumerate(messages):
                    await copy.write_row(
                        (tenant_id, uuid4(), conversation_id, conversation["user_id"], first + place, *one)
                    )
            return messages

    async def recent(self, tenant_id: UUID, conversation_id: UUID, limit: int) -> Any:
        async with self._pool.connection() as connection:
            return (await self._all(connection, sql.RECENT, tenant_id, conversation_id, limit))[::-1]

    async def turn(self, tenant_id: UUID, telegram_id: int, chat: str, messages: list[Incoming]) -> Any:
        async with self._pool.connection() as connection:
            user = await self._one(connection, sql.USER_BY_TELEGRAM_ID, tenant_id, telegram_id)
            conversation = await self._one(connection, sql.ACTIVE_CONVERSATION, tenant_id, user["id"], "telegram", chat)
            rows = await self._all(connection, sql.RECENT, tenant_id, conversation["id"], 20)
            last = await self._one(
                connection, sql.ADVANCE, tenant_id, conversation["id"], len(messages), messages[-1].created_at
            )
            first = last["last_seq"] - len(messages) + 1
            async with connection.cursor() as cursor:
                new = [
                    _values(tenant_id, uuid4(), conversation["id"], user["id"], first + place, *one)
                    for place, one in enumerate(messages)
                ]
                await cursor.executemany(_STATEMENTS[sql.INSERT], new)
            return rows[::-1]

    async def pages(self, tenant_id: UUID, conversation_id: UUID, pages: int) -> int:
        count, seq = 0, 0
        for _ in range(pages):
            async with self._pool.connection() as connection:
                rows = await self._all(connection, sql.AFTER, tenant_id, conversation_id, seq, 100)
            count, seq = count + len(rows), rows[-1]["seq"]
        return count

    async def stream(self, tenant_id: UUID, user_id: UUID) -> int:
        count = 0
        async with self._pool.connection() as connection, connection.cursor(name="export") as cursor:
            cursor.itersize = 1000
            await cursor.execute(_STATEMENTS[sql.OF_USER], _values(tenant_id, user_id))
            async for _ in cursor:
                count += 1
        return count

    async def search(self, tenant_id: UUID, user_id: UUID, query: str) -> Any:
        async with self._pool.connection() as connection:
            return await self._all(connection, sql.SEARCH, tenant_id, user_id, query)

    async def _one(self, connection: Any, statement: str, *values: Any) -> Any:
        cursor = await connection.execute(_STATEMENTS[statement], _values(*values))
        return await cursor.fetchone()

    async def _all(self, connection: Any, statement: str, *values: Any) -> Any:
        cursor = await connection.execute(_STATEMENTS[statement], _values(*values))
        return await cursor.fetchall()


def _values(*values: Any) -> dict[str, Any]:
    return {f"p{place}": value for place, value in enumerate(values, 1)}
