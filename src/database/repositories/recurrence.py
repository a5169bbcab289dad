"""Series: the occurrences of a recurring event, expanded in the wall-clock time of its zone (RFC 5545, 3.8.5.3)."""

from __future__ import annotations

from calendar import monthrange
from collections.abc import Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass
from datetime import MAXYEAR, UTC, datetime, time, timedelta
from itertools import chain, islice
from typing import Final
from uuid import UUID
from zoneinfo import ZoneInfo

from dateutil.rrule import rrulestr

from src.database.base import check_aware
from src.database.models import Event
from src.database.repositories.recurrence_rule import FIRST_YEAR, LAST_YEAR, WEEKDAYS, Rule, parse_rrule

__all__ = ["Occurrence", "Series", "check_window", "to_instant", "to_wall_clock"]

MAX_WINDOW: Final = timedelta(days=3660)
HORIZON: Final = timedelta(days=36_600)
"""How far ahead a series is asked for its next occurrence: a hundred years."""
MAX_DURATION: Final = timedelta(days=366)
_DAY: Final = timedelta(days=1)
_PICK_DAYS: Final = ("BYMONTH", "BYMONTHDAY", "BYDAY")
# The most that wall-clock order and the order of instants can be apart: two days' worth (Samoa skipped a whole one).
_OUT_OF_ORDER: Final = 48


@dataclass(frozen=True, slots=True)
class Occurrence:
    """One happening of an event: itself, a change to one of a series, or one of a series as its rule has it."""

    event: Event
    """The row that says what happens: of the series, or of the change."""
    start: datetime
    end: datetime | None
    recurrence_id: datetime | None
    """The original start within its series, by which it is named; None for what does not recur."""
    is_exception: bool
    """Whether it was changed, alone of its series."""

    @property
    def id(self) -> UUID:
        """The event's."""
        return self.event.id


@dataclass(frozen=True, slots=True)
class Slot:
    """Where a rule puts an occurrence: in the wall-clock time that it means, and as instants."""

    local: datetime
    start: datetime
    end: datetime | None

    def overlaps(self, start: datetime, end: datetime) -> bool:
        """Say whether it lies in a half-open interval, in part; without an end, or an empty one, it is an instant."""
        return self.start < end and (self.start >= start or (self.end is not None and self.end > start))


class _DayPicker:
    """What limits a daily rule to some days."""

    def __init__(self, parts: Mapping[str, str]) -> None:
        self._months = {int(one) for one in parts.get("BYMONTH", "").split(",") if one}
        self._days = {int(one) for one in parts.get("BYMONTHDAY", "").split(",") if one}
        self._weekdays = {WEEKDAYS.index(one) for one in parts.get("BYDAY", "").split(",") if one}

    def __call__(self, day: datetime) -> bool:
        if self._months and day.month not in self._months:
            return False
        if self._weekdays and day.weekday() not in self._weekdays:
            return False
        from_the_end = day.day - monthrange(day.year, day.month)[1] - 1
        return not self._days or day.day in self._days or from_the_end in self._days


class Series:
    """The occurrences of a recurring event. A rule that never ends costs what the window asked for does.

    A wall-clock time that does not exist, and one that exists twice, are read as RFC 5545, 3.3.5 says: with the offset
    from before the gap, and as the first of the two. An occurrence lasts as long as the first one by the clock on the
    wall, a year at most. The start is an occurrence also where the rule has none there, and COUNT counts it.
    """

    def __init__(self, event: Event) -> None:
        self.event = event
        self.rule: Rule = parse_rrule(event.rrule or "")
        self.zone = ZoneInfo(event.timezone)
        local = to_wall_clock(event.start_datetime, self.zone)
        self.first = datetime.combine(event.start_local, time()) if event.all_day else event.start_local
        # Under today's rules of the zone, as the start is: a change of these does not make it longer.
        duration = wall_clock_duration(event.start_datetime, event.end_datetime, self.zone)
        self.duration = None if duration is None else min(duration, MAX_DURATION)
        self._starts_as_written = local == self.first
        self._exdates = frozenset(event.exdates)

    def between(self, start: datetime, end: datetime, *, excluded: bool = False) -> Iterator[Slot]:
        """Go through the slots that overlap a half-open interval, in wall-clock order; each instant once.

        Args:
            start: From.
            end: Until.
            excluded: Those of `exdates` too.
        """
        since = to_wall_clock(start, self.zone) - (self.duration or timedelta()) - _DAY
        passed = set[datetime]() if excluded else set(self._exdates)
        for local in self._locals(since, min(to_wall_clock(end, self.zone), self._last) + _DAY):
            slot = self.slot(local)
            if slot.overlaps(start, end) and slot.start not in passed and not self._has_ended(slot):
                passed.add(slot.start)
                yield slot

    def is_over(self, instant: datetime) -> bool:
        """Say whether its rule ends so early that nothing of it reaches an instant."""
        return self._last + (self.duration or timedelta()) + _DAY < to_wall_clock(instant, self.zone)

    def earliest(self, start: datetime, end: datetime, *, replaced: Collection[datetime], limit: int) -> list[Slot]:
        """Return the slots that overlap an interval, by instant, without those that a change has replaced."""
        slots = (slot for slot in self.between(start, end) if slot.start not in replaced)
        return sorted(islice(slots, limit + _OUT_OF_ORDER), key=lambda slot: slot.start)[:limit]

    def after(self, instant: datetime, *, replaced: Collection[datetime] = ()) -> Slot | None:
        """Return the first slot that begins after an instant, or None where the series is over."""
        end = min(instant + HORIZON, datetime(LAST_YEAR, 12, 31, tzinfo=UTC))
        slots = (one for one in self.between(instant, end) if one.start > instant and one.start not in replaced)
        return min(islice(slots, _OUT_OF_ORDER), key=lambda slot: slot.start, default=None)

    def at(self, instant: datetime) -> Slot | None:
        """Return the slot that begins at this instant, or None where the rule has none or it is excluded."""
        return next((slot for slot in self.between(instant, instant + _DAY) if slot.start == instant), None)

    def number_before(self, slot: Slot) -> int:
        """Count the occurrences before a slot, excluded ones too, as COUNT does."""
        return sum(local < slot.local for local in self._locals(self.first, slot.local))

    def locals_of(self, instants: Iterable[datetime]) -> dict[datetime, datetime]:
        """Return the wall-clock time that the rule means at each instant; where it has none, the clock's."""
        wanted = set(instants)
        found = {one: to_wall_clock(one, self.zone) for one in wanted}
        if wanted:
            slots = self.between(min(wanted), max(wanted) + timedelta(microseconds=1), excluded=True)
            found.update({slot.start: slot.local for slot in slots if slot.start in wanted})
        return found

    def slot(self, local: datetime) -> Slot:
        """Say when an occurrence begins and ends; the first one as it was written, be it the second of a time."""
        if local == self.first and self._starts_as_written:
            return Slot(local, self.event.start_datetime, self.event.end_datetime)
        start = to_instant(local, self.zone)
        return Slot(local, start, lasting(start, self.duration, self.zone))

    def ended_before(self, slot: Slot) -> Rule:
        """Return the rule that has all before a slot, and neither it nor what follows."""
        if self.event.all_day:
            return self.rule.ending((slot.local - _DAY).date())
        return self.rule.ending(slot.start - timedelta(seconds=1))

    def moved(self, instants: Iterable[datetime], by: timedelta) -> list[datetime]:
        """Return where these original starts are once the series is moved by wall-clock time, in order."""
        return sorted(to_instant(local + by, self.zone) for local in self.locals_of(instants).values())

    def rule_moved(self, before: datetime, after: datetime) -> Rule:
        """Return the rule once the occurrence of one wall-clock time is at another; its end moves along.

        Raises:
            ValueError: It fixes days or times that would have to move.
        """
        rule, until, by = self.rule.moved(before, after), self.rule.until, after - before
        if until is None:
            return rule
        if isinstance(until, datetime):
            return rule.ending(to_instant(to_wall_clock(until, self.zone) + by, self.zone))
        return rule.ending((datetime.combine(until, time()) + by).date())

    @property
    def _last(self) -> datetime:
        until = self.rule.until
        if until is None:
            return datetime(LAST_YEAR, 12, 31)  # noqa: DTZ001 - wall-clock time
        return to_wall_clock(until, self.zone) if isinstance(until, datetime) else datetime.combine(until, time())

    def _has_ended(self, slot: Slot) -> bool:
        until = self.rule.until
        if until is None:
            return False
        return slot.start > until if isinstance(until, datetime) else slot.local.date() > until

    def _locals(self, since: datetime, last: datetime) -> Iterator[datetime]:
        """Go through the wall-clock times of the rule, from one to another, both included."""
        fraction = timedelta(microseconds=self.first.microsecond)  # the library drops it
        begin = self.first - fraction
        by_rule = (one + fraction for one in self._by_rule(self._near(begin, since), last) if one > begin)
        every = islice(chain([self.first], by_rule), self.rule.count)
        return (one for one in every if since <= one <= last)

    def _by_rule(self, begin: datetime, last: datetime) -> Iterator[datetime]:
        """Have the library go through the rule. It looks at the end only where it finds something, be it in year 9999.

        So it gets no rule by which that is far: what picks the days of a daily one is held here, and a monthly or
        yearly one (30 February) is gone through close to that year: the calendar repeats itself every 400.
        """
        parts = {"WKST": "MO", **self.rule.unbounded()}  # else the library asks the process for the week's first day
        if "BYWEEKNO" in parts and not {"BYDAY", "BYMONTHDAY", "BYYEARDAY"} & parts.keys():
            parts["BYDAY"] = WEEKDAYS[self.first.weekday()]  # the library would take the whole week
        picks = _DayPicker(parts) if self.rule.frequency == "DAILY" else None
        if picks is not None:
            parts = {name: value for name, value in parts.items() if name not in _PICK_DAYS}
        years = 400 * ((MAXYEAR - last.year) // 400) if self.rule.frequency in {"MONTHLY", "YEARLY"} else 0
        text = ";".join(f"{name}={value}" for name, value in parts.items())
        made = rrulestr(text, dtstart=begin.replace(year=begin.year + years))
        for one in made.replace(until=last.replace(year=last.year + years)):  # type: ignore[union-attr] # it is one rule
            if picks is None or picks(one):
                yield one.replace(year=one.year - years)

    def _near(self, begin: datetime, since: datetime) -> datetime:
        """Where nothing is counted, begin close to the window: the library goes through all occurrences before it."""
        days = {"DAILY": 1, "WEEKLY": 7}.get(self.rule.frequency)
        if days is None or self.rule.count is not None:
            return begin
        period = days * self.rule.interval
        return begin + timedelta(days=max(0, ((since - begin).days - 7) // period) * period)


def to_instant(local: datetime, zone: ZoneInfo) -> datetime:
    """Read a wall-clock time as RFC 5545, 3.3.5 says, which is how Python reads one with `fold=0`."""
    return local.replace(tzinfo=zone, fold=0).astimezone(UTC)


def to_wall_clock(instant: datetime, zone: ZoneInfo) -> datetime:
    """Say what the clock on the wall shows at an instant."""
    return instant.astimezone(zone).replace(tzinfo=None, fold=0)


def wall_clock_duration(start: datetime, end: datetime | None, zone: ZoneInfo) -> timedelta | None:
    """Say how long something lasts by the clock on the wall."""
    return None if end is None else to_wall_clock(end, zone) - to_wall_clock(start, zone)


def lasting(start: datetime, duration: timedelta | None, zone: ZoneInfo) -> datetime | None:
    """Return the end of what begins at an instant and lasts so long by the clock on the wall; never before it."""
    if duration is None:
        return None
    end = to_instant(to_wall_clock(start, zone) + duration, zone)
    return end if end >= start else start + abs(duration)


def check_window(start: datetime, end: datetime) -> None:
    """Refuse an interval that cannot be expanded.

    Raises:
        ValueError: A bound is naive or not between the years 1900 and 2199, the end is not after the start, or it is
            longer than ten years.
    """
    check_interval(start, end)
    for name, value in (("start", start), ("end", end)):
        check_year(name, value)
    if end - start > MAX_WINDOW:
        raise ValueError(f"end must be at most {MAX_WINDOW.days} days after start, got {(end - start).days}")


def check_interval(start: datetime, end: datetime) -> None:
    """Refuse what is no half-open interval.

    Raises:
        ValueError: A bound is naive, or the end is not after the start.
    """
    check_aware("start", start)
    check_aware("end", end)
    if end <= start:
        raise ValueError(f"end must be after start, got {start.isoformat()} to {end.isoformat()}")


def check_year(name: str, value: datetime) -> None:
    """Refuse an instant that no series reaches.

    Raises:
        ValueError: It is not between the years 1900 and 2199.
    """
    if not FIRST_YEAR <= value.year <= LAST_YEAR:
        raise ValueError(f"{name} must be between the years {FIRST_YEAR} and {LAST_YEAR}, got {value.year}")
