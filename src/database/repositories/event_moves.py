"""What moving an event does to its row, and to its series': where, by which rule, with which reminder."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from itertools import islice
from typing import Any, Final, Literal

from src.database.models import Event
from src.database.repositories.event_reminder_fields import has_reminder, reminder_lead, set_reminder
from src.database.repositories.recurrence import Series, Slot
from src.database.repositories.recurrence_bounds import check_year
from src.database.repositories.recurrence_clock import lasting, to_instant, to_wall_clock, wall_clock_duration
from src.database.repositories.recurrence_rule import MAX_COUNT, Rule, check_rrule, parse_rrule
from src.database.repositories.recurrence_times import has_first
from src.database.statements.changed_occurrences import Moved
from src.database.zones import get_zone

__all__ = ["Move", "Scope", "copy_of", "end_at", "end_before", "is_next_reminded", "place", "plan_move", "slot_meant"]

Scope = Literal["this", "following", "all"]

_COPIED: Final = ("user_id", "title", "description", "location", "timezone", "all_day", "reminder_offset")


@dataclass(frozen=True, slots=True)
class Move:
    """Where an occurrence of a series goes, and the series, or the rest of it, with it."""

    series: Series
    slot: Slot
    start: datetime
    end: datetime | None
    duration: timedelta | None
    is_named: bool
    """Whether this one was named, and not the series alone: a change that it has had goes to `start` too."""
    rule: Rule
    begins: datetime
    """When the series is to begin, or the rest of it."""
    places: Mapping[datetime, tuple[datetime, datetime]]
    """By original start, where what was excluded or changed is by the rule, and where it will be."""

    @property
    def ends(self) -> datetime | None:
        """When its first occurrence is to end."""
        return lasting(self.begins, self.duration, self.series.zone, all_day=bool(self.series.event.all_day))

    def starts(self, instants: Iterable[datetime]) -> list[datetime]:
        """Return where these original starts will be, in order."""
        return sorted(to_instant(self.places[one][1], self.series.zone) for one in instants)

    def along(self, rows: Sequence[Event]) -> list[Moved]:
        """Return what each changed occurrence is to be: moved as far as its place in the series."""
        moved = []
        for row in rows:
            original = row.recurrence_id or row.start_datetime
            old, new = self.places[original]
            if self.is_named and original == self.slot.start:
                start, end = self.start, self.end or end_at(row, self.start)
            else:
                zone, all_day = get_zone(row.timezone), bool(row.all_day)
                start = to_instant(to_wall_clock(row.start_datetime, zone, all_day=all_day) + (new - old), zone)
                end = end_at(row, start)
            reminder = None if row.reminder_datetime is None else start - reminder_lead(row)
            moved.append(Moved(row.id, to_instant(new, self.series.zone), start, end, reminder, row.timezone))
        return moved


def plan_move(
    event: Event,
    slot: Slot,
    start: datetime,
    end: datetime | None,
    *,
    rrule: str | None,
    whole: bool,
    is_named: bool,
    originals: Iterable[datetime],
) -> Move:
    """Say where all goes, before any of it does.

    Raises:
        ValueError: The rule cannot be moved so, or the new one has no place for what was excluded or changed.
    """
    series = Series(event)
    all_day = bool(event.all_day)
    after = to_wall_clock(start, series.zone, all_day=all_day)
    rule = _rule_after(event, series, slot, after, rrule, whole=whole)
    locals_ = series.locals_of(originals)
    begins = start
    if whole and slot.local != series.first:
        moved = series.first + (after - slot.local) if rrule else series.rule.shifted(series.first, slot.local, after)
        begins = to_instant(moved, series.zone)
        check_year("the first occurrence of the moved series", begins)
    new = Series(copy_of(event, begins, None, rrule=str(rule)))
    if rrule is None:
        places = {one: series.rule.shifted(one, slot.local, after) for one in locals_.values()}
    else:
        if begins != start and not (has_first(rule, new.first) and new.among([after])):
            raise ValueError("the new rule has no occurrence where the series would begin; move its first occurrence")
        places = _places(series, new, series.first if whole else slot.local, after - slot.local, set(locals_.values()))
    duration = series.duration if end is None else wall_clock_duration(start, end, series.zone, all_day=all_day)
    by_instant = {instant: (local, places[local]) for instant, local in locals_.items()}
    return Move(series, slot, start, end, duration, is_named, rule, begins, by_instant)


def _rule_after(event: Event, series: Series, slot: Slot, after: datetime, rrule: str | None, *, whole: bool) -> Rule:
    """Return the rule of a series that is moved, whole or from a slot on."""
    if rrule is not None:
        check_rrule(rrule, all_day=bool(event.all_day))
        return parse_rrule(rrule)
    rule = series.rule_moved(slot.local, after)
    return rule if whole or rule.count is None else rule.counting(rule.count - series.number_before(slot))


def _places(
    old: Series, new: Series, first: datetime, by: timedelta, wanted: Collection[datetime]
) -> dict[datetime, datetime]:
    """Find the occurrences of a new rule that those of the old one become: by the same time, else each in its month.

    What the old rule does not have excludes and replaces nothing: it is moved by the same time.
    """
    by_time = {one: one + by for one in wanted}
    real = old.among(wanted)
    missed = [one for one in sorted(real) if not new.among([by_time[one]])]
    if not missed:
        return by_time
    rules = (old.rule, new.rule)
    if old.rule.frequency in {"MONTHLY", "YEARLY"} and len({(one.frequency, one.interval) for one in rules}) == 1:
        pairs = zip((one for one in old.from_first() if one >= first), new.from_first(), strict=False)
        by_number = {one: its for one, its in islice(pairs, MAX_COUNT) if one in real or one == first}
        months = {12 * (its.year - one.year) + its.month - one.month for one, its in by_number.items()}
        if by_number.keys() >= real and len(months) == 1:
            return by_time | by_number
    raise ValueError(
        f"the new rule has no place for what was excluded or changed, the first of it that of {missed[0].isoformat()};"
        " `delete` the changed occurrence and take it out of `exdates`, or move what follows it"
    )


def slot_meant(event: Event, series: Series, scope: Scope, recurrence_id: datetime | None) -> Slot:
    """Find the occurrence that is meant."""
    if recurrence_id is None:
        if scope == "all":
            return series.slot(series.first)
        raise ValueError(f'recurrence_id must say which occurrence of series {event.id} is meant by "{scope}"')
    check_year("recurrence_id", recurrence_id)
    slot = series.at(recurrence_id)
    if slot is None:
        raise ValueError(
            f"recurrence_id must be the original start of an occurrence of series {event.id},"
            f" got {recurrence_id.isoformat()}; `occurrences` tells them"
        )
    return slot


def place(event: Event, start: datetime, end: datetime | None) -> None:
    """Move a single event, and its reminder with it."""
    lead = reminder_lead(event)
    try:
        end = end_at(event, start) if end is None else end
        reminder = start - lead if has_reminder(event) else None
    except OverflowError:
        raise ValueError(f"start must leave time for the event and its reminder, got {start.isoformat()}") from None
    event.start_datetime, event.end_datetime = start, end
    set_reminder(event, reminder)


def end_at(event: Event, start: datetime) -> datetime | None:
    """Say when an event ends that begins at another time, and lasts as long by the clock on the wall."""
    zone, all_day = get_zone(event.timezone), bool(event.all_day)
    duration = wall_clock_duration(event.start_datetime, event.end_datetime, zone, all_day=all_day)
    return lasting(start, duration, zone, all_day=all_day)


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
