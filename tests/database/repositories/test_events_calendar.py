"""EventRepository: events that overlap an interval, and occurrences in it."""

from __future__ import annotations

import random
import time
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from sqlalchemy import text

from src.database.base import uuid7
from src.database.calendar import Series
from src.database.models import Event, User
from src.database.repositories import EventRepository, Occurrence
from src.database.session import AsyncSession
from tests.database.calendar.random_rules import by_the_library, random_event

JUNE = datetime(2026, 6, 1, tzinfo=UTC)
HOUR, DAY = timedelta(hours=1), timedelta(days=1)


@pytest.fixture
def events(session: AsyncSession) -> EventRepository:
    return EventRepository(session)


def event(user: User, start: datetime = JUNE, hours: float | None = None, **more: Any) -> Event:
    end = None if hours is None else start + timedelta(hours=hours)
    return Event(**{"user_id": user.id, "title": "x", "start_datetime": start, "end_datetime": end, **more})


def titles_and_starts(found: list[Occurrence]) -> list[tuple[str, datetime]]:
    return [(one.event.title, one.start) for one in found]


async def test_overlapping_is_half_open_and_an_event_without_an_end_is_an_instant(
    events: EventRepository, user: User
) -> None:
    other = User()
    events.session.add(other)
    await events.session.flush()
    await events.add_many(
        [
            event(user, JUNE - HOUR, 1, title="ends when it begins"),
            event(user, JUNE - 900 * DAY, 24 * 1000, title="long"),
            event(user, JUNE - HOUR, 2, title="goes on"),
            event(user, JUNE - HOUR, title="was an instant"),
            event(user, JUNE, title="instant"),
            event(user, JUNE, 0, title="empty"),
            event(user, JUNE + HOUR, 9, title="begins"),
            event(user, JUNE + DAY, 1, title="begins when it ends"),
            event(user, JUNE, 1, title="cancelled", status="cancelled"),
            event(user, JUNE, 1, title="done", status="done"),
            event(user, JUNE, 1, title="a series", rrule="FREQ=DAILY"),
            event(other, JUNE, 1, title="another's"),
        ]
    )

    found = await events.overlapping(user.id, JUNE, JUNE + DAY)

    assert [one.title for one in found] == ["long", "goes on", "instant", "empty", "done", "begins"]
    assert await events.overlapping(user.id, JUNE, JUNE + DAY, limit=2) == found[:2]


@pytest.mark.parametrize("limit", [0, 1001])
@pytest.mark.parametrize("method", ["overlapping", "occurrences"])
async def test_rejects_an_invalid_limit(events: EventRepository, user: User, method: str, limit: int) -> None:
    with pytest.raises(ValueError, match="limit must be from 1 to 1000"):
        await getattr(events, method)(user.id, JUNE, JUNE + DAY, limit=limit)


@pytest.mark.parametrize("method", ["overlapping", "occurrences"])
async def test_rejects_an_invalid_interval(events: EventRepository, user: User, method: str) -> None:
    with pytest.raises(ValueError, match="end must be after start"):
        await getattr(events, method)(user.id, JUNE, JUNE)
    with pytest.raises(ValueError, match="start must be aware"):
        await getattr(events, method)(user.id, JUNE.replace(tzinfo=None), JUNE)


async def test_rejects_an_interval_that_is_too_long(events: EventRepository, user: User) -> None:
    with pytest.raises(ValueError, match="at most 3660 days after start"):
        await events.occurrences(user.id, JUNE, JUNE + 3661 * DAY)
    with pytest.raises(ValueError, match="between the years 1900 and 2199"):
        await events.occurrences(user.id, JUNE.replace(year=9998), JUNE.replace(year=9999))


async def test_a_calendar_shows_single_events_and_series_in_order(events: EventRepository, user: User) -> None:
    await events.add_many(
        [
            event(user, JUNE + 30 * HOUR, 1, title="single"),
            event(user, JUNE - 7 * DAY, 1, title="daily", rrule="FREQ=DAILY", exdates=[JUNE + DAY]),
            event(user, JUNE - 7 * DAY, 1, title="over", rrule="FREQ=DAILY;COUNT=2"),
            event(user, JUNE - 7 * DAY, 1, title="dropped", rrule="FREQ=DAILY", status="cancelled"),
            event(user, JUNE + 7 * DAY, 1, title="later", rrule="FREQ=DAILY"),
        ]
    )

    found = await events.occurrences(user.id, JUNE, JUNE + 3 * DAY)

    assert titles_and_starts(found) == [("daily", JUNE), ("single", JUNE + 30 * HOUR), ("daily", JUNE + 2 * DAY)]
    assert [one.recurrence_id for one in found] == [JUNE, None, JUNE + 2 * DAY]
    assert found[0].end == JUNE + HOUR
    assert titles_and_starts(await events.occurrences(user.id, JUNE, JUNE + 3 * DAY, limit=1)) == [("daily", JUNE)]


async def test_a_changed_occurrence_is_returned_at_its_new_time(events: EventRepository, user: User) -> None:
    [daily] = await events.add_many([event(user, JUNE, 1, title="daily", rrule="FREQ=DAILY")])
    of = {"series_id": daily.id, "title": "changed"}
    await events.add_many(
        [
            event(user, JUNE + 5 * HOUR, 1, recurrence_id=JUNE, **of),
            event(user, JUNE + 50 * DAY, 1, recurrence_id=JUNE + DAY, **of),
            event(user, JUNE + 2 * DAY, 1, recurrence_id=JUNE + 2 * DAY, status="cancelled", **of),
            event(user, JUNE + 4 * DAY + HOUR, 1, recurrence_id=JUNE + 70 * DAY, **of),
        ]
    )

    found = await events.occurrences(user.id, JUNE, JUNE + 5 * DAY)

    assert titles_and_starts(found) == [
        ("changed", JUNE + 5 * HOUR),
        ("daily", JUNE + 3 * DAY),
        ("daily", JUNE + 4 * DAY),
        ("changed", JUNE + 4 * DAY + HOUR),
    ]
    assert [one.is_exception for one in found] == [True, False, False, True]
    assert found[0].recurrence_id == JUNE
    [first] = await events.occurrences(user.id, JUNE + DAY, JUNE + 9 * DAY, limit=1)
    assert first.start == JUNE + 3 * DAY, "a moved occurrence does not count for the limit"


async def test_an_occurrence_that_continues_into_the_interval_is_returned(events: EventRepository, user: User) -> None:
    await events.add(event(user, JUNE - 10 * DAY, 24 * 3, rrule="FREQ=WEEKLY"))

    [found] = await events.occurrences(user.id, JUNE - DAY, JUNE - HOUR)

    assert (found.start, found.end) == (JUNE - 3 * DAY, JUNE)


async def test_an_all_day_series_has_whole_days_of_its_zone(events: EventRepository, user: User) -> None:
    midnight = datetime(2026, 10, 24, 22, tzinfo=UTC)  # the 25th in Madrid, which has 25 hours
    await events.add(event(user, midnight, 25, all_day=True, timezone="Europe/Madrid", rrule="FREQ=DAILY;COUNT=2"))

    first, second = await events.occurrences(user.id, midnight - DAY, midnight + 7 * DAY)

    assert (first.start, first.end) == (midnight, midnight + 25 * HOUR)
    assert (second.start, second.end) == (midnight + 25 * HOUR, midnight + 49 * HOUR)


@pytest.mark.slow
async def test_random_series_from_the_database_are_expanded_as_another_library_does(
    events: EventRepository, user: User
) -> None:
    dice = random.Random(3)  # noqa: S311 - rules that repeat
    series = [random_event(dice) for _ in range(60)]
    for one in series:
        one.start_local, one.user_id = None, user.id  # type: ignore[assignment] # the server makes it
    await events.add_many(series)
    window = datetime(2022, 3, 20, tzinfo=UTC), datetime(2022, 4, 5, tzinfo=UTC)

    found = await events.occurrences(user.id, *window)

    expected = sorted((start, one.id) for one in series for start, _ in by_the_library(one, *window))
    assert [(one.start, one.event.id) for one in found] == expected
    assert len(found) > 100


async def test_the_local_time_follows_the_start_and_the_zone(events: EventRepository, user: User) -> None:
    noon = datetime(2026, 6, 1, 10, tzinfo=UTC)

    row = await events.add(event(user, noon, timezone="Europe/Madrid"))
    assert row.start_local == datetime(2026, 6, 1, 12)  # noqa: DTZ001 - wall-clock time
    row = await events.update(row.id, start_datetime=noon + HOUR)
    assert row.start_local == datetime(2026, 6, 1, 13)  # noqa: DTZ001 - wall-clock time


@pytest.mark.slow
async def test_five_hundred_series_of_one_user_are_expanded_within_a_second(
    events: EventRepository, user: User
) -> None:
    rows = [event(user, JUNE - (n % 999) * DAY, 1, id=uuid7(), timezone="Europe/Madrid") for n in range(500)]
    for n, row in enumerate(rows):
        row.rrule = f"FREQ=WEEKLY;UNTIL={'2025' if n % 2 else '2027'}0601T000000Z"
    await events.add_many(rows)
    before = time.process_time()

    found = await events.occurrences(user.id, JUNE, JUNE + 7 * DAY)

    assert len(found) == 250
    assert time.process_time() - before < 1


@pytest.mark.parametrize(
    ("values", "problem"),
    [
        ({"timezone": "Europe/Nowhere"}, "timezone must be an IANA name"),
        ({"rrule": "FREQ=SECONDLY"}, "FREQ must be one of"),
        ({"rrule": "FREQ=DAILY;UNTIL=20300101T000000Z", "all_day": True}, "UNTIL must be a date"),
    ],
)
async def test_every_method_rejects_an_invalid_zone_or_rule(
    events: EventRepository, user: User, values: dict[str, Any], problem: str
) -> None:
    row = await events.add(event(user))

    with pytest.raises(ValueError, match=problem):
        await events.add(event(user, **values))
    with pytest.raises(ValueError, match=problem):
        await events.update(row.id, **values)
    with pytest.raises(ValueError, match=problem):
        await events.upsert(
            {"id": row.id, "user_id": user.id, "title": "x", "start_datetime": JUNE, **values},  # type: ignore[typeddict-item] # what is tested
            key=["id"],
        )


async def test_rejects_a_rule_of_a_changed_occurrences_own(events: EventRepository, user: User) -> None:
    daily = await events.add(event(user, rrule="FREQ=DAILY"))

    with pytest.raises(ValueError, match="rrule must be None for a changed occurrence"):
        await events.add(event(user, series_id=daily.id, recurrence_id=JUNE, rrule="FREQ=DAILY"))


async def test_rejects_a_series_outside_the_supported_years(events: EventRepository, user: User) -> None:
    with pytest.raises(ValueError, match="between the years 1900 and 2199"):
        await events.add(event(user, JUNE.replace(year=1), rrule="FREQ=DAILY"))


async def test_series_at_the_ends_of_the_calendar_are_expanded(events: EventRepository, user: User) -> None:
    row = await events.add(event(user, JUNE.replace(year=2), timezone="America/Mexico_City"))
    await events.session.execute(text("UPDATE events SET rrule = 'FREQ=DAILY', end_datetime = '9999-06-01Z'"))
    await events.session.refresh(row)

    assert len(await events.occurrences(user.id, JUNE, JUNE + DAY)) == 367
    assert Series(row).after(JUNE) is not None
