"""MessageHistoryRepository.edit: later versions of a message, and what was there before."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest

from src.database.errors import NotFoundError
from src.database.models import Conversation
from src.database.repositories import MessageHistoryRepository
from tests.database.repositories.messages.conftest import message


async def test_an_edit_is_cleaned_before_it_is_compared(
    messages: MessageHistoryRepository, conversation: Conversation
) -> None:
    await messages.append(conversation.id, message("a", "one"))
    now = datetime.now(UTC)

    assert await messages.edit("a", "two\0", edited_at=now)
    assert not await messages.edit("a", "two\0", edited_at=now)


async def test_edit_keeps_what_was_there_before(messages: MessageHistoryRepository, conversation: Conversation) -> None:
    await messages.append(conversation.id, message("a", "one"))
    now = datetime.now(UTC)

    assert await messages.edit("a", "two", edited_at=now)
    assert await messages.edit("a", "three", edited_at=now + timedelta(seconds=1))

    stored = await messages.get_by_message_id("a")
    assert stored is not None
    assert stored.content == "three"
    assert [version["content"] for version in stored.extra["versions"]] == ["one", "two"]


async def test_a_late_or_repeated_edit_does_nothing(
    messages: MessageHistoryRepository, conversation: Conversation
) -> None:
    await messages.append(conversation.id, message("a", "one"))
    now = datetime.now(UTC)
    await messages.edit("a", "three", edited_at=now)

    assert not await messages.edit("a", "three", edited_at=now)
    assert not await messages.edit("a", "two", edited_at=now - timedelta(seconds=1))


async def test_an_edit_older_than_the_message_does_nothing(
    messages: MessageHistoryRepository, conversation: Conversation
) -> None:
    said = datetime(2026, 5, 1, tzinfo=UTC)
    await messages.append(conversation.id, message("a", "one", created_at=said))

    assert not await messages.edit("a", "older", edited_at=said - timedelta(days=1))
    assert await messages.edit("a", "at once", edited_at=said)


async def test_of_two_edits_in_one_second_the_later_call_wins_and_only_once(
    messages: MessageHistoryRepository, conversation: Conversation
) -> None:
    await messages.append(conversation.id, message("a", "one"))
    at = datetime.now(UTC)

    assert [await messages.edit("a", text, edited_at=at) for text in ("two", "three", "two", "three")] == [
        True, True, False, False
    ]  # fmt: skip
    assert (await messages.recent(conversation.id))[0].content == "three"


async def test_edit_refuses_a_naive_time(messages: MessageHistoryRepository, conversation: Conversation) -> None:
    await messages.append(conversation.id, message("a", "one"))

    with pytest.raises(ValueError, match="edited_at must be aware"):
        await messages.edit("a", "two", edited_at=datetime(2026, 1, 1))  # noqa: DTZ001 - what is tested


async def test_the_original_is_still_a_duplicate_after_an_edit(
    messages: MessageHistoryRepository, conversation: Conversation
) -> None:
    await messages.append(conversation.id, message("a", "one"))
    await messages.edit("a", "two", edited_at=datetime.now(UTC))

    again = await messages.append(conversation.id, message("a", "one"))

    assert not again.inserted
    assert again.message.content == "two"


async def test_edit_of_an_unknown_message_is_not_found(messages: MessageHistoryRepository) -> None:
    with pytest.raises(NotFoundError):
        await messages.edit("nothing", "x", edited_at=datetime.now(UTC))
