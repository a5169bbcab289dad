"""Calls that race: for one key from two conversations, for one conversation, and under stricter isolation levels."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any
from uuid import UUID

import pytest
from sqlalchemy import URL, text

from src.config import Settings
from src.database import AsyncSession, get_db, get_engine
from src.database import engine as application_engine
from src.database.errors import SerializationError
from src.database.repositories import ConversationRepository, MessageHistoryRepository, UserRepository
from src.database.store import get_store
from tests.acceptance.calls import a_message

WAITS = text("SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND wait_event_type = 'Lock'")
TOO_LONG_SECONDS = 20


@pytest.fixture
async def chat(cloned_database: URL, use_database: Callable[..., Settings]) -> AsyncIterator[tuple[UUID, UUID]]:
    """Two conversations of one chat: an earlier one, which is closed, and the active one."""
    use_database(cloned_database.update_query_dict({"pool_max": "16"}))
    async with get_db() as session:
        user, _ = await UserRepository(session).get_or_create_by_telegram_id(1)
        conversations = ConversationRepository(session)
        earlier, _ = await conversations.get_or_start(user.id, "telegram", "1")
        await conversations.update(earlier.id, is_active=False)
        active, _ = await conversations.get_or_start(user.id, "telegram", "1")
        ids = earlier.id, active.id
    yield ids
    await get_engine("store").dispose()
    await application_engine.dispose()


async def until_it_waits(session: AsyncSession) -> None:
    async with asyncio.timeout(TOO_LONG_SECONDS):
        while not await session.scalar(WAITS):
            await session.rollback()  # a transaction reads pg_stat_activity once, and then its copy
            await asyncio.sleep(0.005)


async def stored(conversation: UUID) -> list[tuple[int, str]]:
    return [(row.seq, row.message_id) for row in (await get_store().page(conversation, limit=1000)).items]


@pytest.mark.parametrize("commits", [True, False], ids=["commits", "rolls back"])
@pytest.mark.parametrize("keys", [["k"], ["a", "k", "z"]], ids=["one message", "several"])
async def test_a_key_that_a_concurrent_append_to_the_chat_stores_is_a_duplicate(
    chat: tuple[UUID, UUID], keys: list[str], *, commits: bool
) -> None:
    earlier, active = chat
    async with get_db() as session:
        await MessageHistoryRepository(session).append(earlier, a_message("k"))
        task = asyncio.create_task(get_store().append_many(active, [a_message(key) for key in keys]))
        async with get_db() as observer:
            await until_it_waits(observer)
        await (session.commit() if commits else session.rollback())
    rows = {row.message_id: row for row in await task}

    new = [key for key in keys if key != "k" or not commits]
    assert {key for key, row in rows.items() if row.inserted} == set(new)
    assert rows["k"].conversation_id == (earlier if commits else active)
    assert await stored(active) == list(enumerate(new, 1))
    assert (await get_store().append(active, a_message("next"))).seq == len(new) + 1


async def test_two_conversations_that_share_keys_in_both_orders_end_with_each_key_once(
    chat: tuple[UUID, UUID],
) -> None:
    for number in range(10):
        keys = [f"{number}:{place}" for place in range(6)]
        calls = [
            get_store().append_many(conversation, [a_message(key) for key in order])
            for conversation in chat
            for order in (keys, keys[::-1])
        ]
        rows = [row for call in await asyncio.gather(*calls) for row in call]

        assert sum(row.inserted for row in rows) == len(keys)
    for conversation in chat:
        assert [seq for seq, _ in await stored(conversation)] == list(range(1, len(await stored(conversation)) + 1))


async def test_16_writers_of_one_conversation_leave_each_key_once_and_no_gap(chat: tuple[UUID, UUID]) -> None:
    _, active = chat

    async def write(writer: int) -> list[Any]:
        own = [f"{writer}:{number}" for number in range(8)]
        rows = [await get_store().append(active, a_message(key)) for key in own]
        rows += await get_store().append_many(active, [a_message(f"shared:{number}") for number in range(4)])
        return rows

    rows = [row for written in await asyncio.gather(*(write(writer) for writer in range(16))) for row in written]

    found = await stored(active)
    assert [seq for seq, _ in found] == list(range(1, 16 * 8 + 4 + 1))
    assert sum(row.inserted for row in rows) == len(found) == len({key for _, key in found})


RACES: dict[str, Callable[[AsyncSession, UUID, UUID], Awaitable[Any]]] = {
    "append": lambda session, _, active: MessageHistoryRepository(session).append(active, a_message("x")),
    "append, a key": lambda session, _, active: MessageHistoryRepository(session).append(active, a_message("k")),
    "append_many, a key": lambda session, _, active: MessageHistoryRepository(session).append_many(
        active, [a_message("a"), a_message("k")]
    ),
    "get_or_create": lambda session, *_: UserRepository(session).get_or_create_by_telegram_id(2),
    "get_or_start": lambda session, user, _: ConversationRepository(session).get_or_start(user, "telegram", "2"),
}
WRITTEN_MEANWHILE: dict[str, Callable[[AsyncSession, UUID, UUID, UUID], Awaitable[Any]]] = {
    "append": lambda session, _, __, active: MessageHistoryRepository(session).append(active, a_message("y")),
    "append, a key": lambda session, _, earlier, __: MessageHistoryRepository(session).append(earlier, a_message("k")),
    "append_many, a key": lambda session, _, earlier, __: MessageHistoryRepository(session).append(
        earlier, a_message("k")
    ),
    "get_or_create": lambda session, *_: UserRepository(session).get_or_create_by_telegram_id(2),
    "get_or_start": lambda session, user, *_: ConversationRepository(session).get_or_start(user, "telegram", "2"),
}


@pytest.mark.parametrize("level", ["REPEATABLE READ", "SERIALIZABLE"])
@pytest.mark.parametrize("race", RACES)
async def test_under_repeatable_read_a_lost_race_raises_a_serialization_error(
    chat: tuple[UUID, UUID], race: str, level: str
) -> None:
    """A repeated read of a function does not help: the snapshot of the transaction excludes the other write."""
    earlier, active = chat
    async with get_db() as session:
        user = (await UserRepository(session).get_or_create_by_telegram_id(1))[0].id

    async def lose() -> None:
        async with get_db() as session:
            await session.connection(execution_options={"isolation_level": level})
            await UserRepository(session).count()  # takes the snapshot
            async with get_db() as other:
                await WRITTEN_MEANWHILE[race](other, user, earlier, active)
            await RACES[race](session, user, active)

    async with asyncio.timeout(5):
        with pytest.raises(SerializationError) as raised:
            await lose()

    assert raised.value.sqlstate == "40001"
