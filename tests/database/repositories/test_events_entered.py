"""EventRepository: values that would make a later read of the calendar fail are rejected."""

from __future__ import annotations

from datetime import UTC, date, datetime, timedelta
from typing import Any

import pytest

from src.database.calendar import check_rrule
from src.database.models import Event, User
from src.database.repositories import EventRepository, UserRepository
from src.database.session import AsyncSession

START = datetime(2026, 5, 1, 9, tzinfo=UTC)
UNREAL = ["FREQ=YEARLY;BYDAY=60MO", "FREQ=MONTHLY;BYDAY=9MO", "FREQ=DAILY;UNTIL=00010101T000000Z"]


@pytest.fixture
def events(session: AsyncSession) -> EventRepository:
    return EventRepository(session)


@pytest.mark.parametrize("until", ["99991231T235959Z", "22000101T000000Z"])
async def test_a_series_whose_end_is_beyond_the_calendar_does_not_end(
    events: EventRepository, user: User, until: str
) -> None:
    row = Event(user_id=user.id, title="x", start_datetime=START, timezone="Europe/Madrid")
    row.rrule = f"FREQ=DAILY;UNTIL={until}"
    await events.add(row)

    assert len(await events.occurrences(user.id, START, START + timedelta(days=3))) == 3


@pytest.mark.parametrize("rule", UNREAL)
def test_a_rule_beyond_the_calendar_is_rejected(rule: str) -> None:
    with pytest.raises(ValueError, match=r"BYDAY must have numbers up to|UNTIL must be in the year"):
        check_rrule(rule)


async def test_a_changed_occurrence_is_of_a_series_of_the_same_user(
    events: EventRepository, session: AsyncSession, user: User
) -> None:
    other = await UserRepository(session).add(User())
    series = await events.add(Event(user_id=user.id, title="x", start_datetime=START, rrule="FREQ=DAILY"))

    for user_id, series_id in ((other.id, series.id), (user.id, user.id)):
        with pytest.raises(ValueError, match="series_id must be the id of a series of the same user"):
            await events.add(
                Event(user_id=user_id, title="y", start_datetime=START, series_id=series_id, recurrence_id=START)
            )
    await events.add(Event(user_id=user.id, title="y", start_datetime=START, series_id=series.id, recurrence_id=START))


@pytest.mark.parametrize("name", ["version", "start_local"])
async def test_computed_attributes_cannot_be_updated(events: EventRepository, user: User, name: str) -> None:
    row = await events.add(Event(user_id=user.id, title="x", start_datetime=START))
    values: dict[str, Any] = {name: 77}

    with pytest.raises(ValueError, match=f"Event.{name} cannot be set"):
        await events.update(row.id, **values)


async def test_a_pending_change_of_the_session_is_no_version_conflict(events: EventRepository, user: User) -> None:
    row = await events.add(Event(user_id=user.id, title="x", start_datetime=START))
    row.title = "y"

    assert (await events.cancel(row.id)).status == "cancelled"


@pytest.mark.parametrize(("worker", "lease"), [("w", 0), ("w", -1), ("", 60)])
async def test_a_claim_needs_a_worker_and_a_positive_lease(events: EventRepository, worker: str, lease: int) -> None:
    with pytest.raises(ValueError, match=r"lease must be more than zero|worker must be the name of the worker"):
        await events.claim_due_reminders(worker, lease=timedelta(seconds=lease))


ENDS = [datetime.max.replace(tzinfo=UTC), datetime.min.replace(tzinfo=UTC)]


@pytest.mark.parametrize("end", ENDS)
async def test_the_ends_of_the_calendar_are_refused_and_named(
    events: EventRepository, user: User, end: datetime
) -> None:
    single = await events.add(Event(user_id=user.id, title="x", start_datetime=START, end_datetime=START))
    series = await events.add(Event(user_id=user.id, title="x", start_datetime=START, rrule="FREQ=DAILY"))

    with pytest.raises(ValueError, match="start_datetime must be from 0001-01-02 to 9999-12-30"):
        await events.add(Event(user_id=user.id, title="x", start_datetime=end, timezone="Asia/Tokyo"))
    with pytest.raises(ValueError, match="start must be from 0001-01-02 to 9999-12-30"):
        await events.reschedule(single.id, end)
    with pytest.raises(ValueError, match="recurrence_id must be between the years"):
        await events.cancel(series.id, recurrence_id=end)
    with pytest.raises(ValueError, match="now must be from"):
        await events.upcoming(user.id, now=end)
    with pytest.raises(ValueError, match="must be between the years"):
        await events.occurrences(user.id, min(end, START), max(end, START))
    with pytest.raises(ValueError, match="retry_at must be from"):
        await events.release_reminder(single.id, single.id, retry_at=end)


async def test_a_long_event_is_not_moved_beyond_the_calendar(events: EventRepository, user: User) -> None:
    row = await events.add(
        Event(user_id=user.id, title="x", start_datetime=START, end_datetime=START.replace(year=2400))
    )

    with pytest.raises(ValueError, match="start must keep the event and its reminder"):
        await events.reschedule(row.id, START.replace(year=9990))


async def test_a_date_is_rejected_as_an_instant(events: EventRepository, user: User) -> None:
    day: Any = date(2026, 5, 1)

    for refused in (
        events.occurrences(user.id, day, day),
        events.overlapping(user.id, day, day),
        events.upcoming(user.id, now=day),
        events.reschedule(user.id, day),
        events.add(Event(user_id=user.id, title="x", start_datetime=day)),
        events.ack_reminder(user.id, user.id, now=day),
    ):
        with pytest.raises(ValueError, match="must be a datetime with a zone, got date"):
            await refused


async def test_an_event_without_a_start_is_rejected(events: EventRepository, user: User) -> None:
    for more in ({}, {"reminder_offset": 5}, {"rrule": "FREQ=DAILY"}):
        with pytest.raises(ValueError, match="start_datetime must be the start of the event"):
            await events.add(Event(user_id=user.id, title="x", **more))


async def test_upcoming_accepts_a_range_beyond_the_calendar(events: EventRepository, user: User) -> None:
    row = await events.add(Event(user_id=user.id, title="x", start_datetime=START))

    assert await events.upcoming(user.id, now=START, within=timedelta.max) == [row]


async def test_a_lease_above_the_maximum_is_rejected(events: EventRepository) -> None:
    with pytest.raises(ValueError, match="at most 366 days"):
        await events.claim_due_reminders("w", lease=timedelta.max)
