"""MessageHistoryRepository.pop_last: the last message is soft-deleted."""

from __future__ import annotations

import pytest

from src.database.base import uuid7
from src.database.errors import NotFoundError
from src.database.models import Conversation
from src.database.repositories import MessageHistoryRepository
from tests.database.repositories.messages.conftest import message


async def test_soft_deletes_the_last_message_and_keeps_its_seq(
    messages: MessageHistoryRepository, conversation: Conversation
) -> None:
    await messages.append_many(conversation.id, [message("a"), message("b")])

    popped = await messages.pop_last(conversation.id)

    assert popped is not None
    assert popped.message_id == "b"
    assert popped.deleted_at is not None
    assert [one.message_id for one in await messages.recent(conversation.id)] == ["a"]
    assert (await messages.append(conversation.id, message("b2"))).message.seq == 3


async def test_the_popped_key_is_still_taken_and_the_message_can_be_restored(
    messages: MessageHistoryRepository, conversation: Conversation
) -> None:
    await messages.append(conversation.id, message("a"))
    popped = await messages.pop_last(conversation.id)
    assert popped is not None

    again = await messages.append(conversation.id, message("a"))
    await messages.restore(popped.id)

    assert not again.inserted
    assert again.message.deleted_at is None, "restoring returns the same row"
    assert [one.seq for one in await messages.recent(conversation.id)] == [1]


async def test_a_retry_that_names_the_number_removes_no_other_message(
    messages: MessageHistoryRepository, conversation: Conversation
) -> None:
    await messages.append_many(conversation.id, [message("a"), message("b")])

    first, second = (
        await messages.pop_last(conversation.id, seq=2),
        await messages.pop_last(conversation.id, seq=2),
    )

    assert first is not None
    assert second is None
    assert [one.seq for one in await messages.recent(conversation.id)] == [1]


async def test_an_empty_conversation_has_no_last_message(
    messages: MessageHistoryRepository, conversation: Conversation
) -> None:
    assert await messages.pop_last(conversation.id) is None
    with pytest.raises(NotFoundError, match="no Conversation"):
        await messages.pop_last(uuid7())
