"""MessageHistoryRepository: order, idempotence, edits."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest

from src.database.base import uuid7
from src.database.errors import IdempotencyConflictError, NotFoundError
from src.database.models import Conversation, User
from src.database.repositories import ConversationRepository, MessageHistoryRepository, NewMessage
from src.database.tenancy import AsyncSession


def message(key: str = "t:bot:1:1", content: str | None = "hola", **more: object) -> NewMessage:
    return NewMessage(message_id=key, role="user", content=content, **more)  # type: ignore[arg-type] # shorthand


@pytest.fixture
def messages(session: AsyncSession) -> MessageHistoryRepository:
    return MessageHistoryRepository(session)


@pytest.fixture
async def conversation(session: AsyncSession, user: User) -> Conversation:
    found, _ = await ConversationRepository(session).get_or_start(user.id, "telegram", "1")
    return found


async def test_numbers_messages_without_gaps_in_the_order_given(
    messages: MessageHistoryRepository, conversation: Conversation
) -> None:
    first = await messages.append(conversation.id, message("a"))
    batch = await messages.append_many(conversation.id, [message("b"), message("c"), message("d")])

    assert first.message.seq == 1
    assert [(one.message.message_id, one.message.seq) for one in batch] == [("b", 2), ("c", 3), ("d", 4)]
    assert conversation.last_seq == 4


async def test_says_duplicate_for_the_same_message_again(
    messages: MessageHistoryRepository, conversation: Conversation
) -> None:
    first = await messages.append(conversation.id, message("a"))

    again = await messages.append_many(conversation.id, [message("a"), message("b"), message("b")])

    assert [one.inserted for one in again] == [False, True, False]
    assert [one.message.seq for one in again] == [1, 2, 2]
    assert again[0].message.id == first.message.id


async def test_refuses_the_same_key_with_other_content(
    messages: MessageHistoryRepository, conversation: Conversation
) -> None:
    await messages.append(conversation.id, message("a", "one"))

    with pytest.raises(IdempotencyConflictError, match="other content") as caught:
        await messages.append(conversation.id, message("a", "two"))

    assert "two" not in str(caught.value)
    assert await messages.count() == 1


async def test_refuses_the_same_key_with_other_content_within_a_batch(
    messages: MessageHistoryRepository, conversation: Conversation
) -> None:
    with pytest.raises(IdempotencyConflictError):
        await messages.append_many(conversation.id, [message("a", "one"), message("a", "two")])


async def test_a_refused_batch_leaves_nothing_of_itself(
    messages: MessageHistoryRepository, conversation: Conversation
) -> None:
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
async def test_refuses_another_kind_of_message_under_the_same_key(
    messages: MessageHistoryRepository, conversation: Conversation, another: NewMessage
) -> None:
    await messages.append(conversation.id, message("a", None, attachments=[{"kind": "photo", "file_id": "1"}]))

    with pytest.raises(IdempotencyConflictError):
        await messages.append(conversation.id, another)
    again = await messages.append(conversation.id, message("a", None, attachments=[{"kind": "photo", "path": "2"}]))

    assert not again.inserted


async def test_refuses_a_key_of_another_chat(
    session: AsyncSession, messages: MessageHistoryRepository, conversation: Conversation, user: User
) -> None:
    other, _ = await ConversationRepository(session).get_or_start(user.id, "telegram", "2")
    await messages.append(conversation.id, message("a"))

    with pytest.raises(IdempotencyConflictError, match="another chat"):
        await messages.append(other.id, message("a"))


async def test_knows_a_message_again_after_its_conversation_was_succeeded(
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


async def test_cleans_what_postgresql_cannot_hold_and_knows_it_again(
    messages: MessageHistoryRepository, conversation: Conversation
) -> None:
    dirty = message("a\0", "a NUL \0 and a surrogate \ud83d", extra={"raw\0": ["\ud83d"]}, parts=["\0"])

    stored = await messages.append(conversation.id, dirty)
    again = await messages.append(conversation.id, dirty)

    assert stored.message.content == "a NUL \ufffd and a surrogate \ufffd"
    assert stored.message.extra == {"raw\ufffd": ["\ufffd"]}
    assert not again.inserted


async def test_never_cuts_content(messages: MessageHistoryRepository, conversation: Conversation) -> None:
    content = "🏳️‍🌈" * 100_000

    stored = await messages.append(conversation.id, message("a", content))
    await messages.session.refresh(stored.message)

    assert stored.message.content == content


async def test_recent_returns_the_last_ones_oldest_first(
    messages: MessageHistoryRepository, conversation: Conversation
) -> None:
    await messages.append_many(conversation.id, [message(str(n)) for n in range(1, 8)])

    recent = await messages.recent(conversation.id, limit=3)

    assert [one.seq for one in recent] == [5, 6, 7]


async def test_recent_passes_over_deleted_messages(
    messages: MessageHistoryRepository, conversation: Conversation
) -> None:
    batch = await messages.append_many(conversation.id, [message(str(n)) for n in range(1, 4)])
    await messages.delete(batch[2].message.id)

    assert [one.seq for one in await messages.recent(conversation.id)] == [1, 2]
    assert not (await messages.append(conversation.id, message("3"))).inserted


@pytest.mark.parametrize("limit", [0, -1, 1001])
async def test_recent_refuses_a_limit_out_of_range(
    messages: MessageHistoryRepository, conversation: Conversation, limit: int
) -> None:
    with pytest.raises(ValueError, match="limit must be from 1 to 1000"):
        await messages.recent(conversation.id, limit=limit)


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


async def test_the_original_of_a_message_first_seen_edited_is_a_duplicate(
    messages: MessageHistoryRepository, conversation: Conversation
) -> None:
    await messages.append(conversation.id, message("a", "two", edited_at=datetime.now(UTC)))

    assert not (await messages.append(conversation.id, message("a", "one"))).inserted


async def test_edit_of_an_unknown_message_is_not_found(messages: MessageHistoryRepository) -> None:
    with pytest.raises(NotFoundError):
        await messages.edit("nothing", "x", edited_at=datetime.now(UTC))


async def test_refuses_an_unknown_conversation(messages: MessageHistoryRepository) -> None:
    with pytest.raises(NotFoundError, match="no Conversation"):
        await messages.append(uuid7(), message())


async def test_refuses_more_than_a_thousand_at_once(
    messages: MessageHistoryRepository, conversation: Conversation
) -> None:
    with pytest.raises(ValueError, match="at most 1000"):
        await messages.append_many(conversation.id, [message(str(n)) for n in range(1001)])


async def test_appends_nothing_where_there_is_nothing(
    messages: MessageHistoryRepository, conversation: Conversation
) -> None:
    assert await messages.append_many(conversation.id, []) == []


async def test_last_message_at_never_goes_back(messages: MessageHistoryRepository, conversation: Conversation) -> None:
    late, early = datetime(2026, 5, 1, tzinfo=UTC), datetime(2026, 4, 1, tzinfo=UTC)

    await messages.append(conversation.id, message("a", created_at=late))
    await messages.append(conversation.id, message("b", created_at=early))

    assert conversation.last_message_at == late


def test_a_message_never_shows_its_content() -> None:
    assert "hola" not in repr(message())
