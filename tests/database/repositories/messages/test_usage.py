"""MessageHistoryRepository.usage: messages and tokens by user, conversation, model and day."""

from __future__ import annotations

import random
from collections import Counter
from datetime import UTC, date, datetime, timedelta
from typing import Any

import pytest

from src.database.calendar import get_zone, local_time, zone_offsets
from src.database.models import Conversation, User
from src.database.repositories import ConversationRepository, MessageHistoryRepository, Usage
from src.database.session import AsyncSession
from tests.database.repositories.messages.conftest import message

NEW_YEAR = datetime(2026, 1, 1, tzinfo=UTC)


@pytest.fixture
async def other(session: AsyncSession, messages: MessageHistoryRepository, conversation: Conversation) -> Conversation:
    """Another user's conversation; in the first one two models have answered on two days."""
    user = User()
    session.add(user)
    await session.flush()
    found, _ = await ConversationRepository(session).get_or_start(user.id, "telegram", "2")
    await messages.append(found.id, message("other", created_at=NEW_YEAR, model="a", output_tokens=100))
    batch = [
        message("1", created_at=NEW_YEAR),
        message("2", created_at=NEW_YEAR, model="a", input_tokens=10, output_tokens=1, token_count=1),
        message("3", created_at=NEW_YEAR + timedelta(hours=2), model="b", input_tokens=20, output_tokens=2),
        message("4", created_at=NEW_YEAR + timedelta(days=1), model="a", input_tokens=30, output_tokens=2**31 - 1),
        message("5", created_at=NEW_YEAR + timedelta(days=1), model="a", output_tokens=2**31 - 1),
    ]
    await messages.append_many(conversation.id, batch)
    return found


async def test_returns_one_total_without_groups(
    messages: MessageHistoryRepository, conversation: Conversation, other: Conversation
) -> None:
    expected = Usage(messages=5, input_tokens=60, output_tokens=2 * (2**31 - 1) + 3, token_count=1)

    assert await messages.usage(conversation_id=conversation.id) == [expected]
    assert await messages.usage(user_id=conversation.user_id) == [expected]
    assert (await messages.usage(since=NEW_YEAR))[0].messages == 6
    assert await messages.usage(user_id=other.id) == [Usage(messages=0, input_tokens=0, output_tokens=0, token_count=0)]


async def test_groups_by_model_and_day(
    messages: MessageHistoryRepository, conversation: Conversation, other: Conversation
) -> None:
    rows = await messages.usage(conversation_id=conversation.id, by=["day", "model"])

    first, second = date(2026, 1, 1), date(2026, 1, 2)
    assert [(row.day, row.model, row.messages, row.input_tokens) for row in rows] == [
        (first, "a", 1, 10),
        (first, "b", 1, 20),
        (first, None, 1, 0),
        (second, "a", 2, 30),
    ]
    assert {(row.user_id, row.conversation_id) for row in rows} == {(None, None)}


async def test_groups_by_user_and_conversation(
    messages: MessageHistoryRepository, conversation: Conversation, other: Conversation
) -> None:
    rows = await messages.usage(since=NEW_YEAR, by=["user", "conversation"])

    assert {(row.user_id, row.conversation_id): row.messages for row in rows} == {
        (conversation.user_id, conversation.id): 5,
        (other.user_id, other.id): 1,
    }


async def test_days_are_those_of_the_given_zone(
    messages: MessageHistoryRepository, conversation: Conversation, other: Conversation
) -> None:
    rows = await messages.usage(conversation_id=conversation.id, by=["day"], timezone="America/Mexico_City")

    assert {row.day: row.messages for row in rows} == {date(2025, 12, 31): 3, date(2026, 1, 1): 2}


@pytest.mark.parametrize("zone", ["CET", "EET", "MET", "WET"])
async def test_half_past_midnight_belongs_to_the_new_day_in_summer_too(
    messages: MessageHistoryRepository, conversation: Conversation, zone: str
) -> None:
    created_at = datetime(2027, 7, 14, 0, 30, tzinfo=get_zone(zone)).astimezone(UTC)
    await messages.append(conversation.id, message("1", created_at=created_at))

    whole = await messages.usage(conversation_id=conversation.id, by=["day"], timezone=zone)
    within = await messages.usage(
        conversation_id=conversation.id,
        by=["day"],
        timezone=zone,
        since=created_at,
        until=created_at + timedelta(seconds=1),
    )

    assert [row.day for row in whole] == [row.day for row in within] == [date(2027, 7, 14)]


@pytest.mark.parametrize("zone", ["Europe/Dublin", "Australia/Lord_Howe", "Pacific/Apia", "Africa/Casablanca", "UTC"])
async def test_days_are_those_of_the_packaged_zone_data_at_every_instant(
    messages: MessageHistoryRepository, conversation: Conversation, zone: str
) -> None:
    dice = random.Random(zone)  # noqa: S311 - instants that repeat
    starts = [start for start in zone_offsets(zone).starts if 1900 < start.year < 2090]
    near = [start + timedelta(seconds=dice.choice((-1, 0, 1))) for start in dice.sample(starts, min(150, len(starts)))]
    instants = [*near, *(datetime(1970, 1, 1, tzinfo=UTC) + timedelta(hours=dice.randrange(10**6)) for _ in range(150))]
    batch = [message(str(number), created_at=instant) for number, instant in enumerate(instants)]
    await messages.append_many(conversation.id, batch)

    rows = await messages.usage(conversation_id=conversation.id, by=["day"], timezone=zone)

    expected = Counter(local_time(instant, get_zone(zone)).date() for instant in instants)
    assert {row.day: row.messages for row in rows} == expected


async def test_the_time_is_from_since_to_before_until(
    messages: MessageHistoryRepository, conversation: Conversation, other: Conversation
) -> None:
    async def count(**between: Any) -> int:
        return (await messages.usage(conversation_id=conversation.id, **between))[0].messages

    assert await count(since=NEW_YEAR) == 5
    assert await count(since=NEW_YEAR + timedelta(microseconds=1)) == 3
    assert await count(until=NEW_YEAR) == 0
    assert await count(since=NEW_YEAR, until=NEW_YEAR + timedelta(days=1)) == 3


async def test_deleted_messages_count_on_request(
    messages: MessageHistoryRepository, conversation: Conversation, other: Conversation
) -> None:
    await messages.pop(conversation.id)

    assert (await messages.usage(conversation_id=conversation.id))[0].messages == 4
    assert (await messages.usage(conversation_id=conversation.id, include_deleted=True))[0].messages == 5


async def test_returns_at_most_the_given_number_of_groups(
    messages: MessageHistoryRepository, conversation: Conversation, other: Conversation
) -> None:
    assert [row.model for row in await messages.usage(since=NEW_YEAR, by=["model"], limit=2)] == ["a", "b"]


@pytest.mark.parametrize(
    ("asked", "reason"),
    [
        ({}, "must be narrowed"),
        ({"by": ["day"], "until": NEW_YEAR}, "must be narrowed"),
        ({"since": NEW_YEAR, "by": ["role"]}, "`by` must be a list of user, conversation, model, day, got 'role'"),
        ({"since": NEW_YEAR, "by": "day"}, "`by` must be a list of"),
        ({"since": NEW_YEAR, "timezone": "Mars"}, "IANA name"),
        ({"since": NEW_YEAR.replace(tzinfo=None)}, "since must be aware"),
        ({"since": NEW_YEAR, "until": NEW_YEAR.replace(tzinfo=None)}, "until must be aware"),
        ({"since": NEW_YEAR, "limit": 0}, "limit must be"),
        ({"since": NEW_YEAR, "limit": 1001}, "limit must be"),
    ],
)
async def test_invalid_arguments_are_rejected(
    messages: MessageHistoryRepository, asked: dict[str, Any], reason: str
) -> None:
    with pytest.raises(ValueError, match=reason):
        await messages.usage(**asked)
