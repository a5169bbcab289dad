"""EventRepository.update: values are checked together with the stored ones, and the reminder is reset."""

from __future__ import annotations

from datetime import UTC, date, datetime, timedelta
from typing import Any

import pytest

from src.database.base import utc_now, uuid7
from src.database.errors import NotFoundError
from src.database.models import Event, User, attributes
from src.database.repositories import EventRepository
from src.database.session import AsyncSession

MINUTE, HOUR, DAY = timedelta(minutes=1), timedelta(hours=1), timedelta(days=1)
START = datetime(2030, 5, 6, 9, tzinfo=UTC)
KEY = ("user_id", "ical_uid", "recurrence_id")


@pytest.fixture
def events(session: AsyncSession) -> EventRepository:
    return EventRepository(session)


async def add(events: EventRepository, user: User, **more: Any) -> Event:
    return await events.add(Event(**{"user_id": user.id, "title": "x", "start_datetime": START, **more}))


async def sent(events: EventRepository, user: User, **more: Any) -> Event:
    """Add an event whose reminder was claimed, sent and acknowledged."""
    row = await add(events, user, **{"reminder_datetime": utc_now() - MINUTE, **more})
    [claimed] = await events.claim_due_reminders("w")
    assert claimed.reminder_token is not None
    return await events.ack_reminder(row.id, claimed.reminder_token)


async def test_a_new_offset_alone_moves_the_reminder(events: EventRepository, user: User) -> None:
    row = await add(events, user)

    assert (await events.update(row.id, reminder_offset=600)).reminder_datetime == START - 10 * MINUTE
    assert (await events.update(row.id, reminder_offset=60)).reminder_datetime == START - MINUTE
    assert (await events.update(row.id, reminder_offset=None)).reminder_datetime is None


async def test_a_new_start_moves_the_reminder(events: EventRepository, user: User) -> None:
    by_offset = await add(events, user, reminder_offset=600)
    by_time = await add(events, user, reminder_datetime=START - HOUR)
    without = await add(events, user)

    for row in (by_offset, by_time, without):
        await events.update(row.id, start_datetime=START + DAY)

    assert by_offset.reminder_datetime == START + DAY - 10 * MINUTE
    assert by_time.reminder_datetime == START + DAY - HOUR
    assert without.reminder_datetime is None


@pytest.mark.parametrize("change", ["reminder_datetime", "start_datetime", "reminder_offset"])
async def test_a_sent_reminder_is_sent_again_if_it_is_postponed(
    events: EventRepository, user: User, change: str
) -> None:
    row = await sent(events, user)
    value: Any = {"reminder_offset": 600}.get(change, utc_now() + HOUR)

    await events.update(row.id, **{change: value})

    assert (row.reminder_sent_at, row.reminder_attempts) == (None, 0)
    await events.update(row.id, reminder_datetime=utc_now() - MINUTE)
    assert await events.claim_due_reminders("again") == [row]


async def test_a_claim_is_lost_if_the_reminder_is_postponed(events: EventRepository, user: User) -> None:
    row = await add(events, user, reminder_datetime=utc_now() - MINUTE)
    await events.claim_due_reminders("w")

    await events.update(row.id, reminder_datetime=utc_now() + HOUR)

    assert (row.reminder_token, row.reminder_claimed_by, row.reminder_claimed_until) == (None, None, None)


async def test_a_sent_reminder_stays_sent_if_its_time_does_not_change(events: EventRepository, user: User) -> None:
    row = await sent(events, user)

    await events.update(row.id, title="y", start_datetime=START, reminder_datetime=row.reminder_datetime)

    assert row.reminder_sent_at is not None


@pytest.mark.parametrize(
    ("values", "remedy"),
    [
        ({"start_datetime": START + HOUR}, "reschedule"),
        ({"rrule": "FREQ=WEEKLY"}, "reschedule"),
        ({"rrule": None}, "reschedule"),
        ({"timezone": "Europe/Madrid"}, "cancel the series and add it again"),
    ],
)
async def test_a_series_is_not_moved_by_its_columns(
    events: EventRepository, user: User, values: dict[str, Any], remedy: str
) -> None:
    row = await add(events, user, rrule="FREQ=DAILY")

    with pytest.raises(ValueError, match=f"of a series must not be updated.*{remedy}"):
        await events.update(row.id, **values)
    await events.update(row.id, start_datetime=START, rrule="FREQ=DAILY", title="y")

    assert (row.title, row.rrule, row.start_datetime) == ("y", "FREQ=DAILY", START)


async def test_a_series_reminds_of_its_next_occurrence_by_a_new_offset(events: EventRepository, user: User) -> None:
    start = utc_now() - 3 * DAY + HOUR
    row = await add(events, user, start_datetime=start, rrule="FREQ=DAILY", reminder_offset=600)

    await events.update(row.id, reminder_offset=60)
    assert row.reminder_datetime == start + 3 * DAY - MINUTE
    await events.update(row.id, exdates=[start + 3 * DAY])
    assert row.reminder_datetime == start + 4 * DAY - MINUTE


@pytest.mark.parametrize(
    ("there", "values", "problem"),
    [
        ({"all_day": True}, {"rrule": "FREQ=DAILY;UNTIL=20310101T000000Z"}, "UNTIL must be a date"),
        ({}, {"rrule": "FREQ=DAILY;UNTIL=20310101"}, "UNTIL must be in UTC"),
        ({"rrule": "FREQ=DAILY;BYHOUR=9"}, {"all_day": True}, "must have no BYHOUR"),
        ({"start_datetime": START.replace(year=2300)}, {"rrule": "FREQ=DAILY"}, "between the years 1900 and 2199"),
        ({}, {"exdates": [None]}, "exdates must be a datetime"),
        ({}, {"exdates": None}, "exdates must be a list of datetimes"),
        ({}, {"exdates": [START.replace(year=1)]}, "exdates must be between the years"),
        ({}, {"exdates": [START.replace(tzinfo=None)]}, "exdates must be aware"),
        ({}, {"start_datetime": None}, "start_datetime must be the start of the event"),
        ({}, {"start_datetime": date(2030, 1, 1)}, "start_datetime must be a datetime with a zone, got date"),
        ({}, {"end_datetime": "tomorrow"}, "end_datetime must be a datetime with a zone, got str"),
        ({}, {"start_datetime": datetime.max.replace(tzinfo=UTC)}, "start_datetime must be from 0001-01-02 to 9999"),
        ({"start_datetime": datetime(1, 1, 3, tzinfo=UTC)}, {"reminder_offset": 10**9}, "within the calendar"),
    ],
)
async def test_updated_values_must_agree_with_the_stored_ones(
    events: EventRepository, user: User, there: dict[str, Any], values: dict[str, Any], problem: str
) -> None:
    row = await add(events, user, ical_uid="a", **there)
    whole: attributes.EventUpsert = {
        "user_id": user.id,
        "title": "x",
        "start_datetime": row.start_datetime,
        "recurrence_id": None,
    }

    with pytest.raises(ValueError, match=problem):
        await events.upsert({**whole, "ical_uid": "a", **values}, key=KEY)  # type: ignore[typeddict-item] # what is tested
    await events.session.refresh(row)
    if "rrule" not in there:
        with pytest.raises(ValueError, match=problem):
            await events.update(row.id, **values)


async def test_a_changed_occurrence_gets_no_rule_of_its_own(events: EventRepository, user: User) -> None:
    series = await add(events, user, rrule="FREQ=DAILY")
    changed = await events.reschedule(series.id, START + HOUR, recurrence_id=START)

    with pytest.raises(ValueError, match="rrule must be None for a changed occurrence"):
        await events.update(changed.id, rrule="FREQ=DAILY")


async def test_a_changed_occurrence_that_is_deleted_does_not_come_back(events: EventRepository, user: User) -> None:
    series = await add(events, user, rrule="FREQ=DAILY;COUNT=3")
    changed = await events.reschedule(series.id, START + HOUR, recurrence_id=START + DAY)

    await events.delete(changed.id)

    found = await events.occurrences(user.id, START, START + 9 * DAY)
    assert [one.start for one in found] == [START, START + 2 * DAY]
    assert series.exdates == [START + DAY]
    with pytest.raises(NotFoundError):
        await events.delete(changed.id)


async def test_upsert_sets_the_reminder_as_add_and_update_do(events: EventRepository, user: User) -> None:
    given: attributes.EventUpsert = {
        "user_id": user.id,
        "ical_uid": "a",
        "recurrence_id": None,
        "title": "x",
        "start_datetime": START,
        "reminder_offset": 600,
        "reminder_datetime": None,
    }

    made = await events.upsert(given, key=KEY)
    assert (made.outcome, made.row.reminder_datetime) == ("inserted", START - 10 * MINUTE)
    assert (await events.upsert(given, key=KEY)).outcome == "unchanged"
    assert (await events.upsert({**given, "start_datetime": START + DAY}, key=KEY)).outcome == "updated"
    assert made.row.reminder_datetime == START + DAY - 10 * MINUTE
    await events.upsert({**given, "start_datetime": START + DAY, "reminder_offset": 60}, key=KEY)
    assert made.row.reminder_datetime == START + DAY - MINUTE


@pytest.mark.parametrize("attribute", ["reminder_offset", "reminder_datetime"])
async def test_a_series_that_is_imported_again_reminds_of_nothing_twice(
    events: EventRepository, user: User, attribute: str
) -> None:
    start = utc_now() - 30 * DAY + HOUR
    values: attributes.EventUpsert = {
        "id": uuid7(),
        "user_id": user.id,
        "title": "x",
        "start_datetime": start,
        "rrule": "FREQ=DAILY",
    }
    if attribute == "reminder_offset":
        values["reminder_offset"] = 600
    else:
        values["reminder_datetime"] = start - 10 * MINUTE

    made = await events.upsert(values, key=["id"])
    again = await events.upsert(values, key=["id"])

    assert (made.outcome, again.outcome, again.row.version) == ("inserted", "unchanged", 1)
    assert again.row.reminder_datetime == start + 30 * DAY - 10 * MINUTE


async def test_an_import_keeps_the_id_and_the_series_of_its_user(events: EventRepository, user: User) -> None:
    row = await add(events, user, ical_uid="a")
    other = User()
    events.session.add(other)
    await events.session.flush()
    of_other = await add(events, other, rrule="FREQ=DAILY")
    values: attributes.EventUpsert = {
        "user_id": user.id,
        "ical_uid": "a",
        "recurrence_id": None,
        "title": "y",
        "start_datetime": START,
    }

    again = await events.upsert({**values, "id": uuid7()}, key=KEY)

    assert (again.outcome, again.row.id, again.row.title) == ("updated", row.id, "y")
    for write in (
        events.upsert({**values, "recurrence_id": START, "series_id": of_other.id}, key=KEY),
        events.update(row.id, recurrence_id=START, series_id=of_other.id),
    ):
        with pytest.raises(ValueError, match="series of the same user"):
            await write
