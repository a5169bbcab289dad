"""Series: the occurrences of a recurring event, expanded in the wall-clock time of its zone (RFC 5545, 3.8.5.3)."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, time, timedelta
from itertools import islice
from typing import TYPE_CHECKING, Final
from zoneinfo import ZoneInfo

from src.database.calendar.expansion import times_of
from src.database.calendar.rules import LAST_YEAR, Rule, parse_rrule
from src.database.calendar.zones import get_zone, local_time

if TYPE_CHECKING:
    from src.database.models import Event

HORIZON: Final = timedelta(days=36_600)
"""How far ahead a series is asked for its next occurrence: a hundred years."""
MAX_DURATION: Final = timedelta(days=366)
_DAY: Final = timedelta(days=1)
# The most that wall-clock order and the order of instants can be apart: two days' worth (Samoa skipped a whole one).
_OUT_OF_ORDER: Final = 48


@dataclass(frozen=True, slots=True)
class Slot:
    """An occurrence by the rule: its local time, and its instants."""

    local: datetime
    start: datetime
    end: datetime | None

    def overlaps(self, start: datetime, end: datetime) -> bool:
        """Return True if a part is in a half-open interval; without an end, or an empty one, it is an instant."""
        return self.start < end and (self.start >= start or (self.end is not None and self.end > start))


class Series:
    """The occurrences of a recurring event. A rule that never ends costs what the window asked for does.

    A wall-clock time that does not exist, and one that exists twice, are read as RFC 5545, 3.3.5 says: with the offset
    from before the gap, and as the first of the two. An occurrence lasts as long as the first one in local time,
    a year at most. The start is an occurrence also where the rule has none there, and COUNT counts it.
    """

    def __init__(self, event: Event) -> None:
        self.event = event
        self.rule: Rule = parse_rrule(event.rrule or "")
        self.zone = get_zone(event.timezone)
        local = to_wall_clock(event.start_datetime, self.zone)
        self.first = event.written_start_local or local
        if event.all_day:
            self.first = datetime.combine(self.first, time())
        # Under today's rules of the zone, as the start is: a change of these does not make it longer.
        duration = wall_clock_duration(event.start_datetime, event.end_datetime, self.zone, all_day=bool(event.all_day))
        self.duration = None if duration is None else min(duration, MAX_DURATION)
        self._starts_as_written = local == self.first
        self._exdates = frozenset(event.exdates or ())

    def between(self, start: datetime, end: datetime, *, excluded: bool = False) -> Iterator[Slot]:
        """Yield the slots that overlap a half-open interval, in the order of local time; each instant once.

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
        """Return True if the rule ends so early that no occurrence reaches an instant."""
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
        """Return the slot of an occurrence; the first one as it was written, also if its local time exists twice."""
        if local == self.first and self._starts_as_written:
            return Slot(local, self.event.start_datetime, self.event.end_datetime)
        start = to_instant(local, self.zone)
        return Slot(local, start, lasting(start, self.duration, self.zone, all_day=bool(self.event.all_day)))

    def ended_before(self, slot: Slot) -> Rule:
        """Return the rule that has all before a slot, and neither it nor what follows."""
        if self.event.all_day:
            return self.rule.ending((slot.local - _DAY).date())
        return self.rule.ending(slot.start - timedelta(seconds=1))

    def among(self, locals_: Collection[datetime]) -> set[datetime]:
        """Return those of these wall-clock times at which the rule has an occurrence."""
        return set(locals_) & set(self._locals(min(locals_), max(locals_))) if locals_ else set()

    def from_first(self) -> Iterator[datetime]:
        """Yield the local times of the rule from its start on."""
        return self._locals(self.first, self._last)

    def rule_moved(self, before: datetime, after: datetime) -> Rule:
        """Return the rule once the occurrence of one wall-clock time is at another; its end moves along.

        Raises:
            ValueError: It fixes days or times that would have to move, or not each month has the days.
        """
        rule, until = self.rule.moved(before, after), self.rule.until
        if until is None:
            return rule
        if isinstance(until, datetime):
            end = self.rule.end_shifted(to_wall_clock(until, self.zone), before, after)
            return rule.ending(to_instant(end, self.zone))
        return rule.ending(self.rule.end_shifted(datetime.combine(until, time()), before, after).date())

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
        return times_of(self.rule, self.first, since, last)


def to_instant(local: datetime, zone: ZoneInfo) -> datetime:
    """Return the instant of a local time as RFC 5545, 3.3.5 defines it, which is Python's with `fold=0`."""
    return local.replace(tzinfo=zone, fold=0).astimezone(UTC)


def to_wall_clock(instant: datetime, zone: ZoneInfo, *, all_day: bool = False) -> datetime:
    """Return the local time at an instant; for whole days midnight, also where the clocks leave it out.

    Args:
        instant: When.
        zone: Where.
        all_day: Whether whole days are meant: one of Beirut begins at one o'clock in the year.
    """
    local = local_time(instant, zone)
    if not all_day:
        return local
    midnight = datetime.combine(local, time())
    return midnight if to_instant(midnight, zone) == instant else local


def wall_clock_duration(
    start: datetime, end: datetime | None, zone: ZoneInfo, *, all_day: bool = False
) -> timedelta | None:
    """Return how long something lasts in local time."""
    if end is None:
        return None
    return to_wall_clock(end, zone, all_day=all_day) - to_wall_clock(start, zone, all_day=all_day)


def lasting(start: datetime, duration: timedelta | None, zone: ZoneInfo, *, all_day: bool = False) -> datetime | None:
    """Return the end of what begins at an instant and lasts so long by the clock on the wall; never before it."""
    if duration is None:
        return None
    end = to_instant(to_wall_clock(start, zone, all_day=all_day) + duration, zone)
    return end if end >= start else start + abs(duration)
