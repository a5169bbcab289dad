"""EventRepository.cancel: an event, one occurrence, the following ones, or the whole series."""

from __future__ import annotations

from typing import Any

import pytest

from src.database.models import Event, User
from src.database.repositories import EventRepository
from src.database.session import AsyncSession
from tests.database.repositories.weekly import DAY, HOUR, NINE, add, add_weekly, claimed, mondays, starts


@pytest.fixture
def events(session: AsyncSession) -> EventRepository:
    return EventRepository(session)


@pytest.fixture
async def weekly(events: EventRepository, user: User) -> Event:
    return await add_weekly(events, user)


async def test_cancels_an_event_and_the_claim_on_its_reminder(events: EventRepository, user: User) -> None:
    row = await claimed(events, await add(events, user, reminder_offset=600))

    cancelled = await events.cancel(row.id)

    assert (cancelled.status, cancelled.reminder_token) == ("cancelled", None)
    with pytest.raises(ValueError, match="is cancelled"):
        await events.reschedule(row.id, NINE)


async def test_cancels_one_occurrence(events: EventRepository, weekly: Event) -> None:
    [second] = mondays(1)

    assert await events.cancel(weekly.id, recurrence_id=second) is weekly

    assert await starts(events, weekly) == mondays(0, 2, 3)
    with pytest.raises(ValueError, match="recurrence_id must be the original start of an occurrence"):
        await events.cancel(weekly.id, recurrence_id=second)


async def test_cancels_an_occurrence_that_was_changed(events: EventRepository, weekly: Event) -> None:
    changed = await events.reschedule(weekly.id, NINE + HOUR, recurrence_id=NINE)

    assert await events.cancel(weekly.id, recurrence_id=NINE) is changed

    assert await starts(events, weekly) == mondays(1, 2, 3)
    with pytest.raises(ValueError, match="is cancelled"):
        await events.reschedule(weekly.id, NINE, recurrence_id=NINE)


@pytest.mark.parametrize("by_a_changed_one", [True, False])
async def test_cancels_the_following_occurrences(
    events: EventRepository, weekly: Event, by_a_changed_one: bool
) -> None:
    first, second, third, _ = mondays(0, 1, 2, 3)
    later = await events.reschedule(weekly.id, third + HOUR, recurrence_id=third)
    changed = await events.reschedule(weekly.id, second + HOUR, recurrence_id=second)

    if by_a_changed_one:
        await events.cancel(changed.id, scope="following")
    else:
        await events.cancel(weekly.id, scope="following", recurrence_id=second)

    assert await starts(events, weekly) == [first]
    assert (later.status, changed.status, weekly.status) == ("cancelled", "cancelled", "scheduled")


@pytest.mark.parametrize("scope", ["all", "following"])
async def test_cancels_a_whole_series(events: EventRepository, weekly: Event, scope: Any) -> None:
    changed = await events.reschedule(weekly.id, NINE + HOUR, recurrence_id=NINE)

    await events.cancel(weekly.id, scope=scope, recurrence_id=NINE)

    assert await starts(events, weekly) == []
    assert (weekly.status, changed.status) == ("cancelled", "cancelled")


async def test_the_end_of_an_all_day_series_is_a_date(events: EventRepository, user: User) -> None:
    midnight = NINE - 9 * HOUR
    row = await add(events, user, start_datetime=midnight, end_datetime=None, all_day=True, rrule="FREQ=DAILY")

    await events.cancel(row.id, scope="following", recurrence_id=midnight + 3 * DAY)

    assert row.rrule == "FREQ=DAILY;UNTIL=20260325"
    assert len(await starts(events, row)) == 3
