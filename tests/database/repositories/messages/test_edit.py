"""MessageHistoryRepository.edit: later versions of a message, and the earlier ones."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

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


async def test_edit_keeps_the_earlier_versions(messages: MessageHistoryRepository, conversation: Conversation) -> None:
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


async def test_an_edit_in_the_second_of_the_append_is_applied(
    messages: MessageHistoryRepository, conversation: Conversation
) -> None:
    await messages.append(conversation.id, message("a", "typo"))

    in_whole_seconds = datetime.now(UTC).replace(microsecond=0)
    assert await messages.edit("a", "fixed", edited_at=in_whole_seconds)


async def test_an_edit_back_within_one_second_counts_once(
    messages: MessageHistoryRepository, conversation: Conversation
) -> None:
    at = datetime.now(UTC).replace(microsecond=0)
    await messages.append(conversation.id, message("a", "one"))

    assert [await messages.edit("a", text, edited_at=at) for text in ("two", "one", "two", "one")] == [
        True,
        True,
        False,
        False,
    ]
    assert [row.content for row in await messages.recent(conversation.id)] == ["one"]


async def test_an_edit_resets_the_token_count(messages: MessageHistoryRepository, conversation: Conversation) -> None:
    await messages.append(conversation.id, message("a", "one", token_count=1))

    await messages.edit("a", "x" * 1000, edited_at=datetime.now(UTC))

    assert await messages.recent(conversation.id, token_budget=10) == []


async def test_versions_are_written_by_edit_alone(
    messages: MessageHistoryRepository, conversation: Conversation
) -> None:
    with pytest.raises(ValueError, match="extra must have no 'versions'"):
        message("a", extra={"versions": [1]})
    row = (await messages.append(conversation.id, message("a", "one"))).message
    await messages.edit("a", "two", edited_at=datetime.now(UTC))
    refused: list[dict[str, Any]] = [{"content": "three"}, {"edited_at": None}, {"extra": {"versions": []}}]
    for values in refused:
        with pytest.raises(ValueError, match="edit"):
            await messages.update(row.id, **values)

    await messages.update(row.id, extra={"liked": True})

    assert row.extra["liked"]
    assert [version["content"] for version in row.extra["versions"]] == ["one"]


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
