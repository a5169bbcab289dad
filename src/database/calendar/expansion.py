"""Expand a recurrence rule to its local times, as RFC 5545, section 3.3.10, defines them.

The dates of each interval of the rule (a day, a week, a month or a year) form a set. A date is in the set if it matches
each part of the rule. BYSETPOS picks times from the whole set, which includes dates before the start of the series.
Only the sets near the window are built. A rule with COUNT is expanded from its start, because each occurrence counts.
"""

from __future__ import annotations

from bisect import bisect_right
from calendar import isleap, monthrange
from collections.abc import Callable, Iterable, Iterator
from datetime import date, datetime, time
from functools import lru_cache
from itertools import chain, islice, product
from typing import Final

from src.database.calendar.rules import TIMES, WEEKDAYS, Rule

_NAME_DAYS: Final = ("BYDAY", "BYMONTHDAY", "BYYEARDAY")


def times_of(rule: Rule, first: datetime, since: datetime, last: datetime) -> Iterator[datetime]:
    """Yield the local times of a series, in order, from `since` to `last`, both included.

    Args:
        rule: The rule of the series. Its UNTIL is not applied: that is an instant, and depends on the zone.
        first: The start of the series, which is an occurrence even if the rule does not produce it.
        since: The earliest time.
        last: The latest time.
    """
    near = max(first, since) if rule.count is None else first
    later = (local for local in _Expansion(rule, first).times(near.date(), last.date()) if local > first)
    every = islice(chain([first], later), rule.count)
    return (local for local in every if since <= local <= last)


def has_first(rule: Rule, first: datetime) -> bool:
    """Return True if the rule produces the start of its series."""
    return first in _Expansion(rule, first).times(first.date(), first.date())


class _Expansion:
    """The parts of a rule as numbers. The start of the series supplies the parts that the rule lacks."""

    def __init__(self, rule: Rule, first: datetime) -> None:
        self._frequency, self._interval, self._first = rule.frequency, rule.interval, first
        parts = _with_days_of_start(rule, first)
        self._months = _numbers(parts.get("BYMONTH"))
        self._weeks = _numbers(parts.get("BYWEEKNO"))
        self._year_days = _numbers(parts.get("BYYEARDAY"))
        self._month_days = _numbers(parts.get("BYMONTHDAY"))
        self._positions = sorted(_numbers(parts.get("BYSETPOS")), key=abs)
        # (0, weekday) is every such weekday; (-1, weekday) is the last one of a month or of a year.
        by_day = [day for day in parts.get("BYDAY", "").split(",") if day]
        self._weekdays = frozenset((int(day[:-2] or 0), WEEKDAYS.index(day[-2:])) for day in by_day)
        self._counts_in_month = self._frequency == "MONTHLY" or "BYMONTH" in parts
        self._week_start = WEEKDAYS.index(parts.get("WKST", "MO"))
        self._days_of_week = sorted({(day - self._week_start) % 7 for _, day in self._weekdays}) or range(7)
        self._times = _times_of_day(parts, first)
        self._days_of_month: dict[tuple[int, bool, int], list[int]] = {}

    def times(self, near: date, last: date) -> Iterator[datetime]:
        """Yield the times of the sets from that of `near` to that of `last`, both in full."""
        for dates in self._daily_sets(near, last) if self._frequency == "DAILY" else self._sets(near, last):
            for index in self._picked(len(dates) * len(self._times)):
                yield datetime.combine(dates[index // len(self._times)], self._times[index % len(self._times)])

    def _sets(self, near: date, last: date) -> Iterator[list[date]]:
        number, dates = self._intervals()
        first = number(self._first.date())
        skipped = max(0, (number(near) - first) // self._interval) * self._interval
        for interval in range(first + skipped, number(last) + 1, self._interval):
            yield dates(interval)

    def _daily_sets(self, near: date, last: date) -> Iterator[list[date]]:
        """Yield each matching day as a set of its own. Whole months that BYMONTH excludes are skipped, for speed."""
        first = self._first.toordinal()
        for month in range(_month_number(near), _month_number(last) + 1):
            year, index = divmod(month, 12)
            if not self._months or index + 1 in self._months:
                start = date(year, index + 1, 1).toordinal()
                begin = max(start, near.toordinal())
                end = min(start + _length_of_month(year, index + 1), last.toordinal() + 1)
                days = range(begin + (first - begin) % self._interval, end, self._interval)
                yield from ([day] for day in map(date.fromordinal, days) if self._matches(day))

    def _intervals(self) -> tuple[Callable[[date], int], Callable[[int], list[date]]]:
        """Return two functions: the number of a date's interval, and the matching dates of the interval of a number."""
        if self._frequency == "WEEKLY":
            return self._week_number, self._dates_of_week
        if self._frequency == "MONTHLY":
            return _month_number, self._dates_of_month
        if self._weeks:
            return self._week_year, self._dates_of_weeks
        return (lambda day: day.year), self._dates_of_year

    def _picked(self, total: int) -> Iterable[int]:
        """Return the indexes of the times that BYSETPOS picks from a set; without BYSETPOS, of all times."""
        if not self._positions:
            return range(total)
        reached = self._positions[: bisect_right(self._positions, total, key=abs)]
        return sorted({position - 1 if position > 0 else total + position for position in reached})

    def _dates_of_month(self, number: int) -> list[date]:
        year, month = number // 12, number % 12 + 1
        if self._months and month not in self._months:
            return []
        # The matching days depend only on these: there are 14 kinds of year, by leap day and weekday of 1 January.
        key = month, isleap(year), date(year, 1, 1).weekday()
        days = self._days_of_month.get(key)
        if days is None:
            whole = range(1, _length_of_month(year, month) + 1)
            days = self._days_of_month[key] = [day for day in whole if self._matches(date(year, month, day))]
        return [date(year, month, day) for day in days]

    def _dates_of_year(self, year: int) -> list[date]:
        return [day for month in range(12 * year, 12 * year + 12) for day in self._dates_of_month(month)]

    def _dates_of_weeks(self, year: int) -> list[date]:
        """Return the matching dates of the weeks of BYWEEKNO. The first and last week can reach into other years."""
        start, end = self._week_number(date(year, 1, 4)), self._week_number(date(year + 1, 1, 4))
        weeks = [start + n for n in range(end - start) if _is_in(self._weeks, n + 1, end - start)]
        return [day for week in weeks for day in self._dates_of_week(week)]

    def _dates_of_week(self, number: int) -> list[date]:
        start = 7 * number + self._week_start + 1
        dates = (date.fromordinal(start + day) for day in self._days_of_week)
        return [day for day in dates if self._matches(day)]

    def _week_number(self, day: date) -> int:
        return (day.toordinal() - self._week_start - 1) // 7

    def _week_year(self, day: date) -> int:
        """Return the year whose numbered weeks include a date. Week 1 is the week of 4 January."""
        week = self._week_number(day)
        if week < self._week_number(date(day.year, 1, 4)):
            return day.year - 1
        return day.year + (week >= self._week_number(date(day.year + 1, 1, 4)))

    def _matches(self, day: date) -> bool:
        """Return True if a date matches each part that limits dates, except BYWEEKNO (see `_dates_of_weeks`)."""
        if self._months and day.month not in self._months:
            return False
        if self._month_days and not _is_in(self._month_days, *_place_in_month(day)):
            return False
        if self._year_days and not _is_in(self._year_days, *_place_in_year(day)):
            return False
        weekday = day.weekday()
        if not self._weekdays or (0, weekday) in self._weekdays:
            return True
        number, length = _place_in_month(day) if self._counts_in_month else _place_in_year(day)
        from_start, from_end = (number - 1) // 7 + 1, (number - length - 1) // 7
        return (from_start, weekday) in self._weekdays or (from_end, weekday) in self._weekdays


def _with_days_of_start(rule: Rule, first: datetime) -> dict[str, str]:
    """Return the parts of a rule, with the days of the start if the rule names none."""
    parts = dict(rule.parts)
    if any(name in parts for name in _NAME_DAYS) or rule.frequency == "DAILY":
        return parts
    if rule.frequency == "WEEKLY" or "BYWEEKNO" in parts:
        return {**parts, "BYDAY": WEEKDAYS[first.weekday()]}
    month = {"BYMONTH": str(first.month)} if rule.frequency == "YEARLY" else {}
    return {"BYMONTHDAY": str(first.day), **month, **parts}


def _times_of_day(parts: dict[str, str], first: datetime) -> list[time]:
    defaults = zip(TIMES, (first.hour, first.minute, first.second), strict=True)
    each = (_numbers(parts.get(name, str(default))) for name, default in defaults)
    return sorted(time(hour, minute, second, first.microsecond) for hour, minute, second in product(*each))


def _numbers(text: str | None) -> frozenset[int]:
    return frozenset(map(int, text.split(","))) if text else frozenset()


def _is_in(numbers: frozenset[int], number: int, length: int) -> bool:
    """Return True if a position from 1 to `length` is among numbers, of which negative ones count from the end."""
    return number in numbers or number - length - 1 in numbers


def _month_number(day: date) -> int:
    return 12 * day.year + day.month - 1


def _place_in_month(day: date) -> tuple[int, int]:
    """Return the number of a date within its month, and the number of days of the month."""
    return day.day, _length_of_month(day.year, day.month)


@lru_cache(maxsize=4096)
def _length_of_month(year: int, month: int) -> int:
    return monthrange(year, month)[1]


def _place_in_year(day: date) -> tuple[int, int]:
    """Return the number of a date within its year, and the number of days of the year."""
    return (day - date(day.year - 1, 12, 31)).days, 365 + isleap(day.year)
