"""What moving an event does to its row, and to its series': where, by which rule, with which reminder."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any, Final, Literal
from zoneinfo import ZoneInfo

from src.database.base import check_aware
from src.database.models import Event
from src.database.repositories.event_reminders import has_reminder, reminder_lead, set_reminder
from src.database.repositories.recurrence import Series, Slot, lasting, to_wall_clock, wall_clock_duration
from src.database.repositories.recurrence_rule import Rule, check_rrule, parse_rrule

__all__ = ["Move", "Scope", "copy_of", "end_before", "is_next_reminded", "place", "rule_after", "slot_meant"]

Scope = Literal["this", "following", "all"]

_COPIED: Final = ("user_id", "title", "description", "location", "timezone", "all_day", "reminder_offset")


@dataclass(frozen=True, slots=True)
class Move:
    """Where an occurrence of a series goes, and the series, or the rest of it, with it."""

    series: Series
    slot: Slot
    start: datetime
    duration: timedelta | None
    rule: Rule
    now: datetime

    @property
    def by(self) -> timedelta:
        """How far, by the clock on the wall."""
        return to_wall_clock(self.start, self.series.zone) - self.slot.local


def rule_after(event: Event, series: Series, slot: Slot, start: datetime, rrule: str | None, *, whole: bool) -> Rule:
    """Return the rule of a series that is moved, whole or from a slot on."""
    if rrule is not None:
        check_rrule(rrule, all_day=event.all_day)
        return parse_rrule(rrule)
    rule = series.rule_moved(slot.local, to_wall_clock(start, series.zone))
    return rule if whole or rule.count is None else rule.counting(rule.count - series.number_before(slot))


def slot_meant(event: Event, series: Series, scope: Scope, recurrence_id: datetime | None) -> Slot:
    """Find the occurrence that is meant."""
    if recurrence_id is None:
        if scope == "all":
            return series.slot(series.first)
        raise ValueError(f'recurrence_id must say which occurrence of series {event.id} is meant by "{scope}"')
    check_aware("recurrence_id", recurrence_id)
    slot = series.at(recurrence_id)
    if slot is None:
        raise ValueError(
            f"recurrence_id must be the original start of an occurrence of series {event.id},"
            f" got {recurrence_id.isoformat()}; `occurrences` tells them"
        )
    return slot


def place(event: Event, start: datetime, end: datetime | None) -> None:
    """Move a single event, and its reminder with it."""
    zone = ZoneInfo(event.timezone)
    lead = reminder_lead(event)
    if end is None:
        end = lasting(start, wall_clock_duration(event.start_datetime, event.end_datetime, zone), zone)
    event.start_datetime, event.end_datetime = start, end
    set_reminder(event, start - lead if has_reminder(event) else None)


def end_before(event: Event, series: Series, slot: Slot) -> None:
    """End a series before a slot."""
    if event.reminder_datetime is not None and event.reminder_datetime + reminder_lead(event, series) >= slot.start:
        set_reminder(event, None)
    event.rrule = str(series.ended_before(slot))
    event.exdates = [one for one in event.exdates if one < slot.start]


def is_next_reminded(event: Event, series: Series, slot: Slot) -> bool:
    """Say whether this occurrence of a series is the one that its reminder is for."""
    if event.reminder_datetime is None or event.reminder_sent_at is not None:
        return False
    return event.reminder_datetime + reminder_lead(event, series) == slot.start


def copy_of(event: Event, start: datetime, end: datetime | None, **more: Any) -> Event:
    """Make an event of the same content at another time."""
    values = {name: getattr(event, name) for name in _COPIED}
    return Event(**values, **more, extra=dict(event.extra), start_datetime=start, end_datetime=end)
