"""The clock of reminders: it moves the events, because reminders are due by the server's clock."""

from __future__ import annotations

from datetime import datetime, timedelta
from typing import Final

from sqlalchemy import select

from src.database.base import UtcDateTime
from src.database.calendar import Series
from src.database.models import Event
from src.database.session import get_db
from src.database.statements import reminders

_COMPARED: Final = 3
_OF_THE_ROW: Final = ("created_at", "updated_at")


class ReminderClock:
    """Lets time pass for the events of the current tenant.

    A worker claims reminders by the clock of the server, which a test cannot set. So `advance` moves the events into
    the past: their starts, ends, reminders and leases. To code that reads them, that is the same as time that passes.
    """

    async def now(self) -> datetime:
        """Return the time of the server."""
        async with get_db() as session:
            return await reminders.server_time(session)

    async def advance(self, duration: timedelta) -> None:
        """Move all events of the current tenant by a duration into the past.

        Series by weekday, by day of the month or with an end repeat at the same intervals only after some durations:
        whole weeks, for example. The local time of a moved event is that of the new instant.

        Args:
            duration: More than zero.

        Raises:
            ValueError: The duration is not above zero, or a series would not repeat at the same intervals.
        """
        if duration <= timedelta(0):
            raise ValueError(f"duration must be above zero, got {duration}")
        async with get_db() as session:
            now = await reminders.server_time(session)
            events = await session.scalars(select(Event), execution_options={"populate_existing": True})
            # The earliest first: two changed occurrences of a series must never have the same original start.
            for event in sorted(events, key=lambda event: event.recurrence_id or event.start_datetime):
                expected = [start - duration for start in _next_starts(event, now + duration)]
                _move(event, duration)
                if _next_starts(event, now) != expected:
                    raise ValueError(
                        f"duration must be one after which the series {event.rrule!r} still repeats at the same"
                        f" intervals, got {duration}: use whole weeks, or an event without a rule"
                    )
                await session.flush()


def _move(event: Event, duration: timedelta) -> None:
    """Move the instants of an event into the past, except those of its row."""
    for name, column in Event.__mapper__.columns.items():
        is_instant = isinstance(column.type, UtcDateTime) and name not in _OF_THE_ROW
        if is_instant and (value := getattr(event, name)) is not None:
            setattr(event, name, value - duration)
    event.exdates = [start - duration for start in event.exdates]


def _next_starts(event: Event, instant: datetime) -> list[datetime]:
    """Return the starts of the next occurrences of a series; none for an event without a rule."""
    starts: list[datetime] = []
    series = Series(event) if event.rrule is not None else None
    while series is not None and len(starts) < _COMPARED and (slot := series.after(instant)) is not None:
        instant = slot.start
        starts.append(slot.start)
    return starts
