"""A weekly event across a change of the clocks, and its occurrences."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

from sqlalchemy import text

from src.database.base import uuid7
from src.database.models import Event, User
from src.database.repositories import EventRepository

NINE = datetime(2026, 3, 23, 8, tzinfo=UTC)
"""Monday, at nine in Madrid; the clocks change on the Sunday after it."""
HOUR, DAY = timedelta(hours=1), timedelta(days=1)
NOW = NINE - DAY


async def add_weekly(events: EventRepository, user: User) -> Event:
    return await add(events, user, rrule="FREQ=WEEKLY;COUNT=4", reminder_offset=600)


async def add(events: EventRepository, user: User, **more: Any) -> Event:
    values = {"title": "x", "start_datetime": NINE, "end_datetime": NINE + HOUR, "timezone": "Europe/Madrid"}
    return await events.add(Event(**{"user_id": user.id, **values, **more}), now=NOW)


async def starts(events: EventRepository, row: Event) -> list[datetime]:
    return [one.start for one in await events.occurrences(row.user_id, NINE - 30 * DAY, NINE + 90 * DAY)]


def mondays(*weeks: int, hour: int = 9) -> list[datetime]:
    """Return the instant of nine o'clock in Madrid some weeks later; from the second week on in summer time."""
    return [NINE + 7 * week * DAY - (week > 0) * HOUR + (hour - 9) * HOUR for week in weeks]


async def claimed(events: EventRepository, row: Event) -> Event:
    """Claim the reminder for a worker, after attempts and a sent reminder."""
    values = "reminder_claimed_by = 'w', reminder_claimed_until = now(), reminder_token = :token"
    await events.session.execute(
        text(f"UPDATE events SET {values}, reminder_attempts = 3, reminder_sent_at = now() WHERE id = :id"),  # noqa: S608
        {"id": row.id, "token": uuid7()},
    )
    return row
