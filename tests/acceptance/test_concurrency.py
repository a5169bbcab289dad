"""Concurrent calls: no row is lost, doubled or skipped, and no error reaches a caller."""

from __future__ import annotations

import asyncio
import random
from datetime import timedelta
from uuid import UUID

import pytest
from sqlalchemy import select

from src.database import get_db
from src.database.base import utc_now
from src.database.errors import IdempotencyConflictError
from src.database.models import Event, MessageHistory, User
from src.database.repositories import (
    ConversationRepository,
    EventRepository,
    MessageHistoryRepository,
    NewMessage,
    UserRepository,
)

pytestmark = pytest.mark.usefixtures("cloned_database")

WRITERS = 64
MESSAGES_EACH = 3


async def start_conversation(telegram_id: int = 1, chat: str = "1") -> tuple[UUID, UUID]:
    async with get_db() as session:
        user, _ = await UserRepository(session).get_or_create_by_telegram_id(telegram_id)
        conversation, _ = await ConversationRepository(session).get_or_start(user.id, "telegram", chat)
        return user.id, conversation.id


async def append(conversation_id: UUID, key: str, content: str = "x") -> tuple[int, bool]:
    async with get_db() as session:
        result = await MessageHistoryRepository(session).append(
            conversation_id, NewMessage(message_id=key, role="user", content=content)
        )
        return result.message.seq, result.inserted


@pytest.mark.slow
async def test_a_reader_skips_no_message_while_64_tasks_append() -> None:
    _, conversation_id = await start_conversation()
    dice = random.Random(1)  # noqa: S311 - repeatable, not for security
    keys = [f"t:bot:1:{n}" for n in range(WRITERS * MESSAGES_EACH)]
    sent = keys + dice.sample(keys, len(keys) // 5)
    dice.shuffle(sent)
    done = asyncio.Event()
    seen: list[int] = []

    async def follow() -> None:
        while True:
            finished = done.is_set()
            async with get_db() as session:
                after = seen[-1] if seen else 0
                statement = (
                    select(MessageHistory.seq)
                    .where(
                        MessageHistory.tenant_id == session.tenant_id,
                        MessageHistory.conversation_id == conversation_id,
                        MessageHistory.seq > after,
                    )
                    .order_by(MessageHistory.seq)
                )
                seen.extend(await session.scalars(statement))
            if finished:
                return

    async def write(share: list[str]) -> list[tuple[int, bool]]:
        return [await append(conversation_id, key) for key in share]

    reader = asyncio.create_task(follow())
    results = await asyncio.gather(*(write(sent[n::WRITERS]) for n in range(WRITERS)))
    done.set()
    await reader

    appended = [one for results_of_one in results for one in results_of_one]
    assert sorted(seq for seq, inserted in appended if inserted) == list(range(1, len(keys) + 1))
    assert sum(not inserted for _, inserted in appended) == len(sent) - len(keys)
    assert seen == list(range(1, len(keys) + 1)), "a reader that follows seq sees each message, in order"


async def test_one_message_from_many_concurrent_appends_is_stored_once() -> None:
    _, conversation_id = await start_conversation()

    results = await asyncio.gather(*(append(conversation_id, "same") for _ in range(WRITERS)))

    assert sum(inserted for _, inserted in results) == 1
    assert {seq for seq, _ in results} == {1}


async def test_the_same_key_with_other_content_is_a_conflict_for_all_but_one_call() -> None:
    _, conversation_id = await start_conversation()

    results = await asyncio.gather(
        *(append(conversation_id, "same", content=str(n)) for n in range(16)), return_exceptions=True
    )

    assert sum(isinstance(one, IdempotencyConflictError) for one in results) == 15
    assert await append(conversation_id, "next") == (2, True), "the refused messages leave no gap"


async def test_two_conversations_that_race_for_keys_have_no_gap() -> None:
    """A redelivery while the chat's conversation is succeeded: the old and the new one race for the keys."""
    user_id, old = await start_conversation()
    async with get_db() as session:
        await ConversationRepository(session).update(old, is_active=False)
    _, new = await start_conversation()
    assert new != old

    async def batch(conversation_id: UUID, number: int) -> None:
        messages = [
            NewMessage(message_id=key, role="user", content="x")
            for key in (f"{conversation_id}:{number}:a", f"s:{number}", f"t:{number}", f"{conversation_id}:{number}:b")
        ]
        if conversation_id == new:
            messages.reverse()
        async with get_db() as session:
            await MessageHistoryRepository(session).append_many(conversation_id, messages)

    await asyncio.gather(*(batch(one, n) for n in range(20) for one in (old, new)))

    async with get_db() as session:
        repository = MessageHistoryRepository(session)
        for one in (old, new):
            seqs = [message.seq for message in await repository.recent(one, limit=1000)]
            assert seqs == list(range(1, len(seqs) + 1))
        assert await repository.count() == 20 * 6
        assert await repository.count(MessageHistory.user_id == user_id) == 20 * 6


@pytest.mark.slow
async def test_batches_that_share_keys_in_other_orders_do_not_deadlock() -> None:
    _, old = await start_conversation()
    async with get_db() as session:
        await ConversationRepository(session).update(old, is_active=False)
    _, new = await start_conversation()

    async def batch(conversation_id: UUID, number: int) -> None:
        messages = [NewMessage(message_id=f"{number}:{n:03}", role="user", content="x") for n in range(300)]
        if conversation_id == new:
            messages.reverse()
        async with get_db() as session:
            await MessageHistoryRepository(session).append_many(conversation_id, messages)

    for number in range(8):
        await asyncio.gather(*(batch(one, number) for one in (old, new)))

    async with get_db() as session:
        assert await MessageHistoryRepository(session).count() == 8 * 300


async def test_one_of_50_concurrent_calls_creates_the_user_and_all_get_it() -> None:
    async def get_or_create() -> tuple[UUID, bool]:
        async with get_db() as session:
            user, created = await UserRepository(session).get_or_create_by_telegram_id(7, display_name="Ada")
            return user.id, created

    results = await asyncio.gather(*(get_or_create() for _ in range(50)))

    assert len({user_id for user_id, _ in results}) == 1
    assert sum(created for _, created in results) == 1
    async with get_db() as session:
        assert await UserRepository(session).count(User.telegram_id == 7) == 1


@pytest.mark.slow
@pytest.mark.parametrize("idle", [False, True])
async def test_concurrent_calls_for_one_chat_get_one_conversation(idle: bool) -> None:
    user_id, old = await start_conversation()
    if idle:
        async with get_db() as session:
            await ConversationRepository(session).update(old, last_message_at=utc_now() - timedelta(days=1))

    async def get_or_create() -> tuple[UUID, bool]:
        async with get_db() as session:
            found, started = await ConversationRepository(session).get_or_start(
                user_id, "telegram", "1", idle_timeout=timedelta(hours=1)
            )
            return found.id, started

    results = await asyncio.gather(*(get_or_create() for _ in range(50)))

    assert len({found for found, _ in results}) == 1
    assert sum(started for _, started in results) == int(idle)
    assert (results[0][0] == old) is not idle


async def test_no_reminder_is_claimed_by_two_workers() -> None:
    user_id, _ = await start_conversation()
    async with get_db() as session:
        due = utc_now() - timedelta(minutes=1)
        await EventRepository(session).add_many(
            [Event(user_id=user_id, title=str(n), start_datetime=due, reminder_datetime=due) for n in range(60)]
        )

    async def work(worker: str) -> list[UUID]:
        claimed_by_me: list[UUID] = []
        while True:
            async with get_db() as session:
                claimed = await EventRepository(session).claim_due_reminders(worker, limit=7)
            assert len(claimed) <= 7
            if not claimed:
                return claimed_by_me
            for event in claimed:
                assert event.reminder_token is not None
                async with get_db() as session:
                    await EventRepository(session).ack_reminder(event.id, event.reminder_token)
                claimed_by_me.append(event.id)

    shares = await asyncio.gather(*(work(f"w{n}") for n in range(8)))
    claims = [event for one in shares for event in one]

    assert len(claims) == len(set(claims)) == 60
    assert sum(bool(one) for one in shares) > 1, "several workers claimed reminders"


async def test_a_claim_skips_locked_reminders_and_does_not_wait() -> None:
    user_id, _ = await start_conversation()
    due = utc_now() - timedelta(minutes=1)
    async with get_db() as session:
        await EventRepository(session).add_many(
            [Event(user_id=user_id, title=str(n), start_datetime=due, reminder_datetime=due) for n in range(2)]
        )

    async with get_db() as slow, get_db() as fast:
        [first] = await EventRepository(slow).claim_due_reminders("slow", limit=1)
        async with asyncio.timeout(5):
            [second] = await EventRepository(fast).claim_due_reminders("fast", limit=5)

    assert first.id != second.id
