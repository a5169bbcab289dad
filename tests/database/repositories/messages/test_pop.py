"""MessageHistoryRepository.pop: the last messages are soft-deleted, and are entities of the session."""

from __future__ import annotations

from src.database.models import Conversation
from src.database.repositories import MessageHistoryRepository
from tests.database.repositories.messages.conftest import message


async def test_soft_deletes_the_last_message_and_keeps_its_seq(
    messages: MessageHistoryRepository, conversation: Conversation
) -> None:
    await messages.append_many(conversation.id, [message("a"), message("b")])

    [popped] = await messages.pop(conversation.id)

    assert popped.message_id == "b"
    assert popped.deleted_at is not None
    assert [one.message_id for one in await messages.recent(conversation.id)] == ["a"]
    assert (await messages.append(conversation.id, message("b2"))).message.seq == 3


async def test_the_popped_key_is_still_taken_and_the_message_can_be_restored(
    messages: MessageHistoryRepository, conversation: Conversation
) -> None:
    await messages.append(conversation.id, message("a"))
    [popped] = await messages.pop(conversation.id)

    again = await messages.append(conversation.id, message("a"))
    await messages.restore(popped.id)

    assert not again.inserted
    assert again.message.deleted_at is None, "restoring returns the same row"
    assert [one.seq for one in await messages.recent(conversation.id)] == [1]


async def test_entities_of_the_session_are_refreshed(
    messages: MessageHistoryRepository, conversation: Conversation
) -> None:
    await messages.append(conversation.id, message("a"))
    [read] = await messages.recent(conversation.id)

    [popped] = await messages.pop(conversation.id)

    assert popped is read
    assert read.deleted_at is not None
    assert read.deleted_at == read.updated_at
