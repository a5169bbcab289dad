"""ConversationRepository: at most one conversation of a chat is active."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from src.database.base import utc_now, uuid7
from src.database.errors import DuplicateKeyError, ForeignKeyError
from src.database.models import Conversation, User
from src.database.repositories import ConversationRepository, UserRepository
from src.database.session import AsyncSession


@pytest.fixture
def conversations(session: AsyncSession) -> ConversationRepository:
    return ConversationRepository(session)


@pytest.mark.parametrize("chat", ["7", None])
async def test_starts_a_conversation_once(conversations: ConversationRepository, user: User, chat: str | None) -> None:
    first, started = await conversations.get_or_start(user.id, "telegram", chat)
    again, started_again = await conversations.get_or_start(user.id, "telegram", chat)

    assert started
    assert not started_again
    assert again is first
    assert await conversations.get_active(user.id, "telegram", chat) is first


async def test_each_chat_and_channel_has_its_own_conversation(
    conversations: ConversationRepository, user: User
) -> None:
    places = [("telegram", "7"), ("telegram", "8"), ("telegram", None), ("web", "7")]

    found = [(await conversations.get_or_start(user.id, channel, chat))[0].id for channel, chat in places]

    assert len(set(found)) == len(places)


async def test_an_idle_conversation_is_closed_and_succeeded(conversations: ConversationRepository, user: User) -> None:
    old, _ = await conversations.get_or_start(user.id, "telegram", "7")
    await conversations.update(old.id, last_message_at=utc_now() - timedelta(hours=2))

    new, started = await conversations.get_or_start(user.id, "telegram", "7", idle_timeout=timedelta(hours=1))

    assert started
    assert (old.is_active, old.close_reason) == (False, "idle")
    assert old.closed_at is not None
    assert new.id != old.id


async def test_a_conversation_that_is_not_idle_continues(conversations: ConversationRepository, user: User) -> None:
    old, _ = await conversations.get_or_start(user.id, "telegram", "7")
    last_message_at = datetime(2026, 3, 1, 12, tzinfo=UTC)
    await conversations.update(old.id, last_message_at=last_message_at)

    same, started = await conversations.get_or_start(
        user.id, "telegram", "7", idle_timeout=timedelta(hours=1), now=last_message_at + timedelta(minutes=59)
    )

    assert not started
    assert same is old


async def test_the_database_refuses_a_second_active_conversation(
    conversations: ConversationRepository, user: User
) -> None:
    await conversations.get_or_start(user.id, "telegram")

    with pytest.raises(DuplicateKeyError) as caught:
        await conversations.add(Conversation(user_id=user.id, channel="telegram", session_id="x"))

    assert caught.value.constraint == "uq_conversations_active"


async def test_rejects_an_unknown_user_and_the_transaction_continues(conversations: ConversationRepository) -> None:
    unknown = uuid7()

    with pytest.raises(ForeignKeyError, match=f"no User with id {unknown} to start a conversation for"):
        await conversations.get_or_start(unknown, "telegram")
    assert await conversations.count() == 0


async def test_starts_no_conversation_for_a_deleted_user(conversations: ConversationRepository, user: User) -> None:
    await UserRepository(conversations.session).delete(user.id)

    with pytest.raises(ForeignKeyError):
        await conversations.get_or_start(user.id, "telegram")


async def test_a_deleted_conversation_is_succeeded_and_cannot_be_restored_beside_its_successor(
    conversations: ConversationRepository, user: User
) -> None:
    deleted, _ = await conversations.get_or_start(user.id, "telegram")
    await conversations.delete(deleted.id)

    successor, started = await conversations.get_or_start(user.id, "telegram")

    assert started
    assert successor.id != deleted.id
    assert await conversations.get_by_session_id(deleted.session_id) is None
    with pytest.raises(DuplicateKeyError):
        await conversations.restore(deleted.id)


async def test_a_chat_is_found_by_its_cleaned_id(conversations: ConversationRepository, user: User) -> None:
    first, _ = await conversations.get_or_start(user.id, "web\0", "7\0")
    again, started = await conversations.get_or_start(user.id, "web\0", "7\0")

    assert not started
    assert again is first
    assert (first.channel, first.external_chat_id) == ("web\ufffd", "7\ufffd")


async def test_rejects_a_chat_without_a_name_and_a_negative_timeout(
    conversations: ConversationRepository, user: User
) -> None:
    with pytest.raises(ValueError, match="idle_timeout must be from zero to 36500 days, got -1 day"):
        await conversations.get_or_start(user.id, "telegram", idle_timeout=timedelta(days=-1))
    with pytest.raises(ValueError, match="external_chat_id must be 1 to 255 characters, got 0"):
        await conversations.get_or_start(user.id, "telegram", "")


async def test_finds_an_open_or_closed_conversation_by_its_session_id(
    conversations: ConversationRepository, user: User
) -> None:
    conversation, _ = await conversations.get_or_start(user.id, "telegram")
    await conversations.close(conversation.id)

    assert await conversations.get_by_session_id(conversation.session_id) is conversation
    assert await conversations.get_by_session_id("another") is None


async def test_pages_through_a_users_conversations_newest_first(
    conversations: ConversationRepository, user: User
) -> None:
    other = await UserRepository(conversations.session).add(User())
    await conversations.get_or_start(other.id, "telegram")
    made = [(await conversations.get_or_start(user.id, "telegram", str(n)))[0] for n in range(5)]
    await conversations.close(made[3].id)
    await conversations.delete(made[1].id)

    first = await conversations.page_for_user(user.id, limit=2)
    second = await conversations.page_for_user(user.id, limit=2, after=first.next_cursor)

    assert [*first.items, *second.items] == [made[4], made[3], made[2], made[0]]
    assert second.next_cursor is None


@pytest.mark.parametrize("limit", [0, 1001])
async def test_rejects_an_invalid_page_size(conversations: ConversationRepository, user: User, limit: int) -> None:
    with pytest.raises(ValueError, match="limit must be from 1 to 1000"):
        await conversations.page_for_user(user.id, limit=limit)


@pytest.mark.parametrize(
    "name", ["last_seq", "summary", "summary_upto_seq", "turn_token", "turn_claimed_by", "user_id"]
)
async def test_attributes_with_a_method_of_their_own_cannot_be_updated(
    session: AsyncSession, user: User, name: str
) -> None:
    conversations = ConversationRepository(session)
    found, _ = await conversations.get_or_start(user.id, "telegram", "1")
    values: dict[str, Any] = {name: None}

    with pytest.raises(ValueError, match=f"Conversation.{name} cannot be set"):
        await conversations.update(found.id, **values)
