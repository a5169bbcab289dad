"""psycopg 3 as its documentation shows it: an AsyncConnectionPool, whose `connection()` is a transaction."""

from __future__ import annotations

import re
from typing import Any, Final
from uuid import UUID, uuid4

from psycopg.rows import dict_row
from psycopg_pool import AsyncConnectionPool

from benchmarks.contenders import sql
from benchmarks.contenders.base import POOL_SIZE, Contender, Place, Said

__all__ = ["PsycopgPool"]

_COLUMNS: Final = ", ".join(sql.NEW_MESSAGE_COLUMNS)


def _named(statement: str) -> str:
    """Write the places of the values as psycopg has them."""
    return re.sub(r"\$(\d+)", r"%(p\1)s", statement)


_STATEMENTS: Final = {
    statement: _named(statement)
    for statement in (
        sql.USER_BY_TELEGRAM_ID,
        sql.NEW_USER,
        sql.ACTIVE_CONVERSATION,
        sql.RECENT,
        sql.AFTER,
        sql.OF_USER,
        sql.ADVANCE,
        sql.INSERT,
        sql.SEARCH,
    )
}


class PsycopgPool(Contender):
    """Rows as dictionaries, its own `dict_row`."""

    async def open(self, place: Place) -> None:
        self._tenant = place.tenant_id
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

    async def user_by_telegram_id(self, telegram_id: int) -> Any:
        async with self._pool.connection() as connection:
            return await self._one(connection, sql.USER_BY_TELEGRAM_ID, telegram_id)

    async def get_or_create_user(self, telegram_id: int) -> Any:
        async with self._pool.connection() as connection:
            user = await self._one(connection, sql.USER_BY_TELEGRAM_ID, telegram_id)
            if user is None:
                user = await self._one(connection, sql.NEW_USER, telegram_id, uuid4())
            return user

    async def append(self, conversation_id: UUID, said: Said) -> Any:
        async with self._pool.connection() as connection:
            talk = await self._one(connection, sql.ADVANCE, conversation_id, 1, said.created_at)
            values = self._values(uuid4(), conversation_id, talk["user_id"], talk["last_seq"], *said)
            await connection.execute(_STATEMENTS[sql.INSERT], values)
            return talk

    async def append_many(self, conversation_id: UUID, said: list[Said]) -> Any:
        async with self._pool.connection() as connection, connection.cursor() as cursor:
            talk = await self._one(connection, sql.ADVANCE, conversation_id, len(said), said[-1].created_at)
            first = talk["last_seq"] - len(said) + 1
            async with cursor.copy(f"COPY message_history ({_COLUMNS}) FROM STDIN") as copy:
                for place, one in enumerate(said):
                    await copy.write_row((self._tenant, uuid4(), conversation_id, talk["user_id"], first + place, *one))
            return said

    async def recent(self, conversation_id: UUID, limit: int) -> Any:
        async with self._pool.connection() as connection:
            return (await self._all(connection, sql.RECENT, conversation_id, limit))[::-1]

    async def turn(self, telegram_id: int, chat: str, said: list[Said]) -> Any:
        async with self._pool.connection() as connection:
            user = await self._one(connection, sql.USER_BY_TELEGRAM_ID, telegram_id)
            talk = await self._one(connection, sql.ACTIVE_CONVERSATION, user["id"], "telegram", chat)
            rows = await self._all(connection, sql.RECENT, talk["id"], 20)
            last = await self._one(connection, sql.ADVANCE, talk["id"], len(said), said[-1].created_at)
            first = last["last_seq"] - len(said) + 1
            async with connection.cursor() as cursor:
                new = [
                    self._values(uuid4(), talk["id"], user["id"], first + place, *one) for place, one in enumerate(said)
                ]
                await cursor.executemany(_STATEMENTS[sql.INSERT], new)
            return rows[::-1]

    async def pages(self, conversation_id: UUID, pages: int) -> int:
        count, seq = 0, 0
        for _ in range(pages):
            async with self._pool.connection() as connection:
                rows = await self._all(connection, sql.AFTER, conversation_id, seq, 100)
            count, seq = count + len(rows), rows[-1]["seq"]
        return count

    async def stream(self, user_id: UUID) -> int:
        count = 0
        async with self._pool.connection() as connection, connection.cursor(name="export") as cursor:
            cursor.itersize = 1000
            await cursor.execute(_STATEMENTS[sql.OF_USER], self._values(user_id))
            async for _ in cursor:
                count += 1
        return count

    async def search(self, user_id: UUID, query: str) -> Any:
        async with self._pool.connection() as connection:
            return await self._all(connection, sql.SEARCH, user_id, query)

    async def _one(self, connection: Any, statement: str, *values: Any) -> Any:
        cursor = await connection.execute(_STATEMENTS[statement], self._values(*values))
        return await cursor.fetchone()

    async def _all(self, connection: Any, statement: str, *values: Any) -> Any:
        cursor = await connection.execute(_STATEMENTS[statement], self._values(*values))
        return await cursor.fetchall()

    def _values(self, *values: Any) -> dict[str, Any]:
        return {f"p{place}": value for place, value in enumerate((self._tenant, *values), 1)}
