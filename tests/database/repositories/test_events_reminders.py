"""EventRepository: reminders that are released, failed or missed, and those of a series."""

from __future__ import annotations

from datetime import datetime, timedelta
from typing import Any
from uuid import UUID

import pytest
from sqlalchemy import event as sqlalchemy_event
from sqlalchemy import text

from src.database.base import utc_now, uuid7
from src.database.errors import StaleDataError
from src.database.models import Event, User
from src.database.repositories import EventRepository, UserRepository
from src.database.session import AsyncSession

MINUTE, HOUR, DAY = timedelta(minutes=1), timedelta(hours=1), timedelta(days=1)


@pytest.fixture
def events(session: AsyncSession) -> EventRepository:
    return EventRepository(session)


async def add(events: EventRepository, user: User, *, start: datetime | None = None, **more: Any) -> Event:
    """Add an event whose reminder has been due for a minute."""
    start = start or utc_now() + 9 * MINUTE
    values = {"user_id": user.id, "title": "x", "start_datetime": start, "reminder_offset": 600, **more}
    return await events.add(Event(**values), now=start - HOUR)


async def claim(events: EventRepository, **more: Any) -> tuple[Event, UUID]:
    [event] = await events.claim_due_reminders("w", **more)
    assert event.reminder_token is not None
    return event, event.reminder_token


async def expire(events: EventRepository, event: Event) -> None:
    """End a lease. Within the transaction of a test, the clock of the server does not move."""
    await events.update(event.id, reminder_claimed_until=utc_now() - HOUR)


async def remind_at(events: EventRepository, event: Event, at: datetime) -> None:
    """Set the time of a reminder without resetting its claim, as `update` would."""
    await events.session.execute(
        text("UPDATE events SET reminder_datetime = :at WHERE id = :id"), {"at": at, "id": event.id}
    )
    await events.session.refresh(event)


async def test_an_offset_alone_sets_the_reminder(events: EventRepository, user: User) -> None:
    start = utc_now() + DAY

    assert (await add(events, user, start=start)).reminder_datetime == start - 10 * MINUTE
    assert (await add(events, user, start=start, reminder_datetime=start)).reminder_datetime == start


async def test_a_released_reminder_can_be_claimed_immediately(events: EventRepository, user: User) -> None:
    await add(events, user)
    event, token = await claim(events)

    await events.release_reminder(event.id, token)

    again, other = await claim(events)
    assert other != token
    assert again.reminder_attempts == 2


async def test_a_reminder_released_for_later_cannot_be_claimed_until_then(events: EventRepository, user: User) -> None:
    await add(events, user)
    event, token = await claim(events)
    due = event.reminder_datetime

    await events.release_reminder(event.id, token, retry_at=utc_now() + HOUR)

    assert await events.claim_due_reminders("w") == []
    assert await events.missed(grace=timedelta(0)) == []
    with pytest.raises(StaleDataError):
        await events.ack_reminder(event.id, token)
    assert event.reminder_token is not None
    await events.release_reminder(event.id, event.reminder_token, retry_at=utc_now() - HOUR)
    assert (await claim(events))[0].reminder_datetime == due


async def test_a_lost_claim_cannot_be_released(events: EventRepository, user: User) -> None:
    await add(events, user)
    event, token = await claim(events)
    await expire(events, event)
    await claim(events)

    with pytest.raises(StaleDataError, match="not held under this token"):
        await events.release_reminder(event.id, token)
    with pytest.raises(ValueError, match="retry_at must be aware"):
        await events.release_reminder(event.id, uuid7(), retry_at=utc_now().replace(tzinfo=None))


async def test_a_reminder_that_failed_too_often_is_not_claimed_but_missed(events: EventRepository, user: User) -> None:
    event = await add(events, user)
    for _ in range(3):
        await claim(events, max_attempts=3)
        await expire(events, event)

    assert await events.claim_due_reminders("w", max_attempts=3) == []
    assert await events.missed(grace=timedelta(0)) == [event]

    await events.update(event.id, reminder_attempts=0)
    assert (await claim(events, max_attempts=3))[0] is event


async def test_missed_returns_overdue_reminders_without_a_claim(events: EventRepository, user: User) -> None:
    other = await UserRepository(events.session).add(User())
    long_ago = utc_now() - 2 * HOUR
    late = await add(events, user, reminder_datetime=long_ago, title="late")
    later = await add(events, other, reminder_datetime=long_ago + MINUTE, title="another's")
    await add(events, user, title="not long ago")
    await add(events, user, reminder_datetime=long_ago, status="cancelled")
    await add(events, user, reminder_datetime=long_ago, reminder_sent_at=long_ago)

    assert await events.missed() == [late, later]
    assert await events.missed(user_id=other.id) == [later]
    assert await events.missed(limit=1) == [late]
    assert await events.missed(grace=3 * HOUR) == []
    await events.claim_due_reminders("w")
    assert await events.missed() == []


async def test_a_deleted_user_is_not_reminded(events: EventRepository, user: User) -> None:
    await add(events, user, reminder_datetime=utc_now() - DAY)
    await UserRepository(events.session).delete(user.id)

    assert await events.claim_due_reminders("w") == []
    assert await events.missed() == []

    await UserRepository(events.session).restore(user.id)
    await claim(events)


async def test_a_moved_event_cannot_be_acknowledged_under_its_old_claim(events: EventRepository, user: User) -> None:
    await add(events, user)
    event, token = await claim(events)

    await events.reschedule(event.id, utc_now() + DAY)

    with pytest.raises(StaleDataError):
        await events.ack_reminder(event.id, token)
    assert await events.claim_due_reminders("w") == []


async def test_a_series_continues_with_its_next_reminder(events: EventRepository, user: User) -> None:
    row = await add(events, user, rrule="FREQ=DAILY;COUNT=2")
    start = row.start_datetime

    event, token = await claim(events)
    await events.ack_reminder(event.id, token)
    assert (event.reminder_datetime, event.reminder_sent_at) == (start + DAY - 10 * MINUTE, None)
    assert (event.reminder_attempts, event.reminder_token) == (0, None)
    assert await events.claim_due_reminders("w") == []

    await events.update(event.id, reminder_datetime=start - DAY)
    event, token = await claim(events)
    await remind_at(events, event, start + DAY - 10 * MINUTE)
    await events.ack_reminder(event.id, token)
    assert event.reminder_sent_at is not None, "no reminder follows the last one"


async def test_a_series_does_not_remind_of_changed_or_excluded_occurrences(events: EventRepository, user: User) -> None:
    row = await add(events, user, rrule="FREQ=DAILY")
    start = row.start_datetime
    await events.cancel(row.id, recurrence_id=start + DAY)
    moved = await events.reschedule(row.id, start + 2 * DAY + HOUR, recurrence_id=start + 2 * DAY)

    event, token = await claim(events)
    await events.ack_reminder(event.id, token)

    assert event.reminder_datetime == start + 3 * DAY - 10 * MINUTE
    assert moved.reminder_datetime == start + 2 * DAY + HOUR - 10 * MINUTE


async def test_a_series_does_not_remind_of_occurrences_that_began_during_an_outage(
    events: EventRepository, user: User
) -> None:
    row = await add(events, user, start=utc_now() - 5 * DAY + HOUR, rrule="FREQ=DAILY")

    event, token = await claim(events)
    await events.ack_reminder(event.id, token)

    assert event.reminder_datetime == row.start_datetime + 5 * DAY - 10 * MINUTE


async def test_a_series_whose_reminder_has_no_offset_keeps_its_distance(events: EventRepository, user: User) -> None:
    start = utc_now() + 9 * MINUTE
    await add(events, user, start=start, reminder_datetime=start - HOUR, reminder_offset=None, rrule="FREQ=DAILY")

    event, token = await claim(events)
    await events.ack_reminder(event.id, token)

    assert event.reminder_datetime == start + DAY - HOUR


async def test_a_series_reminds_at_the_same_local_time(events: EventRepository, user: User) -> None:
    """The clocks of the zone change on 29 March 2026."""
    start = datetime.fromisoformat("2026-03-28T09:00:00+01:00")
    await add(events, user, start=start, rrule="FREQ=DAILY", timezone="Europe/Madrid")

    event, token = await claim(events)
    await events.ack_reminder(event.id, token, now=start)

    assert event.reminder_datetime == start + DAY - HOUR - 10 * MINUTE


async def test_a_claim_is_one_call_of_the_function(events: EventRepository, session: AsyncSession, user: User) -> None:
    """The store sends the same call: the two cannot differ in what they claim."""
    await add(events, user)
    sent: list[str] = []
    connection = (await session.connection()).sync_connection
    sqlalchemy_event.listen(connection, "before_cursor_execute", lambda *arguments: sent.append(arguments[2]))

    await claim(events)

    [statement] = sent
    assert "FROM app_claim_reminders(" in statement
