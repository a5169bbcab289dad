"""EventRepository.reschedule: an event, one occurrence, the following ones, or the whole series."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from sqlalchemy import text

from src.database.base import uuid7
from src.database.errors import NotFoundError, StaleDataError
from src.database.models import Event, User
from src.database.repositories import EventRepository
from src.database.session import AsyncSession
from tests.database.repositories.weekly import DAY, HOUR, NINE, NOW, add, add_weekly, claimed, mondays, starts


@pytest.fixture
def events(session: AsyncSession) -> EventRepository:
    return EventRepository(session)


@pytest.fixture
async def weekly(events: EventRepository, user: User) -> Event:
    return await add_weekly(events, user)


async def test_a_moved_event_keeps_its_length_and_its_reminder_is_new(events: EventRepository, user: User) -> None:
    row = await claimed(events, await add(events, user, reminder_offset=600))

    moved = await events.reschedule(row.id, NINE + 7 * DAY)

    assert (moved.id, moved.version) == (row.id, 2)
    assert moved.end_datetime == NINE + 7 * DAY + HOUR
    assert moved.reminder_datetime == NINE + 7 * DAY - timedelta(minutes=10)
    assert (moved.reminder_token, moved.reminder_claimed_by, moved.reminder_claimed_until) == (None, None, None)
    assert (moved.reminder_sent_at, moved.reminder_attempts) == (None, 0)
    await events.session.refresh(moved)
    assert (moved.reminder_token, moved.reminder_sent_at, moved.reminder_attempts) == (None, None, 0)


async def test_a_reminder_without_an_offset_stays_as_long_before(events: EventRepository, user: User) -> None:
    row = await add(events, user, reminder_datetime=NINE - 2 * HOUR)

    moved = await events.reschedule(row.id, NINE + DAY, end=NINE + DAY)

    assert moved.reminder_datetime == NINE + DAY - 2 * HOUR
    assert moved.end_datetime == NINE + DAY


async def test_an_event_without_a_reminder_gets_none(events: EventRepository, user: User) -> None:
    row = await add(events, user, end_datetime=None)

    moved = await events.reschedule(row.id, NINE + DAY)

    assert (moved.reminder_datetime, moved.end_datetime) == (None, None)


async def test_this_stores_the_occurrence_as_a_row(events: EventRepository, weekly: Event) -> None:
    [_, second, *_] = mondays(0, 1, 2, 3)

    changed = await events.reschedule(weekly.id, second + DAY, recurrence_id=second)

    assert (changed.series_id, changed.recurrence_id) == (weekly.id, second)
    assert changed.end_datetime == second + DAY + HOUR
    assert changed.reminder_datetime == second + DAY - timedelta(minutes=10)
    assert await starts(events, weekly) == [NINE, second + DAY, *mondays(2, 3)]
    assert weekly.reminder_datetime == NINE - timedelta(minutes=10), "the reminder is for another occurrence"


@pytest.mark.parametrize("by_its_own_id", [True, False])
async def test_a_changed_occurrence_is_changed_again(
    events: EventRepository, weekly: Event, by_its_own_id: bool
) -> None:
    changed = await events.reschedule(weekly.id, NINE + DAY, recurrence_id=NINE)

    if by_its_own_id:
        again = await events.reschedule(changed.id, NINE + 2 * DAY)
    else:
        again = await events.reschedule(weekly.id, NINE + 2 * DAY, recurrence_id=NINE)

    assert again is changed
    assert (changed.start_datetime, changed.recurrence_id) == (NINE + 2 * DAY, NINE)


async def test_the_reminder_of_a_series_skips_changed_occurrences(events: EventRepository, weekly: Event) -> None:
    await claimed(events, weekly)
    await events.session.execute(text("UPDATE events SET reminder_sent_at = NULL"))
    await events.cancel(weekly.id, recurrence_id=mondays(1)[0])

    await events.reschedule(weekly.id, NINE + DAY, recurrence_id=NINE)

    assert weekly.reminder_datetime == mondays(2)[0] - timedelta(minutes=10)
    assert weekly.reminder_token is None


async def test_following_begins_a_series_with_the_rest_of_the_count(events: EventRepository, weekly: Event) -> None:
    first, second, third, _ = mondays(0, 1, 2, 3)
    await events.cancel(weekly.id, recurrence_id=second)

    new = await events.reschedule(weekly.id, third + DAY + HOUR, scope="following", recurrence_id=third, now=NOW)

    assert weekly.rrule == f"FREQ=WEEKLY;UNTIL={third - timedelta(seconds=1):%Y%m%dT%H%M%SZ}"
    assert new.rrule == "FREQ=WEEKLY;COUNT=2"
    assert new.reminder_datetime == third + DAY + HOUR - timedelta(minutes=10)
    assert weekly.reminder_datetime == first - timedelta(minutes=10)
    assert await starts(events, weekly) == [first, third + DAY + HOUR, third + 8 * DAY + HOUR]


async def test_following_moves_changed_and_excluded_occurrences_too(events: EventRepository, weekly: Event) -> None:
    first, second, third, fourth = mondays(0, 1, 2, 3)
    changed = await events.reschedule(weekly.id, third + 2 * HOUR, recurrence_id=third)
    await events.cancel(weekly.id, recurrence_id=fourth)

    new = await events.reschedule(weekly.id, second + HOUR, scope="following", recurrence_id=second, now=NOW)

    assert (changed.series_id, changed.recurrence_id) == (new.id, third + HOUR)
    assert changed.start_datetime == third + 3 * HOUR
    assert changed.reminder_datetime == third + 3 * HOUR - timedelta(minutes=10)
    assert (weekly.exdates, new.exdates) == ([], [fourth + HOUR])
    assert await starts(events, weekly) == [first, second + HOUR, third + 3 * HOUR]


async def test_following_from_the_first_occurrence_changes_all(events: EventRepository, weekly: Event) -> None:
    moved = await events.reschedule(weekly.id, NINE + HOUR, scope="following", recurrence_id=NINE, now=NOW)

    assert moved is weekly
    assert (moved.rrule, moved.start_datetime) == ("FREQ=WEEKLY;COUNT=4", NINE + HOUR)


@pytest.mark.parametrize("named", [None, 3])
async def test_all_moves_by_local_time(events: EventRepository, weekly: Event, named: int | None) -> None:
    first, second, third, fourth = mondays(0, 1, 2, 3)
    await events.reschedule(weekly.id, second + 2 * HOUR, recurrence_id=second)
    await events.cancel(weekly.id, recurrence_id=third)
    recurrence_id = None if named is None else mondays(named)[0]

    moved = await events.reschedule(
        weekly.id, (recurrence_id or first) + HOUR, scope="all", recurrence_id=recurrence_id, now=NOW
    )

    assert moved is weekly
    assert await starts(events, weekly) == [first + HOUR, second + 3 * HOUR, fourth + HOUR]
    assert moved.end_datetime == first + 2 * HOUR
    assert moved.exdates == [third + HOUR]
    assert moved.reminder_datetime == first + HOUR - timedelta(minutes=10)


@pytest.mark.parametrize("days", [1, -1])
async def test_changed_occurrences_can_move_to_each_others_times(
    events: EventRepository, user: User, days: int
) -> None:
    daily = await add(events, user, rrule="FREQ=DAILY;UNTIL=20260327T080000Z", reminder_offset=600)
    for n in range(4):
        await events.reschedule(daily.id, NINE + n * DAY + HOUR, recurrence_id=NINE + n * DAY)

    await events.reschedule(daily.id, NINE + days * DAY, scope="all", now=NOW - 9 * DAY)

    assert await starts(events, daily) == [NINE + (n + days) * DAY + HOUR * (n < 4) for n in range(5)]
    assert daily.reminder_datetime == NINE + (4 + days) * DAY - timedelta(minutes=10), (
        "the changed occurrences have their own reminders"
    )


async def test_all_moves_the_weekdays_of_the_rule(events: EventRepository, user: User) -> None:
    row = await add(events, user, rrule="FREQ=WEEKLY;BYDAY=MO,WE;COUNT=4")

    await events.reschedule(row.id, NINE + DAY, scope="all", now=NOW)

    assert row.rrule == "FREQ=WEEKLY;BYDAY=TU,TH;COUNT=4;WKST=TU"
    assert await starts(events, row) == [
        NINE + DAY,
        NINE + 3 * DAY,
        *(one + n * DAY for one in mondays(1) for n in (1, 3)),
    ]


async def test_all_sets_a_length_and_a_rule(events: EventRepository, user: User) -> None:
    row = await add(events, user, rrule="FREQ=MONTHLY;BYMONTHDAY=23;COUNT=2")

    with pytest.raises(ValueError, match="fixes its days"):
        await events.reschedule(row.id, NINE + DAY, scope="all")
    await events.reschedule(
        row.id, NINE + DAY, end=NINE + DAY + 2 * HOUR, scope="all", rrule="FREQ=MONTHLY;BYMONTHDAY=24;COUNT=2", now=NOW
    )

    [first, second] = await events.occurrences(row.user_id, NINE, NINE + 90 * DAY)
    assert (first.start, first.end) == (NINE + DAY, NINE + DAY + 2 * HOUR)
    assert second.start == datetime(2026, 4, 24, 7, tzinfo=UTC)


async def test_a_series_reminds_of_occurrences_that_have_not_begun(events: EventRepository, weekly: Event) -> None:
    await claimed(events, weekly)

    await events.reschedule(weekly.id, NINE + HOUR, scope="all", now=NINE + 8 * DAY)

    assert weekly.reminder_datetime == mondays(2, hour=10)[0] - timedelta(minutes=10)
    assert weekly.reminder_sent_at is None


async def test_a_change_that_is_meant_for_another_version_is_rejected(events: EventRepository, weekly: Event) -> None:
    with pytest.raises(StaleDataError, match="has version 1, and the change is meant for version 7"):
        await events.cancel(weekly.id, scope="all", version=7)
    await events.session.execute(text("UPDATE events SET version = 2"))
    with pytest.raises(StaleDataError, match="has version 2, and the change is meant for version 1"):
        await events.reschedule(weekly.id, NINE, scope="all")

    await events.reschedule(weekly.id, NINE, scope="all", version=2)


@pytest.mark.parametrize(
    ("arguments", "problem"),
    [
        ({}, "recurrence_id must name an occurrence"),
        ({"scope": "following"}, "recurrence_id must name an occurrence"),
        ({"scope": "some"}, "scope must be this, following or all, got 'some'"),
        ({"recurrence_id": NINE + HOUR}, "must be the original start of an occurrence"),
        ({"recurrence_id": NINE.replace(tzinfo=None)}, "recurrence_id must be aware"),
        ({"recurrence_id": NINE, "end": NINE - DAY}, "end must not be before start"),
        ({"recurrence_id": NINE, "rrule": "FREQ=DAILY"}, "rrule must be None unless"),
        ({"scope": "all", "rrule": "FREQ=HOURLY"}, "FREQ must be one of"),
        ({"scope": "all", "start": NINE.replace(year=9999)}, "start must be between the years"),
        ({"scope": "all", "start": NINE.replace(tzinfo=None)}, "start must be aware"),
    ],
)
async def test_rejects_arguments_that_do_not_fit_the_scope(
    events: EventRepository, weekly: Event, arguments: dict[str, Any], problem: str
) -> None:
    with pytest.raises(ValueError, match=problem):
        await events.reschedule(weekly.id, **{"start": NINE, **arguments})

    assert weekly.version == 1


async def test_a_missing_event_is_not_found(events: EventRepository) -> None:
    with pytest.raises(NotFoundError):
        await events.reschedule(uuid7(), NINE)
    with pytest.raises(NotFoundError):
        await events.cancel(uuid7())
