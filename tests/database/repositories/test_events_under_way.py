"""EventRepository: reminders of series that began long ago or failed, and whole days that begin at one o'clock."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any
from zoneinfo import ZoneInfo

import pytest
from sqlalchemy import text

from src.database.base import utc_now
from src.database.models import Event, User
from src.database.repositories import EventRepository
from src.database.session import AsyncSession

MINUTE, HOUR, DAY = timedelta(minutes=1), timedelta(hours=1), timedelta(days=1)


@pytest.fixture
def events(session: AsyncSession) -> EventRepository:
    return EventRepository(session)


async def add(events: EventRepository, user: User, *, start: datetime, **more: Any) -> Event:
    return await events.add(Event(user_id=user.id, title="x", start_datetime=start, rrule="FREQ=DAILY", **more))


@pytest.mark.parametrize("attribute", ["reminder_offset", "reminder_datetime"])
async def test_a_series_under_way_reminds_of_future_occurrences(
    events: EventRepository, user: User, attribute: str
) -> None:
    start = utc_now() - 2000 * DAY + HOUR
    lead: dict[str, Any] = {attribute: 600 if attribute == "reminder_offset" else start - 10 * MINUTE}

    row = await add(events, user, start=start, exdates=[start + 2000 * DAY], **lead)

    assert (row.reminder_datetime, row.reminder_offset) == (start + 2001 * DAY - 10 * MINUTE, 600)
    assert await events.claim_due_reminders("w") == []


async def test_a_series_that_has_ended_reminds_of_nothing(events: EventRepository, user: User) -> None:
    row = Event(user_id=user.id, title="x", start_datetime=utc_now() - 9 * DAY, reminder_offset=0)
    row.rrule = "FREQ=DAILY;COUNT=3"

    assert (await events.add(row)).reminder_datetime is None


async def test_one_occurrence_that_failed_does_not_end_the_reminders_of_a_series(
    events: EventRepository, user: User
) -> None:
    start = utc_now() - 3 * DAY
    row = await add(events, user, start=start, reminder_offset=600)
    single = await events.add(
        Event(user_id=user.id, title="y", start_datetime=utc_now() + HOUR, reminder_datetime=utc_now() - MINUTE)
    )
    await remind_at(events, row, start - 10 * MINUTE)
    for _ in range(5):
        await claim_and_release(events, limit=1)

    assert await events.claim_due_reminders("w", limit=1) == [single], "the next reminder replaces the failed one"

    assert row.reminder_datetime is not None
    assert row.reminder_datetime + 10 * MINUTE - start in {3 * DAY, 4 * DAY}
    assert (row.reminder_attempts, row.reminder_token) == (0, None)


async def test_an_occurrence_that_failed_is_missed_until_it_begins(events: EventRepository, user: User) -> None:
    row = await add(events, user, start=utc_now() + 5 * MINUTE, reminder_offset=600)
    due = row.reminder_datetime
    for _ in range(5):
        await claim_and_release(events)

    assert await events.claim_due_reminders("w") == []
    assert await events.missed(grace=timedelta(0)) == [row]
    assert row.reminder_datetime == due


async def test_a_series_that_failed_for_the_last_time_reminds_of_nothing(events: EventRepository, user: User) -> None:
    row = await add(events, user, start=utc_now() - HOUR, reminder_offset=0)
    await events.session.execute(text("UPDATE events SET rrule = 'FREQ=DAILY;COUNT=1', reminder_attempts = 9"))
    await remind_at(events, row, row.start_datetime)

    assert await events.claim_due_reminders("w") == []
    assert (row.reminder_datetime, await events.missed(grace=timedelta(0))) == (None, [])


async def test_an_unreadable_rule_does_not_block_other_reminders(events: EventRepository, user: User) -> None:
    broken = await add(events, user, start=utc_now() + HOUR, reminder_offset=0)
    await events.session.execute(text("UPDATE events SET rrule = 'FREQ=HOURLY', reminder_attempts = 9"))
    await remind_at(events, broken, utc_now() - DAY)
    other = await events.add(
        Event(user_id=user.id, title="y", start_datetime=utc_now() + HOUR, reminder_datetime=utc_now() - MINUTE)
    )

    assert await events.claim_due_reminders("w", limit=1) == [other]


@pytest.mark.parametrize(
    ("zone", "first"),
    [("America/Sao_Paulo", "2018-11-04T01:00"), ("Asia/Beirut", "2026-03-29T01:00")],
)
async def test_whole_days_last_24_hours_where_the_first_has_no_midnight(
    events: EventRepository, user: User, zone: str, first: str
) -> None:
    start = datetime.fromisoformat(first).replace(tzinfo=ZoneInfo(zone))
    days = [start.replace(hour=0) + n * DAY for n in range(1, 4)]
    row = await add(events, user, start=start, end_datetime=days[0], all_day=True, timezone=zone)

    found = await events.occurrences(user.id, start, start + 2 * DAY)

    assert [(one.start, one.end) for one in found][:2] == [(start, days[0]), (days[0], days[1])]
    moved = await events.reschedule(row.id, days[1], recurrence_id=days[0])
    assert moved.end_datetime == days[2]
    await events.reschedule(row.id, days[0], scope="all")
    assert (row.start_datetime, row.end_datetime) == (days[0], days[1])


async def test_a_whole_day_that_is_moved_to_one_without_midnight_ends_with_it(
    events: EventRepository, user: User
) -> None:
    zone = ZoneInfo("Asia/Beirut")
    day = datetime(2026, 3, 27, tzinfo=zone)
    row = await events.add(
        Event(user_id=user.id, title="x", start_datetime=day, end_datetime=day + DAY, all_day=True, timezone=zone.key)
    )

    await events.reschedule(row.id, datetime(2026, 3, 29, 1, tzinfo=zone))

    assert row.end_datetime == datetime(2026, 3, 30, tzinfo=zone)


async def remind_at(events: EventRepository, event: Event, at: datetime) -> None:
    """Set the time of a reminder without resetting its claim, as `update` would."""
    changed = text("UPDATE events SET reminder_datetime = :at WHERE id = :id")
    await events.session.execute(changed, {"at": at.astimezone(UTC), "id": event.id})
    await events.session.refresh(event)


async def claim_and_release(events: EventRepository, limit: int = 10) -> None:
    """Claim the due reminders and release each, as a worker that fails does."""
    [event] = await events.claim_due_reminders("w", limit=limit)
    assert event.reminder_token is not None
    await events.release_reminder(event.id, event.reminder_token)
