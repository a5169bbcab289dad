"""Series: the occurrences of a recurring event, expanded in the local time of its zone (RFC 5545, section 3.8.5.3)."""

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
"""How far ahead the next occurrence of a series is searched: a hundred years."""
MAX_DURATION: Final = timedelta(days=366)
_DAY: Final = timedelta(days=1)
# A change of offset can reorder occurrences: their order in local time is not that of their instants. The largest
# change was a day (Samoa, 2011), and a rule repeats at most 24 times a day, so among 48 more occurrences the order is
# complete.
_OUT_OF_ORDER: Final = 48


@dataclass(frozen=True, slots=True)
class Slot:
    """An occurrence that the rule gives: its local start, and its instants."""

    local: datetime
    start: datetime
    end: datetime | None

    def overlaps(self, start: datetime, end: datetime) -> bool:
        """Return True if the occurrence overlaps a half-open interval. Without a duration it is an instant."""
        return self.start < end and (self.start >= start or (self.end is not None and self.end > start))


class Series:
    """The occurrences of a recurring event. Expanding a window costs the same whether or not the rule ends.

    RFC 5545, section 3.3.5, defines a local time that does not exist (it has the offset from before the gap) and one
    that exists twice (it is the first of the two). Each occurrence lasts as long as the first one in local time, at
    most a year. The start of the event is an occurrence even if the rule does not produce it, and COUNT includes it.

    Args:
        event: The event, which has an `rrule`.
    """

    def __init__(self, event: Event) -> None:
        self.event = event
        self.rule: Rule = parse_rrule(event.rrule or "")
        self.zone = get_zone(event.timezone)
        local = to_wall_clock(event.start_datetime, self.zone)
        self.first = event.written_start_local or local
        if event.all_day:
            self.first = datetime.combine(self.first, time())
        # Both ends by the current rules of the zone, so that a change of the rules does not change the duration.
        duration = wall_clock_duration(event.start_datetime, event.end_datetime, self.zone, all_day=bool(event.all_day))
        self.duration = None if duration is None else min(duration, MAX_DURATION)
        self._starts_as_written = local == self.first
        self._exdates = frozenset(event.exdates or ())

    def between(self, start: datetime, end: datetime, *, excluded: bool = False) -> Iterator[Slot]:
        """Yield the slots that overlap a half-open interval, in the order of local time, each instant once.

        Args:
            start: The start of the interval.
            end: The end of the interval.
            excluded: Also yield the occurrences of `exdates`.
        """
        since = to_wall_clock(start, self.zone) - (self.duration or timedelta()) - _DAY
        skipped = set[datetime]() if excluded else set(self._exdates)
        for local in self._locals(since, min(to_wall_clock(end, self.zone), self._last) + _DAY):
            slot = self.slot(local)
            if slot.overlaps(start, end) and slot.start not in skipped and not self._has_ended(slot):
                skipped.add(slot.start)  # two local times can be the same instant, where one of them does not exist
                yield slot

    def is_over(self, instant: datetime) -> bool:
        """Return True if the rule ends before an instant, so that no occurrence overlaps it."""
        return self._last + (self.duration or timedelta()) + _DAY < to_wall_clock(instant, self.zone)

    def earliest(self, start: datetime, end: datetime, *, replaced: Collection[datetime], limit: int) -> list[Slot]:
        """Return the first slots that overlap an interval, ordered by instant.

        Args:
            start: The start of the interval.
            end: The end of the interval, not included.
            replaced: The starts of changed occurrences, which are left out.
            limit: The largest number of slots.
        """
        slots = (slot for slot in self.between(start, end) if slot.start not in replaced)
        return sorted(islice(slots, limit + _OUT_OF_ORDER), key=lambda slot: slot.start)[:limit]

    def after(self, instant: datetime, *, replaced: Collection[datetime] = ()) -> Slot | None:
        """Return the first slot that begins after an instant and is not replaced, or None if the series is over."""
        end = min(instant + HORIZON, datetime(LAST_YEAR, 12, 31, tzinfo=UTC))
        slots = (slot for slot in self.between(instant, end) if slot.start > instant and slot.start not in replaced)
        return min(islice(slots, _OUT_OF_ORDER), key=lambda slot: slot.start, default=None)

    def at(self, instant: datetime) -> Slot | None:
        """Return the slot that begins at this instant, or None if there is none or it is excluded."""
        return next((slot for slot in self.between(instant, instant + _DAY) if slot.start == instant), None)

    def number_before(self, slot: Slot) -> int:
        """Return the number of occurrences before a slot, with excluded ones: COUNT counts them too."""
        return sum(local < slot.local for local in self._locals(self.first, slot.local))

    def locals_of(self, instants: Iterable[datetime]) -> dict[datetime, datetime]:
        """Return the local time of each instant: that of the rule's occurrence, or else that of the zone.

        The two differ if the occurrence's local time does not exist.
        """
        wanted = set(instants)
        local_times = {instant: to_wall_clock(instant, self.zone) for instant in wanted}
        if wanted:
            slots = self.between(min(wanted), max(wanted) + timedelta(microseconds=1), excluded=True)
            local_times.update({slot.start: slot.local for slot in slots if slot.start in wanted})
        return local_times

    def slot(self, local: datetime) -> Slot:
        """Return the slot of a local time. The first occurrence has the stored instants.

        They can be the second of two instants with the same local time.
        """
        if local == self.first and self._starts_as_written:
            return Slot(local, self.event.start_datetime, self.event.end_datetime)
        start = to_instant(local, self.zone)
        return Slot(local, start, lasting(start, self.duration, self.zone, all_day=bool(self.event.all_day)))

    def ended_before(self, slot: Slot) -> Rule:
        """Return the rule with an UNTIL that ends it before a slot."""
        if self.event.all_day:
            return self.rule.ending((slot.local - _DAY).date())
        return self.rule.ending(slot.start - timedelta(seconds=1))

    def among(self, locals_: Collection[datetime]) -> set[datetime]:
        """Return the local times at which the rule has an occurrence, out of these."""
        return set(locals_) & set(self._locals(min(locals_), max(locals_))) if locals_ else set()

    def from_first(self) -> Iterator[datetime]:
        """Yield all local times of the rule from its start."""
        return self._locals(self.first, self._last)

    def rule_moved(self, before: datetime, after: datetime) -> Rule:
        """Return the rule that moves the occurrence at the local time `before` to `after`. Its UNTIL moves too.

        Raises:
            ValueError: The rule cannot be moved (see `Rule.moved`).
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
    """Return the instant of a local time as RFC 5545, section 3.3.5, defines it: as Python does with `fold=0`."""
    return local.replace(tzinfo=zone, fold=0).astimezone(UTC)


def to_wall_clock(instant: datetime, zone: ZoneInfo, *, all_day: bool = False) -> datetime:
    """Return the local time of an instant.

    Args:
        instant: The instant.
        zone: The zone.
        all_day: Return midnight for the first instant of a day. In some zones, such as Asia/Beirut, one day of the year
            begins at one o'clock.
    """
    local = local_time(instant, zone)
    if not all_day:
        return local
    midnight = datetime.combine(local, time())
    return midnight if to_instant(midnight, zone) == instant else local


def wall_clock_duration(
    start: datetime, end: datetime | None, zone: ZoneInfo, *, all_day: bool = False
) -> timedelta | None:
    """Return the duration of an event in local time, or None without an end."""
    if end is None:
        return None
    return to_wall_clock(end, zone, all_day=all_day) - to_wall_clock(start, zone, all_day=all_day)


def lasting(start: datetime, duration: timedelta | None, zone: ZoneInfo, *, all_day: bool = False) -> datetime | None:
    """Return the end of an event from its start and its duration in local time, or None without a duration."""
    if duration is None:
        return None
    end = to_instant(to_wall_clock(start, zone, all_day=all_day) + duration, zone)
    # A start in the second of two repeated hours: `to_instant` returns an end in the first one, before the start.
    return end if end >= start else start + abs(duration)
