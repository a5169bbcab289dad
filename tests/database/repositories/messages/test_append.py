"""MessageHistoryRepository: order, idempotence, the turn."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

import pytest
from sqlalchemy import update

from src.database.base import uuid7
from src.database.errors import IdempotencyConflictError, NotFoundError, StaleDataError
from src.database.models import Conversation, MessageHistory, User
from src.database.repositories import ConversationRepository, MessageHistoryRepository, NewMessage
from src.database.session import AsyncSession
from tests.database.repositories.messages.conftest import message


async def test_numbers_messages_without_gaps_in_the_order_given(
    messages: MessageHistoryRepository, conversation: Conversation
) -> None:
    first = await messages.append(conversation.id, message("a"))
    batch = await messages.append_many(conversation.id, [message("b"), message("c"), message("d")])

    assert first.message.seq == 1
    assert [(one.message.message_id, one.message.seq) for one in batch] == [("b", 2), ("c", 3), ("d", 4)]
    assert conversation.last_seq == 4


async def test_the_same_message_again_is_a_duplicate(
    messages: MessageHistoryRepository, conversation: Conversation
) -> None:
    first = await messages.append(conversation.id, message("a"))

    again = await messages.append_many(conversation.id, [message("a"), message("b"), message("b")])

    assert [one.inserted for one in again] == [False, True, False]
    assert [one.message.seq for one in again] == [1, 2, 2]
    assert again[0].message.id == first.message.id


async def test_rejects_the_same_key_with_other_content(
    messages: MessageHistoryRepository, conversation: Conversation
) -> None:
    await messages.append(conversation.id, message("a", "one"))

    with pytest.raises(IdempotencyConflictError, match="other content") as caught:
        await messages.append(conversation.id, message("a", "two"))

    assert "two" not in str(caught.value)
    assert await messages.count() == 1


async def test_rejects_the_same_key_with_other_content_within_a_batch(
    messages: MessageHistoryRepository, conversation: Conversation
) -> None:
    with pytest.raises(IdempotencyConflictError):
        await messages.append_many(conversation.id, [message("a", "one"), message("a", "two")])


async def test_a_rejected_batch_stores_nothing(messages: MessageHistoryRepository, conversation: Conversation) -> None:
    await messages.append(conversation.id, message("a", "one"))

    with pytest.raises(IdempotencyConflictError):
        await messages.append_many(conversation.id, [message("new"), message("a", "two")])

    assert await messages.count() == 1
    assert (await messages.append(conversation.id, message("next"))).message.seq == 2


@pytest.mark.parametrize(
    "another",
    [
        NewMessage(message_id="a", role="user", attachments=[{"kind": "voice"}]),
        NewMessage(message_id="a", role="assistant", attachments=[{"kind": "photo"}]),
        NewMessage(message_id="a", role="assistant", content="x", edited_at=datetime.now(UTC)),
    ],
)
async def test_rejects_another_kind_of_message_under_the_same_key(
    messages: MessageHistoryRepository, conversation: Conversation, another: NewMessage
) -> None:
    await messages.append(conversation.id, message("a", None, attachments=[{"kind": "photo", "file_id": "1"}]))

    with pytest.raises(IdempotencyConflictError):
        await messages.append(conversation.id, another)
    again = await messages.append(conversation.id, message("a", None, attachments=[{"kind": "photo", "path": "2"}]))

    assert not again.inserted


async def test_rejects_a_key_of_another_chat(
    session: AsyncSession, messages: MessageHistoryRepository, conversation: Conversation, user: User
) -> None:
    other, _ = await ConversationRepository(session).get_or_start(user.id, "telegram", "2")
    await messages.append(conversation.id, message("a"))

    with pytest.raises(IdempotencyConflictError, match="another chat"):
        await messages.append(other.id, message("a"))


async def test_recognizes_a_duplicate_after_its_conversation_was_succeeded(
    session: AsyncSession, messages: MessageHistoryRepository, conversation: Conversation, user: User
) -> None:
    first = await messages.append(conversation.id, message("a"))
    await ConversationRepository(session).update(conversation.id, is_active=False)
    successor, started = await ConversationRepository(session).get_or_start(user.id, "telegram", "1")

    again = await messages.append(successor.id, message("a"))

    assert started
    assert not again.inserted
    assert again.message.id == first.message.id
    assert successor.last_seq == 0


async def test_a_message_that_had_to_be_cleaned_is_recognized_as_a_duplicate(
    messages: MessageHistoryRepository, conversation: Conversation
) -> None:
    dirty = message("a\0", "a NUL \0 and a surrogate \ud83d", extra={"raw\0": ["\ud83d"]}, parts=["\0"])

    stored = await messages.append(conversation.id, dirty)
    again = await messages.append(conversation.id, dirty)

    assert stored.message.content == "a NUL \ufffd and a surrogate \ufffd"
    assert stored.message.extra == {"raw\0": ["\ud83d"]}
    assert not again.inserted


async def test_cleans_tool_ids_and_recognizes_duplicates(
    messages: MessageHistoryRepository, conversation: Conversation
) -> None:
    dirty = message("a", role="tool", tool_call_id="c\0", tool_name="t\ud83d", parts=[{"text": "\0"}])
    clean = message("a", role="tool", tool_call_id="c\ufffd", tool_name="t\ufffd", parts=[{"text": "\0"}])

    await messages.append(conversation.id, dirty)

    assert not (await messages.append(conversation.id, dirty)).inserted
    assert not (await messages.append(conversation.id, clean)).inserted, "a message that was read is recognized"


async def test_a_tool_id_that_is_too_long_is_rejected_before_anything_is_sent(
    messages: MessageHistoryRepository, conversation: Conversation
) -> None:
    stored = await messages.append(conversation.id, message("a", role="tool", tool_call_id="\U0001d4b3" * 255))

    assert stored.inserted
    with pytest.raises(ValueError, match=r"^tool_call_id must be at most 255 characters, got 256$"):
        message("b", role="tool", tool_call_id="x" * 256)


async def test_a_lost_turn_appends_nothing(
    session: AsyncSession, messages: MessageHistoryRepository, conversation: Conversation
) -> None:
    await session.execute(
        update(Conversation)
        .where(Conversation.tenant_id == session.tenant_id, Conversation.id == conversation.id)
        .values(turn_token=7)
    )

    for turn in (6, 8, 0):
        with pytest.raises(StaleDataError, match="turn must be the conversation's last token, 7"):
            await messages.append(conversation.id, message("a"), turn=turn)
    with pytest.raises(StaleDataError):
        await messages.pop(conversation.id, turn=6)
    assert (await messages.append(conversation.id, message("a"), turn=7)).message.seq == 1
    assert (await messages.append(conversation.id, message("b"))).message.seq == 2, (
        "without a turn the token is not checked"
    )


async def test_messages_cannot_be_written_without_a_seq(
    messages: MessageHistoryRepository, conversation: Conversation
) -> None:
    row = MessageHistory(conversation_id=conversation.id, seq=1, message_id="a", role="user")

    with pytest.raises(ValueError, match="use `append`"):
        await messages.add(row)
    with pytest.raises(ValueError, match="use `append`"):
        await messages.add_many([row])
    with pytest.raises(ValueError, match="use `append`"):
        await messages.upsert({"message_id": "a"}, key=["message_id"])


@pytest.mark.parametrize("name", ["seq", "message_id", "conversation_id", "user_id", "fingerprint", "state"])
async def test_update_cannot_change_a_messages_place_or_key(
    messages: MessageHistoryRepository, conversation: Conversation, name: str
) -> None:
    stored = (await messages.append(conversation.id, message("a"))).message
    values: dict[str, Any] = {name: None}

    with pytest.raises(ValueError, match=f"MessageHistory.{name} cannot be set"):
        await messages.update(stored.id, **values)
    assert (await messages.update(stored.id, model="m")).model == "m"


async def test_stores_long_content_unchanged(messages: MessageHistoryRepository, conversation: Conversation) -> None:
    content = "🏳️‍🌈" * 100_000

    stored = await messages.append(conversation.id, message("a", content))
    await messages.session.refresh(stored.message)

    assert stored.message.content == content


async def test_the_original_of_a_message_first_seen_edited_is_a_duplicate(
    messages: MessageHistoryRepository, conversation: Conversation
) -> None:
    await messages.append(conversation.id, message("a", "two", edited_at=datetime.now(UTC)))

    assert not (await messages.append(conversation.id, message("a", "one"))).inserted


async def test_rejects_an_unknown_conversation(messages: MessageHistoryRepository) -> None:
    with pytest.raises(NotFoundError, match="no Conversation"):
        await messages.append(uuid7(), message())


@pytest.mark.parametrize("attribute", ["content", "tool_name", "model"])
def test_a_text_must_be_a_str(attribute: str) -> None:
    values: dict[str, Any] = {attribute: 5}

    with pytest.raises(ValueError, match=f"^{attribute} must be a str, got int$"):
        message("a", **values) if attribute != "content" else message("a", 5)  # type: ignore[arg-type] # what is tested
    with pytest.raises(ValueError, match=r"^parent_id must be a uuid\.UUID"):
        message("a", parent_id="nobody")


@pytest.mark.parametrize(
    "wrong", [message("a"), [{"role": "user"}], [None], "text", (message(one) for one in "ab"), None]
)
async def test_messages_must_be_a_list_of_messages(
    messages: MessageHistoryRepository, conversation: Conversation, wrong: Any
) -> None:
    with pytest.raises(ValueError, match=r"^messages must be a list of NewMessage, got "):
        await messages.append_many(conversation.id, wrong)


async def test_rejects_more_than_a_thousand_messages(
    messages: MessageHistoryRepository, conversation: Conversation
) -> None:
    with pytest.raises(ValueError, match="at most 1000"):
        await messages.append_many(conversation.id, [message(str(n)) for n in range(1001)])


async def test_an_empty_list_appends_nothing(messages: MessageHistoryRepository, conversation: Conversation) -> None:
    assert await messages.append_many(conversation.id, []) == []


async def test_last_message_at_never_decreases(messages: MessageHistoryRepository, conversation: Conversation) -> None:
    late, early = datetime(2026, 5, 1, tzinfo=UTC), datetime(2026, 4, 1, tzinfo=UTC)

    await messages.append(conversation.id, message("a", created_at=late))
    await messages.append(conversation.id, message("b", created_at=early))

    assert conversation.last_message_at == late


def test_the_repr_of_a_message_omits_its_content() -> None:
    assert "hola" not in repr(message())
