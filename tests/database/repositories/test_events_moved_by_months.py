"""EventRepository: series by months or years move with their excluded and changed occurrences."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

import pytest

from src.database.models import Event, User
from src.database.repositories import EventRepository
from src.database.session import AsyncSession


@pytest.fixture
def events(session: AsyncSession) -> EventRepository:
    return EventRepository(session)


def at(month: int, day: int, hour: int = 9, *, year: int = 2026) -> datetime:
    return datetime(year, month, day, hour, tzinfo=UTC)


async def add(events: EventRepository, user: User, start: datetime, rrule: str, **more: Any) -> Event:
    return await events.add(Event(user_id=user.id, title="x", start_datetime=start, rrule=rrule, **more))


async def starts(events: EventRepository, user: User, *, year: int = 2026, years: int = 1) -> list[datetime]:
    found = await events.occurrences(user.id, at(1, 1, 0, year=year), at(1, 1, 0, year=year + years))
    return [one.start for one in found]


@pytest.mark.parametrize("named", [1, 2])
async def test_all_moves_to_the_new_day_of_each_month(events: EventRepository, user: User, named: int) -> None:
    row = await add(events, user, at(1, 28), "FREQ=MONTHLY;COUNT=5", exdates=[at(3, 28)])
    await events.reschedule(row.id, at(4, 28, 12), recurrence_id=at(4, 28))

    await events.reschedule(row.id, at(named + 1, 2), scope="all", recurrence_id=at(named, 28))

    assert await starts(events, user) == [at(2, 2), at(3, 2), at(5, 2, 12), at(6, 2)]
    assert row.exdates == [at(4, 2)]


async def test_following_moves_to_the_new_day_of_each_month(events: EventRepository, user: User) -> None:
    row = await add(events, user, at(1, 28), "FREQ=MONTHLY;COUNT=5", exdates=[at(4, 28)])

    await events.reschedule(row.id, at(4, 3), scope="following", recurrence_id=at(3, 28))

    assert await starts(events, user) == [at(1, 28), at(2, 28), at(4, 3), at(6, 3)]


@pytest.mark.parametrize("until", ["20260502T090000Z", "20260520T000000Z", "20260602T080000Z"])
async def test_the_end_comes_after_the_same_occurrences(events: EventRepository, user: User, until: str) -> None:
    await add(events, user, at(3, 2), f"FREQ=MONTHLY;UNTIL={until}")
    [row] = (await events.page()).items

    await events.reschedule(row.id, at(2, 27), scope="all")

    assert await starts(events, user) == [at(2, 27), at(3, 27), at(4, 27)]


async def test_a_yearly_series_continues_across_the_end_of_a_year(events: EventRepository, user: User) -> None:
    row = await add(events, user, at(12, 28), "FREQ=YEARLY", exdates=[at(12, 28, year=2027)])

    await events.reschedule(row.id, at(1, 2, year=2027), scope="all")

    assert await starts(events, user, years=5) == [at(1, 2, year=year) for year in (2027, 2029, 2030)]


@pytest.mark.parametrize(
    ("first", "to", "rule"),
    [
        (at(1, 28), at(1, 31), "FREQ=MONTHLY"),
        (at(1, 31), at(2, 2), "FREQ=MONTHLY"),
        (at(2, 29, year=2024), at(3, 1, year=2024), "FREQ=YEARLY"),
    ],
)
async def test_a_day_that_is_not_in_each_month_needs_a_rule(
    events: EventRepository, user: User, first: datetime, to: datetime, rule: str
) -> None:
    row = await add(events, user, first, rule)

    with pytest.raises(ValueError, match="give the new rule as `rrule`"):
        await events.reschedule(row.id, to, scope="all")

    assert (row.version, row.start_datetime) == (1, first)


async def test_the_first_occurrence_moves_to_the_same_day_of_its_month(events: EventRepository, user: User) -> None:
    row = await add(events, user, at(1, 1), "FREQ=MONTHLY")

    await events.reschedule(row.id, at(2, 28), scope="all", recurrence_id=at(3, 1))

    assert row.start_datetime == at(12, 28, year=2025)
    assert (await starts(events, user))[:3] == [at(1, 28), at(2, 28), at(3, 28)]


async def test_a_new_rule_keeps_exclusions_by_number(events: EventRepository, user: User) -> None:
    row = await add(events, user, at(1, 28), "FREQ=MONTHLY;COUNT=5", exdates=[at(2, 28)])
    changed = await events.reschedule(row.id, at(4, 28, 12), recurrence_id=at(4, 28))

    await events.reschedule(row.id, at(1, 31), scope="all", rrule="FREQ=MONTHLY;BYMONTHDAY=-1;COUNT=5")

    assert row.exdates == [at(2, 28)]
    assert changed.recurrence_id == at(4, 30)
    assert await starts(events, user) == [at(1, 31), at(3, 31), at(4, 30, 12), at(5, 31)]


async def test_a_new_rule_keeps_exclusions_by_time(events: EventRepository, user: User) -> None:
    row = await add(events, user, at(6, 1), "FREQ=WEEKLY;COUNT=3", exdates=[at(6, 8), at(6, 3)])

    await events.reschedule(row.id, at(6, 2), scope="all", rrule="FREQ=WEEKLY;BYDAY=TU,FR;COUNT=6")

    assert await starts(events, user) == [at(6, 2), at(6, 5), at(6, 12), at(6, 16), at(6, 19)]


async def test_a_new_rule_without_a_counterpart_of_a_changed_occurrence_is_rejected(
    events: EventRepository, user: User
) -> None:
    row = await add(events, user, at(6, 1), "FREQ=WEEKLY", exdates=[at(6, 8)])

    with pytest.raises(
        ValueError, match=r"no occurrence that matches the excluded or changed occurrence of 2026-06-08"
    ):
        await events.reschedule(row.id, at(6, 1), scope="all", rrule="FREQ=MONTHLY")
    with pytest.raises(ValueError, match="no occurrence at the new beginning of the series"):
        await events.reschedule(
            row.id, at(6, 16), scope="all", recurrence_id=at(6, 15), rrule="FREQ=MONTHLY;BYMONTHDAY=16"
        )

    assert (row.version, row.rrule) == (1, "FREQ=WEEKLY")


@pytest.mark.parametrize("scope", ["following", "all"])
@pytest.mark.parametrize("by_its_own_id", [True, False])
async def test_a_changed_occurrence_moves_to_the_given_start(
    events: EventRepository, user: User, scope: Any, by_its_own_id: bool
) -> None:
    row = await add(events, user, at(6, 1), "FREQ=WEEKLY;COUNT=4", end_datetime=at(6, 1, 10))
    changed = await events.reschedule(row.id, at(6, 9, 11), recurrence_id=at(6, 8))
    named: dict[str, Any] = (
        {"event_id": changed.id} if by_its_own_id else {"event_id": row.id, "recurrence_id": at(6, 8)}
    )

    await events.reschedule(**named, start=at(6, 10, 12), scope=scope)

    first = at(6, 3, 12) if scope == "all" else at(6, 1)
    assert await starts(events, user) == [first, at(6, 10, 12), at(6, 17, 12), at(6, 24, 12)]
    assert (changed.recurrence_id, changed.end_datetime) == (at(6, 10, 12), at(6, 10, 13))
