"""Series and their changed occurrences under several writers at once: one after the other, and none is a deadlock."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from uuid import UUID

import psycopg
import pytest
from sqlalchemy import URL

from src.config import Settings
from src.database import get_db
from src.database.errors import NotFoundError, StaleDataError
from src.database.models import Event, User
from src.database.repositories import EventRepository
from src.database.statements.event_moves import lock_event

MONDAY = datetime(2027, 3, 15, 9, tzinfo=UTC)
HOUR, WEEK = timedelta(hours=1), timedelta(days=7)


WAITING = "SELECT count(*) FROM pg_stat_activity WHERE wait_event_type = 'Lock' AND datname = current_database()"


@pytest.fixture(autouse=True)
def pooled_database(cloned_database: URL, use_database: Callable[..., Settings]) -> None:
    use_database(cloned_database.update_query_dict({"pool_max": "4"}))


@pytest.fixture
async def series() -> Event:
    async with get_db() as session:
        user = User()
        session.add(user)
        await session.flush()
        event = Event(user_id=user.id, title="x", start_datetime=MONDAY, rrule="FREQ=WEEKLY;COUNT=4")
        return await EventRepository(session).add(event)


@pytest.fixture
async def changed(series: Event) -> Event:
    async with get_db() as session:
        events = EventRepository(session)
        return await events.reschedule(series.id, MONDAY + WEEK + HOUR, recurrence_id=MONDAY + WEEK)


async def shown(series: Event) -> list[datetime]:
    async with get_db() as session:
        events = EventRepository(session)
        return [one.start for one in await events.occurrences(series.user_id, MONDAY - WEEK, MONDAY + 9 * WEEK)]


async def test_whoever_changes_a_series_locks_it_before_its_changed_occurrences(series: Event, changed: Event) -> None:
    """One who named the series, while one who named the changed occurrence is on the way to the series."""
    has_the_series = asyncio.Event()

    async def by_the_series() -> None:
        async with get_db() as session:
            await lock_event(session, series.id)  # as each of them begins
            has_the_series.set()
            await asyncio.sleep(0.2)  # the other one holds by now what it locks first
            await EventRepository(session).reschedule(series.id, MONDAY + HOUR, scope="all")

    async def by_the_changed_one() -> None:
        await has_the_series.wait()
        async with get_db() as session:
            await EventRepository(session).reschedule(changed.id, MONDAY + WEEK + 2 * HOUR, scope="all")

    await asyncio.gather(by_the_series(), by_the_changed_one())

    assert await shown(series) == [MONDAY + n * WEEK + 2 * HOUR for n in range(4)]


async def test_many_that_move_all_by_either_row_come_one_after_the_other(series: Event, changed: Event) -> None:
    async def move(event_id: UUID, at: datetime) -> None:
        async with get_db() as session:
            await EventRepository(session).reschedule(event_id, at, scope="all")

    for _ in range(4):
        await asyncio.gather(*(move(changed.id, MONDAY + WEEK), move(series.id, MONDAY)) * 2)

    assert await shown(series) == [MONDAY + n * WEEK for n in range(4)]


async def test_a_changed_occurrence_that_is_deleted_while_its_series_moves_does_not_come_back(
    series: Event, changed: Event
) -> None:
    async def move() -> None:
        async with get_db() as session:
            await EventRepository(session).reschedule(series.id, MONDAY + HOUR, scope="all")

    async def delete() -> None:
        async with get_db() as session:
            await EventRepository(session).delete(changed.id)

    await asyncio.gather(move(), delete())

    assert await shown(series) == [MONDAY + n * WEEK + HOUR for n in (0, 2, 3)]


async def test_a_changed_occurrence_that_goes_to_another_series_is_not_deleted_from_the_old_one(
    series: Event, changed: Event, superuser: psycopg.Connection
) -> None:
    moved = asyncio.Event()

    async def move() -> None:
        async with get_db() as session:
            events = EventRepository(session)
            await events.reschedule(series.id, MONDAY + WEEK, scope="following", recurrence_id=MONDAY + WEEK)
            moved.set()
            while superuser.execute(WAITING).fetchone() == (0,):  # noqa: ASYNC110 - no event tells of it
                await asyncio.sleep(0.01)

    async def delete() -> None:
        await moved.wait()
        async with get_db() as session:
            await EventRepository(session).delete(changed.id)

    _, failed = await asyncio.gather(move(), delete(), return_exceptions=True)

    assert isinstance(failed, StaleDataError)
    assert len(await shown(series)) == 4


async def test_an_import_that_comes_twice_at_once_is_one_row(series: Event) -> None:
    values = {"user_id": series.user_id, "title": "y", "start_datetime": MONDAY, "ical_uid": "a", "recurrence_id": None}

    async def take() -> str:
        async with get_db() as session:
            key = ["user_id", "ical_uid", "recurrence_id"]
            return (await EventRepository(session).upsert({**values, "reminder_offset": 60}, key=key)).outcome

    outcomes = await asyncio.gather(*(take() for _ in range(8)))

    assert sorted(outcomes) == ["inserted", *["unchanged"] * 7]


async def test_what_is_deleted_twice_at_once_is_not_there_for_the_second(changed: Event) -> None:
    async def delete() -> None:
        async with get_db() as session:
            await EventRepository(session).delete(changed.id)

    results = await asyncio.gather(delete(), delete(), return_exceptions=True)

    assert [type(one) for one in results if one is not None] == [NotFoundError]
