"""EventRepository: local time is computed with the packaged zone data, and not with the server's."""

from __future__ import annotations

import zoneinfo
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from sqlalchemy import text

from src.database.calendar import get_zone, local_time, to_instant
from src.database.models import Event, User, attributes
from src.database.repositories import EventRepository
from src.database.session import AsyncSession

MINUTE, HOUR, DAY = timedelta(minutes=1), timedelta(hours=1), timedelta(days=1)
# The server reads these as fixed abbreviations, without summer time.
ABBREVIATIONS = ("CET", "EET", "MET", "WET")


@pytest.fixture
def events(session: AsyncSession) -> EventRepository:
    return EventRepository(session)


@pytest.fixture
def no_system_zones() -> Iterator[None]:
    """A machine without zone data of its own, e.g. a slim image."""
    path = zoneinfo.TZPATH
    zoneinfo.reset_tzpath(to=())
    zoneinfo.ZoneInfo.clear_cache()
    yield
    zoneinfo.reset_tzpath(to=path)
    zoneinfo.ZoneInfo.clear_cache()


@pytest.fixture
async def differing(session: AsyncSession, no_system_zones: None) -> list[tuple[str, datetime]]:
    """Zones of which the server has other data, each with an instant at which its local time differs."""
    first = datetime(2026, 1, 15, 12, tzinfo=UTC)
    rows = await session.execute(
        text(
            "SELECT zone.name, instant, instant AT TIME ZONE zone.name"
            "  FROM (SELECT DISTINCT name FROM pg_timezone_names) AS zone"
            "  CROSS JOIN generate_series(CAST(:first AS timestamptz), :last, '30 days') AS instant"
        ),
        {"first": first, "last": first + 700 * DAY},
    )
    found: dict[str, datetime] = {}
    for name, instant, local in rows:
        if name in ABBREVIATIONS or not is_packaged(name) or name in found:
            continue
        if local_time(instant, get_zone(name)) != local:
            found[name] = instant
    if not found:
        pytest.skip("the server's zone data agrees with the packaged one")
    return sorted(found.items())


def is_packaged(name: str) -> bool:
    try:
        get_zone(name)
    except KeyError:
        return False
    return True


def local(*parts: int) -> datetime:
    return datetime(*parts)  # type: ignore[arg-type] # noqa: DTZ001 - local time


async def add(events: EventRepository, user: User, start: datetime, zone: str, **more: Any) -> Event:
    row = Event(user_id=user.id, title="x", start_datetime=start, timezone=zone, **more)
    return await events.add(row, now=start - DAY)


async def local_starts(events: EventRepository, row: Event) -> list[datetime]:
    begins = row.start_datetime
    found = await events.occurrences(row.user_id, begins - DAY, begins + 10 * DAY)
    return [local_time(one.start, get_zone(row.timezone)) for one in found]


@pytest.mark.parametrize("zone", ABBREVIATIONS)
async def test_a_zone_named_as_an_abbreviation_has_its_summer_time(
    events: EventRepository, user: User, zone: str
) -> None:
    nine = local(2027, 7, 1, 9)
    row = await add(events, user, to_instant(nine, get_zone(zone)), zone, rrule="FREQ=DAILY;COUNT=3")

    assert await local_starts(events, row) == [nine, nine + DAY, nine + 2 * DAY]
    assert row.start_local == nine
    await events.session.refresh(row)
    assert row.start_local == nine


@pytest.mark.parametrize("zone", ABBREVIATIONS)
async def test_a_yearly_all_day_event_stays_on_its_date(events: EventRepository, user: User, zone: str) -> None:
    wednesday = local(2027, 7, 14)
    days = [to_instant(wednesday + n * DAY, get_zone(zone)) for n in (0, 1)]
    row = await add(events, user, days[0], zone, end_datetime=days[1], all_day=True, rrule="FREQ=YEARLY")

    found = await events.occurrences(user.id, days[0] + 360 * DAY, days[0] + 370 * DAY)

    assert await local_starts(events, row) == [wednesday]
    assert [local_time(one.start, get_zone(zone)) for one in found] == [local(2028, 7, 14)]


async def test_a_series_keeps_its_local_time_if_the_servers_zone_data_differs(
    events: EventRepository, user: User, differing: list[tuple[str, datetime]]
) -> None:
    for zone, instant in differing:
        start = instant.replace(minute=0)
        row = await add(events, user, start, zone, rrule="FREQ=DAILY;COUNT=3", reminder_offset=600)
        at = local_time(start, get_zone(zone))

        assert await local_starts(events, row) == [at, at + DAY, at + 2 * DAY], zone
        assert (await events.cancel(row.id, recurrence_id=start)).exdates == [start], zone
        assert row.reminder_datetime == start + DAY - 10 * MINUTE, zone
        await events.cancel(row.id, scope="all")


async def test_each_occurrence_is_reminded_of_once_if_the_servers_zone_data_differs(
    events: EventRepository, user: User, differing: list[tuple[str, datetime]]
) -> None:
    zone, start = differing[0]
    row = await add(events, user, start, zone, rrule="FREQ=DAILY;COUNT=2", reminder_offset=0)
    sent: list[datetime | None] = []
    while row.reminder_sent_at is None and len(sent) < 9:
        due = {"due": datetime.now(UTC) - MINUTE, "id": row.id}
        sent.append(row.reminder_datetime)
        await events.session.execute(
            text(
                "UPDATE events SET reminder_claimed_until = :due, reminder_claimed_by = 'w', reminder_token = id"
                " WHERE id = :id"
            ),
            due,
        )
        row = await events.ack_reminder(row.id, row.id, now=start)

    assert sent == [start, start + DAY]


async def test_a_change_of_the_zones_rules_leaves_the_local_time_that_was_written(
    events: EventRepository, user: User
) -> None:
    row = await add(events, user, to_instant(local(2027, 7, 1, 9), get_zone("CET")), "CET", rrule="FREQ=DAILY;COUNT=3")
    await events.session.execute(  # as it is written while that zone has another offset
        text("UPDATE events SET local_start = local_start + interval '1 hour' WHERE id = :id"), {"id": row.id}
    )
    await events.session.refresh(row)

    assert await local_starts(events, row) == [local(2027, 7, day, 10) for day in (1, 2, 3)]


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        ("start_datetime = start_datetime + interval '2 hours'", 11),
        ("timezone = 'Europe/Helsinki'", 10),
        ("local_start = DEFAULT, local_start_basis = DEFAULT", 9),  # as the release before this one inserts it
    ],
)
async def test_changes_by_other_sql_are_read(events: EventRepository, user: User, change: str, expected: int) -> None:
    row = await add(events, user, to_instant(local(2027, 7, 1, 9), get_zone("CET")), "CET", rrule="FREQ=DAILY;COUNT=3")
    await events.session.execute(text(f"UPDATE events SET {change} WHERE id = :id"), {"id": row.id})  # noqa: S608
    await events.session.refresh(row)

    assert await local_starts(events, row) == [local(2027, 7, day, expected) for day in (1, 2, 3)]


async def test_every_way_of_writing_a_start_writes_its_local_time(events: EventRepository, user: User) -> None:
    nine, zone = local(2027, 7, 1, 9), get_zone("CET")
    start = to_instant(nine, zone)
    values: attributes.EventUpsert = {
        "user_id": user.id,
        "title": "x",
        "start_datetime": start,
        "timezone": "CET",
        "ical_uid": "a",
        "recurrence_id": None,
    }
    key = {"key": ["user_id", "ical_uid", "recurrence_id"]}

    row = (await events.upsert(values, **key)).row
    assert row.start_local == nine
    row = (await events.upsert({**values, "start_datetime": start + HOUR}, **key)).row
    assert row.start_local == nine + HOUR
    row = await events.update(row.id, start_datetime=start, timezone="EET")
    assert row.start_local == nine + HOUR
    row = await events.update(row.id, title="y")
    assert row.start_local == nine + HOUR
    row = await events.reschedule(row.id, start + DAY)
    assert row.start_local == nine + HOUR + DAY
    assert row.written_start_local == row.start_local

    series = await add(events, user, start, "CET", rrule="FREQ=DAILY;COUNT=5")
    changed = await events.reschedule(series.id, start + DAY + HOUR, recurrence_id=start + DAY)
    await events.reschedule(series.id, start + HOUR, scope="all")
    assert (changed.start_local, series.start_local) == (nine + DAY + 2 * HOUR, nine + HOUR)
    assert changed.written_start_local == changed.start_local
