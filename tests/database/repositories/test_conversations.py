"""ConversationRepository: at most one is active."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest

from src.database.base import utc_now, uuid7
from src.database.errors import DuplicateKeyError, ForeignKeyError
from src.database.models import Conversation, User
from src.database.repositories import ConversationRepository
from src.database.tenancy import AsyncSession


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


async def test_each_chat_and_channel_has_its_own(conversations: ConversationRepository, user: User) -> None:
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


async def test_a_lively_conversation_goes_on(conversations: ConversationRepository, user: User) -> None:
    old, _ = await conversations.get_or_start(user.id, "telegram", "7")
    said = datetime(2026, 3, 1, 12, tzinfo=UTC)
    await conversations.update(old.id, last_message_at=said)

    same, started = await conversations.get_or_start(
        user.id, "telegram", "7", idle_timeout=timedelta(hours=1), now=said + timedelta(minutes=59)
    )

    assert not started
    assert same is old


async def test_the_database_refuses_a_second_active_one(conversations: ConversationRepository, user: User) -> None:
    await conversations.get_or_start(user.id, "telegram")

    with pytest.raises(DuplicateKeyError) as caught:
        await conversations.add(Conversation(user_id=user.id, channel="telegram", session_id="x"))

    assert caught.value.constraint == "uq_conversations_active"


async def test_refuses_an_unknown_user(conversations: ConversationRepository) -> None:
    with pytest.raises(ForeignKeyError):
        await conversations.get_or_start(uuid7(), "telegram")
