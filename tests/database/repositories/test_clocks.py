"""Due times, leases, idleness and expiry go by the server's clock at the start of a statement, not by a worker's."""

from __future__ import annotations

import asyncio
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from sqlalchemy import func, select, text

from src.database.base import uuid7
from src.database.models import Conversation, Event, User, attributes
from src.database.repositories import (
    ConversationRepository,
    EventRepository,
    MessageHistoryRepository,
    UserRepository,
    purge_expired,
)
from src.database.session import AsyncSession
from tests.database.repositories.messages.conftest import message
from tests.database.repositories.skewed import skew_clock

MINUTE, HOUR, DAY = timedelta(minutes=1), timedelta(hours=1), timedelta(days=1)
PAUSE = timedelta(seconds=0.1)


@pytest.fixture(params=[10 * MINUTE, -10 * MINUTE], ids=["ahead", "behind"])
def skew(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> timedelta:
    """A worker whose clock is ten minutes ahead of the server's, or behind it."""
    by: timedelta = request.param
    skew_clock(monkeypatch, by)
    return by


@pytest.fixture
def upcoming(skew: timedelta) -> datetime:
    """The start of an occurrence that has not begun, although the worker's clock is past it; or the reverse."""
    return datetime.now(UTC) + skew / 2


@pytest.fixture
def expected(skew: timedelta, upcoming: datetime) -> datetime:
    """The start of the occurrence that is to be reminded of next."""
    return upcoming if skew > timedelta(0) else upcoming + DAY


@pytest.fixture
def events(session: AsyncSession) -> EventRepository:
    return EventRepository(session)


@pytest.fixture
async def conversation(session: AsyncSession, user: User) -> Conversation:
    return (await ConversationRepository(session).get_or_start(user.id, "telegram", "1"))[0]


def daily(user: User, start: datetime, **more: Any) -> Event:
    return Event(user_id=user.id, title="x", start_datetime=start, rrule="FREQ=DAILY", reminder_offset=0, **more)


async def claimed(events: EventRepository, user: User, upcoming: datetime) -> Event:
    """Add a series, and claim the reminder of yesterday's occurrence."""
    row = await events.add(daily(user, upcoming - 3 * DAY), now=upcoming - DAY - MINUTE)
    assert row.reminder_datetime == upcoming - DAY
    [event] = await events.claim_due_reminders("w")
    assert event.reminder_token is not None
    return event


async def test_a_series_continues_with_the_next_occurrence_by_the_servers_clock(
    events: EventRepository, user: User, upcoming: datetime, expected: datetime
) -> None:
    event = await claimed(events, user, upcoming)

    assert event.reminder_token is not None
    acked = await events.ack_reminder(event.id, event.reminder_token)

    assert (acked.reminder_datetime, acked.reminder_sent_at) == (expected, None)


async def test_a_skipped_reminder_is_followed_by_the_next_by_the_servers_clock(
    events: EventRepository, user: User, upcoming: datetime, expected: datetime
) -> None:
    event = await claimed(events, user, upcoming)

    assert event.reminder_token is not None
    assert (await events.skip_reminder(event.id, event.reminder_token)).reminder_datetime == expected


async def test_a_reminder_that_was_tried_too_often_is_followed_by_the_next_by_the_servers_clock(
    events: EventRepository, user: User, upcoming: datetime, expected: datetime
) -> None:
    row = await events.add(daily(user, upcoming - 3 * DAY), now=upcoming - DAY - MINUTE)
    await events.update(row.id, reminder_attempts=5)

    assert await events.claim_due_reminders("w") == []
    assert row.reminder_datetime == expected


async def test_a_series_under_way_first_reminds_of_the_next_occurrence_by_the_servers_clock(
    events: EventRepository, user: User, upcoming: datetime, expected: datetime
) -> None:
    start = upcoming - 3 * DAY
    added = await events.add(daily(user, start))
    values: attributes.EventUpsert = {
        "id": uuid7(),
        "user_id": user.id,
        "title": "x",
        "start_datetime": start,
        "rrule": "FREQ=DAILY",
        "reminder_offset": 0,
    }
    upserted = (await events.upsert(values, key=["id"])).row
    moved = await events.add(daily(user, start - HOUR))
    await events.reschedule(moved.id, start, scope="all")
    updated = await events.add(daily(user, start))
    await events.update(updated.id, reminder_offset=60)
    await events.update(updated.id, reminder_datetime=start)

    for row in (added, upserted, moved, updated):
        assert row.reminder_datetime == expected


async def test_a_lease_counts_from_the_claim_and_not_from_where_its_transaction_began(
    events: EventRepository, user: User
) -> None:
    began = (await events.session.scalars(select(func.now()))).one()
    await events.add(Event(user_id=user.id, title="x", start_datetime=began, reminder_offset=0))
    await asyncio.sleep(PAUSE.total_seconds())

    [event] = await events.claim_due_reminders("w", lease=MINUTE)

    assert began is not None
    assert event.reminder_claimed_until is not None
    assert event.reminder_claimed_until >= began + PAUSE + MINUTE
    assert await events.missed(grace=PAUSE / 2) == []
    assert event.reminder_token is not None
    acked = await events.ack_reminder(event.id, event.reminder_token)
    assert acked.reminder_sent_at is not None
    assert acked.reminder_sent_at >= began + PAUSE


async def test_a_reminder_that_became_due_after_the_transaction_began_is_claimed(
    events: EventRepository, user: User
) -> None:
    began = (await events.session.scalars(select(func.now()))).one()
    assert began is not None
    await events.add(Event(user_id=user.id, title="x", start_datetime=began + PAUSE / 2, reminder_offset=0))
    await asyncio.sleep(PAUSE.total_seconds())

    assert len(await events.missed(grace=timedelta(0))) == 1
    assert len(await events.claim_due_reminders("w", lease=timedelta(microseconds=1))) == 1
    assert len(await events.claim_due_reminders("w", lease=timedelta(microseconds=1))) == 1, "the lease has ended"


async def test_an_answer_is_as_old_as_the_statement_that_began_it(
    session: AsyncSession, conversation: Conversation
) -> None:
    messages = MessageHistoryRepository(session)
    began = await session.scalar(select(func.now()))
    await asyncio.sleep(PAUSE.total_seconds())

    batch = [message("1"), message("answer", "Ho", role="assistant", state="incomplete")]
    answer = (await messages.append_many(conversation.id, batch))[1].message

    assert began is not None
    assert answer.updated_at >= began + PAUSE


async def set_last_message(session: AsyncSession, conversation: Conversation, ago: timedelta) -> None:
    """Set when the last message of a conversation was written."""
    at = {"at": datetime.now(UTC) - ago, "id": conversation.id}
    await session.execute(text("UPDATE conversations SET last_message_at = :at WHERE id = :id"), at)


async def test_a_conversation_is_idle_by_the_servers_clock(
    session: AsyncSession, user: User, conversation: Conversation, skew: timedelta
) -> None:
    conversations = ConversationRepository(session)
    chat = (user.id, "telegram", "1")

    await set_last_message(session, conversation, 25 * MINUTE)
    assert await conversations.close_stale(30 * MINUTE) == []
    assert await conversations.get_or_start(*chat, idle_timeout=30 * MINUTE) == (conversation, False)

    await set_last_message(session, conversation, 35 * MINUTE)
    other, started = await conversations.get_or_start(*chat, idle_timeout=30 * MINUTE)
    assert started
    await set_last_message(session, other, 35 * MINUTE)
    assert await conversations.close_stale(30 * MINUTE) == [other]
    third, _ = await conversations.get_or_start(*chat)
    await conversations.close(third.id)
    for closed in (conversation, other, third):
        assert closed.closed_at is not None
        assert abs(closed.closed_at - datetime.now(UTC)) < 5 * MINUTE


async def test_expiry_is_measured_by_the_servers_clock(
    session: AsyncSession, user: User, conversation: Conversation, skew: timedelta
) -> None:
    await UserRepository(session).update(user.id, retention_days=1)
    now = datetime.now(UTC)
    ages = {"young": DAY - 5 * MINUTE, "old": DAY + 5 * MINUTE}
    batch = [message(name, created_at=now - age) for name, age in ages.items()]
    await MessageHistoryRepository(session).append_many(conversation.id, batch)

    assert (await purge_expired(session))["message_history"] == 1
    assert await MessageHistoryRepository(session).get_by_message_id("young") is not None
