"""Conversations that concurrent calls close, succeed, append to and summarize."""

from __future__ import annotations

import asyncio
import random
from datetime import timedelta
from uuid import UUID

import pytest

from src.database import get_db
from src.database.base import utc_now
from src.database.errors import StaleDataError
from src.database.models import Conversation
from src.database.repositories import ConversationRepository, MessageHistoryRepository, UserRepository
from tests.acceptance.calls import a_message

pytestmark = pytest.mark.usefixtures("cloned_database")

HOUR = timedelta(hours=1)


async def start(*chats: str, idle: bool = False) -> tuple[UUID, list[UUID]]:
    """Start a user's conversations; the last messages of idle ones are a day old or older."""
    async with get_db() as session:
        user, _ = await UserRepository(session).get_or_create_by_telegram_id(1)
        conversations = ConversationRepository(session)
        made = [(await conversations.get_or_start(user.id, "telegram", chat))[0] for chat in chats]
        if idle:
            for number, one in enumerate(made):
                one.last_message_at = utc_now() - 24 * HOUR - number * HOUR
        return user.id, [one.id for one in made]


async def get_or_start(user_id: UUID, chat: str) -> tuple[UUID, bool]:
    async with get_db() as session, asyncio.timeout(20):
        found, started = await ConversationRepository(session).get_or_start(
            user_id, "telegram", chat, idle_timeout=HOUR
        )
        return found.id, started


async def append(conversation_id: UUID, key: str) -> None:
    async with get_db() as session:
        await MessageHistoryRepository(session).append(conversation_id, a_message(key))


async def is_waiting(task: asyncio.Task[object]) -> bool:
    await asyncio.wait([task], timeout=0.15)
    return not task.done()


async def test_an_append_in_progress_keeps_an_idle_conversation_open() -> None:
    user_id, [old] = await start("1", idle=True)

    async with get_db() as session:
        await MessageHistoryRepository(session).append(old, a_message("a"))
        starting = asyncio.create_task(get_or_start(user_id, "1"))
        assert await is_waiting(starting), "the call must wait for the append"

    assert await starting == (old, False)
    async with get_db() as session:
        assert (await ConversationRepository(session).get(old)).is_active


async def test_an_append_while_its_conversation_is_succeeded_is_stored_in_the_old_one() -> None:
    user_id, [old] = await start("1", idle=True)

    async with get_db() as session:
        new, _ = await ConversationRepository(session).get_or_start(user_id, "telegram", "1", idle_timeout=HOUR)
        appending = asyncio.create_task(append(old, "late"))
        assert await is_waiting(appending)
    await appending

    async with get_db() as session:
        rows = {one.id: one for one in await ConversationRepository(session).get_many([old, new.id])}
        assert (rows[old].is_active, rows[old].last_seq, rows[old].close_reason) == (False, 1, "idle")
        assert (rows[new.id].is_active, rows[new.id].last_seq) == (True, 0)


async def test_idleness_is_read_again_although_the_session_has_loaded_the_conversation() -> None:
    user_id, [old] = await start("1", idle=True)

    async with get_db() as session, asyncio.timeout(10):
        conversations = ConversationRepository(session)
        read = await conversations.get(old)
        await append(old, "meanwhile")
        found, started = await conversations.get_or_start(user_id, "telegram", "1", idle_timeout=HOUR)

    assert (found, started) == (read, False)


async def test_concurrent_changes_leave_at_most_one_active_conversation_and_no_error() -> None:
    user_id, _ = await start("1")
    dice = random.Random(2)  # noqa: S311 - repeatable, not for security

    async def change_conversation(number: int) -> None:
        for step in range(6):
            current, _ = await get_or_start(user_id, "1")
            async with get_db() as session:
                conversations = ConversationRepository(session)
                match dice.randrange(4):
                    case 0:
                        await conversations.close(current, reason="done")
                    case 1:
                        await conversations.update(current, last_message_at=utc_now() - 24 * HOUR)
                    case 2:
                        await conversations.close_stale(HOUR, limit=1)
                    case _:
                        await MessageHistoryRepository(session).append(current, a_message(f"{number}:{step}"))
                active = Conversation.is_active & (Conversation.external_chat_id == "1")
                assert await conversations.count(active) <= 1

    await asyncio.gather(*(change_conversation(number) for number in range(12)))


async def test_a_cancelled_task_starts_and_closes_no_conversation() -> None:
    user_id, [old] = await start("1", idle=True)

    async with get_db() as session:
        await MessageHistoryRepository(session).append(old, a_message("a"))
        starting = asyncio.create_task(get_or_start(user_id, "1"))
        assert await is_waiting(starting)
        starting.cancel()
        await asyncio.gather(starting, return_exceptions=True)
        await session.rollback()

    async with get_db() as session:
        found = await ConversationRepository(session).get_active(user_id, "telegram", "1")
    assert found is not None
    assert found.id == old


async def test_workers_share_idle_conversations_and_close_each_once() -> None:
    _, idle = await start(*(str(n) for n in range(60)), idle=True)

    async def work() -> list[UUID]:
        mine: list[UUID] = []
        while True:
            async with get_db() as session:
                closed = await ConversationRepository(session).close_stale(HOUR, limit=5)
                assert len(closed) <= 5
                mine.extend(one.id for one in closed)
                await asyncio.sleep(0.005)
            if not closed:
                return mine

    shares = await asyncio.gather(*(work() for _ in range(8)))

    assert sorted(one for share in shares for one in share) == sorted(idle)
    assert sum(bool(share) for share in shares) > 1, "several workers closed conversations"


async def test_a_worker_skips_conversations_that_another_worker_is_closing() -> None:
    _, idle = await start("1", "2", "3", "4", idle=True)
    longest_first = idle[::-1]

    async with get_db() as one, get_db() as other, asyncio.timeout(5):
        first = await ConversationRepository(one).close_stale(HOUR, limit=2)
        second = await ConversationRepository(other).close_stale(HOUR, limit=2)

    assert [each.id for each in (*first, *second)] == longest_first


async def test_close_stale_skips_a_conversation_with_an_append_in_progress() -> None:
    _, [first, second] = await start("1", "2", idle=True)

    async with get_db() as appending, get_db() as closing, asyncio.timeout(5):
        await MessageHistoryRepository(appending).append(second, a_message("a"))
        closed = await ConversationRepository(closing).close_stale(HOUR)

    assert [one.id for one in closed] == [first]


async def test_one_of_8_concurrent_summaries_is_stored() -> None:
    _, [conversation_id] = await start("1")
    await append(conversation_id, "a")

    async def summarize(text: str) -> str:
        async with get_db() as session:
            written = await ConversationRepository(session).set_summary(
                conversation_id, text, upto_seq=1, expected_upto=0
            )
            return written.summary or ""

    results = await asyncio.gather(*(summarize(str(n)) for n in range(8)), return_exceptions=True)

    [stored] = [one for one in results if isinstance(one, str)]
    assert sum(isinstance(one, StaleDataError) for one in results) == 7
    async with get_db() as session:
        assert (await ConversationRepository(session).get(conversation_id)).summary == stored
