"""Concurrent changes of series and their occurrences run one after the other, without deadlocks."""

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
from src.database.models import Event, User, attributes
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


async def starts(series: Event) -> list[datetime]:
    async with get_db() as session:
        events = EventRepository(session)
        return [one.start for one in await events.occurrences(series.user_id, MONDAY - WEEK, MONDAY + 9 * WEEK)]


async def test_each_change_locks_the_series_before_its_changed_occurrences(series: Event, changed: Event) -> None:
    """One caller names the series, another one its changed occurrence, at the same time."""
    has_the_series = asyncio.Event()

    async def by_the_series() -> None:
        async with get_db() as session:
            await lock_event(session, series.id)  # the first step of each change
            has_the_series.set()
            await asyncio.sleep(0.2)  # the other caller holds its first lock by now
            await EventRepository(session).reschedule(series.id, MONDAY + HOUR, scope="all")

    async def by_the_changed_one() -> None:
        await has_the_series.wait()
        async with get_db() as session:
            await EventRepository(session).reschedule(changed.id, MONDAY + WEEK + 2 * HOUR, scope="all")

    await asyncio.gather(by_the_series(), by_the_changed_one())

    assert await starts(series) == [MONDAY + n * WEEK + 2 * HOUR for n in range(4)]


async def test_concurrent_moves_of_a_series_run_one_after_the_other(series: Event, changed: Event) -> None:
    async def move(event_id: UUID, at: datetime) -> None:
        async with get_db() as session:
            await EventRepository(session).reschedule(event_id, at, scope="all")

    for _ in range(4):
        await asyncio.gather(*(move(changed.id, MONDAY + WEEK), move(series.id, MONDAY)) * 2)

    assert await starts(series) == [MONDAY + n * WEEK for n in range(4)]


async def test_a_changed_occurrence_deleted_while_its_series_moves_stays_deleted(series: Event, changed: Event) -> None:
    async def move() -> None:
        async with get_db() as session:
            await EventRepository(session).reschedule(series.id, MONDAY + HOUR, scope="all")

    async def delete() -> None:
        async with get_db() as session:
            await EventRepository(session).delete(changed.id)

    await asyncio.gather(move(), delete())

    assert await starts(series) == [MONDAY + n * WEEK + HOUR for n in (0, 2, 3)]


async def test_a_changed_occurrence_moved_to_another_series_is_not_deleted(
    series: Event, changed: Event, superuser: psycopg.Connection
) -> None:
    moved = asyncio.Event()

    async def move() -> None:
        async with get_db() as session:
            events = EventRepository(session)
            await events.reschedule(series.id, MONDAY + WEEK, scope="following", recurrence_id=MONDAY + WEEK)
            moved.set()
            while superuser.execute(WAITING).fetchone() == (0,):  # noqa: ASYNC110 - there is no event for it
                await asyncio.sleep(0.01)

    async def delete() -> None:
        await moved.wait()
        async with get_db() as session:
            await EventRepository(session).delete(changed.id)

    _, failed = await asyncio.gather(move(), delete(), return_exceptions=True)

    assert isinstance(failed, StaleDataError)
    assert len(await starts(series)) == 4


async def test_two_concurrent_imports_of_an_event_are_one_row(series: Event) -> None:
    values: attributes.EventUpsert = {
        "user_id": series.user_id,
        "title": "y",
        "start_datetime": MONDAY,
        "ical_uid": "a",
        "recurrence_id": None,
        "reminder_offset": 60,
    }

    async def take() -> str:
        async with get_db() as session:
            key = ["user_id", "ical_uid", "recurrence_id"]
            return (await EventRepository(session).upsert(values, key=key)).outcome

    outcomes = await asyncio.gather(*(take() for _ in range(8)))

    assert sorted(outcomes) == ["inserted", *["unchanged"] * 7]


async def test_the_second_of_two_concurrent_deletes_raises(changed: Event) -> None:
    async def delete() -> None:
        async with get_db() as session:
            await EventRepository(session).delete(changed.id)

    results = await asyncio.gather(delete(), delete(), return_exceptions=True)

    assert [type(one) for one in results if one is not None] == [NotFoundError]
