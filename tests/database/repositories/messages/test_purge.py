"""MessageHistoryRepository.purge: old messages are deleted in batches, and rows that refer to them stay."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest

from src.database.base import Base
from src.database.models import Conversation, MessageHistory, Note, User
from src.database.repositories import ConversationRepository, MessageHistoryRepository
from src.database.session import AsyncSession
from tests.database.repositories.messages.conftest import message

START = datetime(2026, 1, 1, tzinfo=UTC)
END = START + timedelta(days=365)


def day(number: int) -> datetime:
    return START + timedelta(days=number)


@pytest.fixture
async def year(messages: MessageHistoryRepository, conversation: Conversation) -> Conversation:
    """Ten messages, one a day from the first of the year on, appended the latest first."""
    batch = [message(str(n), created_at=day(n)) for n in reversed(range(10))]
    await messages.append_many(conversation.id, batch)
    return conversation


async def left(messages: MessageHistoryRepository, conversation: Conversation) -> set[str]:
    return {one.message_id for one in await messages.recent(conversation.id)}


async def test_the_oldest_messages_are_purged_first(messages: MessageHistoryRepository, year: Conversation) -> None:
    assert await messages.purge(day(5), limit=2) == 2
    assert await left(messages, year) == set("23456789")
    assert [await messages.purge(day(5), limit=2) for _ in range(3)] == [2, 1, 0]
    assert await left(messages, year) == set("56789"), "a message of the instant itself stays"


async def test_a_dry_run_counts_all_batches_and_erases_nothing(
    messages: MessageHistoryRepository, year: Conversation
) -> None:
    assert await messages.purge(day(5), limit=2, dry_run=True) == 5
    assert len(await left(messages, year)) == 10


async def test_a_purged_seq_is_not_reused_and_a_purged_key_is_free(
    messages: MessageHistoryRepository, year: Conversation
) -> None:
    await messages.purge(END)

    again = await messages.append(year.id, message("1"))

    assert again.inserted
    assert again.message.seq == 11


async def test_purges_only_the_messages_of_one_user(
    session: AsyncSession, messages: MessageHistoryRepository, year: Conversation
) -> None:
    user = User()
    session.add(user)
    await session.flush()
    other, _ = await ConversationRepository(session).get_or_start(user.id, "telegram", "2")
    await messages.append(other.id, message("other", created_at=START))

    assert await messages.purge(END, user_id=user.id, dry_run=True) == 1
    assert await messages.purge(END, user_id=user.id) == 1
    assert len(await left(messages, year)) == 10


async def test_deleted_messages_are_purged_with_the_others_or_alone_by_deletion_time(
    messages: MessageHistoryRepository, year: Conversation
) -> None:
    await messages.pop(year.id)  # the oldest one: it was appended last
    now = datetime.now(UTC)
    tomorrow = now + timedelta(days=1)

    assert await messages.purge(now - timedelta(hours=1), only_deleted=True) == 0
    assert await messages.purge(tomorrow, only_deleted=True, dry_run=True) == 1
    assert await messages.purge(day(2), dry_run=True) == 2
    assert await messages.purge(tomorrow, only_deleted=True) == 1
    assert await left(messages, year) == set("123456789")


async def test_rows_that_refer_to_a_purged_message_stay_without_the_reference(
    session: AsyncSession, messages: MessageHistoryRepository, year: Conversation
) -> None:
    parent = await messages.get_by_message_id("0")
    assert parent is not None
    child = (await messages.append(year.id, message("child", parent_id=parent.id))).message
    grandchild = (await messages.append(year.id, message("old child", parent_id=parent.id, created_at=day(1)))).message
    note = Note(user_id=year.user_id, content="x", source_message_id=parent.id)
    session.add(note)
    await session.flush()

    assert await messages.purge(day(2)) == 3

    await session.refresh(child)
    await session.refresh(note)
    assert (child.parent_id, note.source_message_id) == (None, None)
    assert await messages.get_or_none(grandchild.id) is None


def test_nothing_else_refers_to_a_message() -> None:
    """A table with such a reference would block `purge`, which must clear the reference."""
    referring = {
        f"{column.table.name}.{column.name}"
        for table in Base.metadata.tables.values()
        for column in table.columns
        for key in column.foreign_keys
        if key.column.table is MessageHistory.__table__ and column.name != "tenant_id"
    }

    assert referring == {"message_history.parent_id", "notes.source_message_id"}


async def test_rejects_a_naive_instant_and_a_limit_out_of_range(messages: MessageHistoryRepository) -> None:
    with pytest.raises(ValueError, match="before must be aware"):
        await messages.purge(START.replace(tzinfo=None))
    for limit in (0, 1001):
        with pytest.raises(ValueError, match="limit must be from 1 to 1000"):
            await messages.purge(START, limit=limit)
