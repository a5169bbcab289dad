"""Cancelled writers that retry, streamed answers and following readers: each message is read once, in order."""

from __future__ import annotations

import asyncio
import random
from collections import Counter
from collections.abc import Awaitable, Callable
from datetime import timedelta
from uuid import UUID

import pytest
from sqlalchemy import URL

from src.config import Settings
from src.database import get_db
from src.database.base import utc_now
from src.database.errors import StaleDataError
from src.database.models import Conversation, MessageHistory
from src.database.repositories import ConversationRepository, MessageHistoryRepository, NewMessage, UserRepository

WRITERS, READERS, CONVERSATIONS = 16, 8, 64
MESSAGES_EACH = 3  # for each conversation
PIECES = ("Uno, ", "dos, ", "tres.")
LATEST_CANCELLATION_SECONDS = 0.1
"""About the duration of a call, so that a cancellation can hit any part of it."""


@pytest.fixture(autouse=True)
def pooled(cloned_database: URL, use_database: Callable[..., Settings]) -> None:
    use_database(cloned_database.update_query_dict({"pool_max": str(WRITERS + READERS)}))


async def start_conversations(count: int) -> list[UUID]:
    async with get_db() as session:
        user, _ = await UserRepository(session).get_or_create_by_telegram_id(1)
        repository = ConversationRepository(session)
        return [(await repository.get_or_start(user.id, "telegram", str(n)))[0].id for n in range(count)]


class Writer:
    """A writer whose calls are cancelled at random and then repeated."""

    def __init__(self, number: int) -> None:
        self.dice = random.Random(number)  # noqa: S311 - repeatable, not for security
        self.cancelled = 0
        self.inserted: list[str] = []

    async def send(self, conversation_id: UUID, key: str, *, streamed: bool) -> None:
        state, content = ("incomplete", None) if streamed else ("complete", key)
        message = NewMessage(message_id=key, role="assistant", content=content, state=state)  # type: ignore[arg-type]

        async def append(messages: MessageHistoryRepository) -> bool:
            return (await messages.append(conversation_id, message)).inserted

        if await self.call(append):
            self.inserted.append(key)
        if streamed:
            offset = 0
            for piece in PIECES:
                await self.call(lambda messages, piece=piece, at=offset: messages.extend(key, piece, offset=at))  # type: ignore[misc]
                offset += len(piece)
            await self.call(lambda messages: messages.mark_complete(key, output_tokens=3))

    async def call(self, step: Callable[[MessageHistoryRepository], Awaitable[object]]) -> object:
        async def once() -> object:
            async with get_db() as session:
                return await step(MessageHistoryRepository(session))

        while True:
            task = asyncio.create_task(once())
            if self.dice.random() < 0.15:
                await asyncio.sleep(self.dice.random() * LATEST_CANCELLATION_SECONDS)
                task.cancel()
            try:
                return await task
            except asyncio.CancelledError:
                self.cancelled += 1


class Reader:
    """A reader that follows conversations and records the messages that it gets."""

    def __init__(self, conversations: list[UUID]) -> None:
        self.seen: dict[UUID, list[MessageHistory]] = {one: [] for one in conversations}

    async def follow(self, done: asyncio.Event) -> None:
        while True:
            finished = done.is_set()
            async with get_db() as session:
                messages = MessageHistoryRepository(session)
                for conversation_id, seen in self.seen.items():
                    seen.extend(await messages.tail(conversation_id, seen[-1].seq if seen else 0))
            if finished:
                return
            await asyncio.sleep(0.2)


@pytest.mark.slow
async def test_nothing_is_lost_doubled_or_skipped_while_writers_are_cancelled() -> None:
    conversations = await start_conversations(CONVERSATIONS)
    keys = [(one, f"{place}:{n}") for place, one in enumerate(conversations) for n in range(MESSAGES_EACH)]
    dice = random.Random(4)  # noqa: S311 - repeatable, not for security
    streamed = {key for _, key in dice.sample(keys, len(keys) // 20)}
    sent = keys + dice.sample(keys, len(keys) // 5)
    dice.shuffle(sent)
    writers = [Writer(number) for number in range(WRITERS)]
    readers = [Reader(conversations[number::READERS]) for number in range(READERS)]
    done = asyncio.Event()

    async def write(writer: Writer, share: list[tuple[UUID, str]]) -> None:
        for conversation_id, key in share:
            await writer.send(conversation_id, key, streamed=key in streamed)

    following = [asyncio.create_task(reader.follow(done)) for reader in readers]
    await asyncio.gather(*(write(writer, sent[place::WRITERS]) for place, writer in enumerate(writers)))
    done.set()
    await asyncio.gather(*following)

    assert sum(writer.cancelled for writer in writers) > 10, "the test needs more cancelled calls"
    inserted = Counter(key for writer in writers for key in writer.inserted)
    assert set(inserted.values()) == {1}, "exactly one call reports the insert of a message"
    for reader in readers:
        for conversation_id, seen in reader.seen.items():
            assert [one.seq for one in seen] == list(range(1, MESSAGES_EACH + 1)), (
                "no gap, and no message skipped or read twice"
            )
            assert {one.message_id for one in seen} == {key for at, key in keys if at == conversation_id}, (
                "no message is lost"
            )
            assert {one.state for one in seen} == {"complete"}
            assert all(one.content == "".join(PIECES) for one in seen if one.message_id in streamed)
    async with get_db() as session:
        assert await MessageHistoryRepository(session).count() == len(keys)
        stored = await ConversationRepository(session).get_many(conversations)
        assert {one.last_seq for one in stored} == {MESSAGES_EACH}


async def test_concurrent_calls_of_pop_remove_different_messages() -> None:
    [conversation_id] = await start_conversations(1)
    async with get_db() as session:
        batch = [NewMessage(message_id=str(n), role="user") for n in range(8)]
        await MessageHistoryRepository(session).append_many(conversation_id, batch)

    async def pop(last_seq: int | None = None) -> list[int]:
        async with get_db() as session:
            popped = await MessageHistoryRepository(session).pop(conversation_id, last_seq=last_seq)
            return [row.seq for row in popped]

    async with get_db() as first:
        [popped] = await MessageHistoryRepository(first).pop(conversation_id)
        waiting = [asyncio.create_task(pop()) for _ in range(3)]
        await asyncio.sleep(0.2)

    assert sorted([[popped.seq], *(await asyncio.gather(*waiting))]) == [[5], [6], [7], [8]]
    named = await asyncio.gather(*(pop(4) for _ in range(4)))
    assert sorted(named) == [[], [], [], [4]]


async def test_concurrent_workers_share_stale_messages_to_interrupt() -> None:
    [conversation_id] = await start_conversations(1)
    async with get_db() as session:
        batch = [NewMessage(message_id=str(n), role="assistant", state="incomplete") for n in range(40)]
        await MessageHistoryRepository(session).append_many(conversation_id, batch)

    async def work() -> list[int]:
        mine: list[int] = []
        while True:
            async with get_db() as session:
                stale = await MessageHistoryRepository(session).interrupt_stale(
                    older_than=timedelta(microseconds=1), limit=3
                )
            if not stale:
                return mine
            mine += [one.seq for one in stale]

    shares = await asyncio.gather(*(work() for _ in range(4)))

    assert sorted(seq for share in shares for seq in share) == list(range(1, 41))


async def test_a_message_with_an_extension_in_progress_is_not_interrupted() -> None:
    [conversation_id] = await start_conversations(1)
    async with get_db() as session:
        message = NewMessage(message_id="a", role="assistant", state="incomplete")
        await MessageHistoryRepository(session).append(conversation_id, message)

    async with get_db() as writing, get_db() as worker, asyncio.timeout(5):
        await MessageHistoryRepository(writing).extend("a", "Hola", offset=0)

        assert await MessageHistoryRepository(worker).interrupt_stale(older_than=timedelta(microseconds=1)) == []


async def test_a_turn_that_is_claimed_while_an_append_waits_is_lost() -> None:
    [conversation_id] = await start_conversations(1)

    async def append() -> None:
        async with get_db() as session:
            message = NewMessage(message_id="a", role="assistant")
            await MessageHistoryRepository(session).append(conversation_id, message, turn=0)

    async with get_db() as claiming:
        conversation = await claiming.get(Conversation, conversation_id, with_for_update=True)
        assert conversation is not None
        late = asyncio.create_task(append())
        await asyncio.sleep(0.2)
        assert not late.done(), "the append waits for the commit of the claim"
        conversation.turn_token = 1

    with pytest.raises(StaleDataError, match="turn must be"):
        await late


async def test_concurrent_purges_share_the_work_and_skip_a_message_that_gets_a_reference() -> None:
    [conversation_id] = await start_conversations(1)
    async with get_db() as session:
        batch = [NewMessage(message_id=str(n), role="user") for n in range(60)]
        appended = await MessageHistoryRepository(session).append_many(conversation_id, batch)
    parent_id = appended[0].message.id
    before = utc_now() + timedelta(days=1)

    async def work() -> int:
        erased = 0
        while True:
            async with get_db() as session:
                count = await MessageHistoryRepository(session).purge(before, limit=7)
            if not count:
                return erased
            erased += count

    async with get_db() as answering:
        child = NewMessage(message_id="child", role="assistant", parent_id=parent_id)
        await MessageHistoryRepository(answering).append(conversation_id, child)
        async with asyncio.timeout(5):
            shares = await asyncio.gather(*(work() for _ in range(4)))

    assert sum(shares) == 59
    async with get_db() as session:
        messages = MessageHistoryRepository(session)
        assert [one.message_id for one in await messages.recent(conversation_id)] == ["0", "child"]
        assert await messages.purge(before) == 2
