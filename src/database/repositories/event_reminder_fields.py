"""What an event's columns say of its reminder, and setting them."""

from __future__ import annotations

from datetime import datetime, timedelta

from src.database.models import Event
from src.database.repositories.recurrence import Series
from src.database.statements.reminders import NOT_HELD

__all__ = ["drop_claim", "has_reminder", "reminder_lead", "set_reminder"]


def reminder_lead(event: Event, series: Series | None = None) -> timedelta:
    """Say how long before its start an event is reminded of; where no offset says so, its reminder's time does."""
    if event.reminder_offset is not None:
        return timedelta(seconds=event.reminder_offset)
    if event.reminder_datetime is None:
        return timedelta()
    start = event.start_datetime
    if series is not None and start < event.reminder_datetime:
        slot = series.after(event.reminder_datetime - timedelta(microseconds=1))
        start = start if slot is None else slot.start
    return start - event.reminder_datetime


def set_reminder(event: Event, at: datetime | None, *, lead: timedelta | None = None) -> None:
    """Set an event's reminder anew: nobody holds it, nobody has tried, nothing was sent.

    Args:
        event: Whose.
        at: When, or None for never.
        lead: What to keep as its offset, where it has none: a series needs it for the next one.
    """
    event.reminder_datetime = at
    event.reminder_sent_at = None
    event.reminder_attempts = 0
    drop_claim(event)
    if lead is not None and event.reminder_offset is None and lead >= timedelta():
        event.reminder_offset = int(lead.total_seconds())


def drop_claim(event: Event) -> None:
    """Take an event's reminder from the worker that holds it."""
    for name, value in NOT_HELD.items():
        setattr(event, name, value)


def has_reminder(event: Event) -> bool:
    """Say whether an event is reminded of, be it that the last one was sent."""
    return event.reminder_datetime is not None or event.reminder_offset is not None
