"""The wall-clock times that a rule has, found from close to where they are wanted."""

from __future__ import annotations

from calendar import monthrange
from collections.abc import Iterator, Mapping
from datetime import MAXYEAR, datetime, time, timedelta
from itertools import chain, islice, product
from math import prod
from typing import Final

from dateutil.rrule import rrulestr

from src.database.repositories.recurrence_rule import TIMES, WEEKDAYS, Rule

__all__ = ["has_first", "times_of"]

_DAY: Final = timedelta(days=1)
_SAY_DAYS: Final = frozenset({"BYDAY", "BYMONTHDAY", "BYYEARDAY", "BYWEEKNO"})


def times_of(rule: Rule, first: datetime, since: datetime, last: datetime) -> Iterator[datetime]:
    """Go through the wall-clock times of a series, in order, from one to another, both included.

    Args:
        rule: Its rule; UNTIL is not looked at.
        first: Its start, which counts as an occurrence also where the rule has none there.
        since: From.
        last: Until.
    """
    fraction = timedelta(microseconds=first.microsecond)  # the library drops it
    begin = first - fraction
    by_rule = (one + fraction for one in _by_rule(rule, begin, since, last) if one > begin)
    every = islice(chain([first], by_rule), rule.count)
    return (one for one in every if since <= one <= last)


def has_first(rule: Rule, first: datetime) -> bool:
    """Say whether a series' start is where its rule has an occurrence."""
    begin = first.replace(microsecond=0)
    return any(one == begin for one in _by_rule(rule, begin, begin, begin))


def _by_rule(rule: Rule, begin: datetime, since: datetime, last: datetime) -> Iterator[datetime]:
    """Begin close to what is wanted: what is counted is gone through from its start, and costs COUNT at most."""
    near = since if rule.count is None else begin
    if rule.frequency == "DAILY":
        return _daily(rule, begin + _periods(begin, near, rule.interval * _DAY), last)
    if rule.frequency == "WEEKLY":
        week = 7 * _DAY
        return _by_library(rule.unbounded(), begin + _periods(begin, near - week, rule.interval * week), last)
    return _by_calendar(rule, begin, near, last)


def _periods(begin: datetime, near: datetime, period: timedelta) -> timedelta:
    """Say how far whole periods reach, of those that end before an instant."""
    return max(0, (near - begin) // period - 1) * period


def _daily(rule: Rule, begin: datetime, last: datetime) -> Iterator[datetime]:
    """Go through the days here: the library would go through each time of each day that the rule does not have."""
    picks, times = _DayPicker(rule.parts), _times_of_day(rule.parts, begin)
    step = rule.interval * _DAY
    day = datetime.combine(begin, time())
    while day <= last:
        if picks(day):
            yield from (day + one for one in times if day + one <= last)
        day += step if picks.has_month(day) else -(-_until_next_month(day) // step) * step


def _until_next_month(day: datetime) -> timedelta:
    return (monthrange(day.year, day.month)[1] - day.day + 1) * _DAY


def _times_of_day(parts: Mapping[str, str], begin: datetime) -> list[timedelta]:
    hours, minutes, seconds = (
        {int(one) for one in parts.get(name, str(default)).split(",")}
        for name, default in (("BYHOUR", begin.hour), ("BYMINUTE", begin.minute), ("BYSECOND", begin.second))
    )
    times = sorted(timedelta(hours=h, minutes=m, seconds=s) for h, m, s in product(hours, minutes, seconds))
    if "BYSETPOS" not in parts:
        return times
    wanted = {int(one) for one in parts["BYSETPOS"].split(",")}
    return [one for n, one in enumerate(times) if n + 1 in wanted or n - len(times) in wanted]


class _DayPicker:
    """What limits a daily rule to some days."""

    def __init__(self, parts: Mapping[str, str]) -> None:
        self._months = {int(one) for one in parts.get("BYMONTH", "").split(",") if one}
        self._days = {int(one) for one in parts.get("BYMONTHDAY", "").split(",") if one}
        self._weekdays = {WEEKDAYS.index(one) for one in parts.get("BYDAY", "").split(",") if one}

    def has_month(self, day: datetime) -> bool:
        return not self._months or day.month in self._months

    def __call__(self, day: datetime) -> bool:
        if not self.has_month(day):
            return False
        if self._weekdays and day.weekday() not in self._weekdays:
            return False
        if not self._days or day.day in self._days:
            return True
        return day.day - monthrange(day.year, day.month)[1] - 1 in self._days


def _by_calendar(rule: Rule, begin: datetime, near: datetime, last: datetime) -> Iterator[datetime]:
    """Go through months or years from the first day of one: the day that the start has is said in the rule.

    The library looks at the end only where it finds something, be it in the year 9999 (30 February): so it is asked
    close to that year. The calendar repeats itself every 400.
    """
    monthly = rule.frequency == "MONTHLY"
    parts = _with_days_of(rule, begin)
    months = 12 * (near.year - begin.year) + near.month - begin.month if monthly else 12 * (near.year - begin.year)
    period = rule.interval * (1 if monthly else 12)
    month = 12 * begin.year + (begin.month - 1 if monthly else 0) + max(0, months // period) * period
    if month >= 12 * (last.year + 1) or not _reach_positions(parts, monthly=monthly):
        return
    years = 400 * ((MAXYEAR - last.year) // 400)
    start = begin.replace(year=month // 12 + years, month=month % 12 + 1, day=1)
    for one in _by_library(parts, start, last.replace(year=last.year + years)):
        yield one.replace(year=one.year - years)


def _with_days_of(rule: Rule, begin: datetime) -> dict[str, str]:
    """Say which day a rule means that leaves it to its start."""
    parts = rule.unbounded()
    if "BYWEEKNO" in parts and not {"BYDAY", "BYMONTHDAY", "BYYEARDAY"} & parts.keys():
        parts["BYDAY"] = WEEKDAYS[begin.weekday()]  # the library would take the whole week
    if not _SAY_DAYS & parts.keys():
        parts["BYMONTHDAY"] = str(begin.day)
        if rule.frequency == "YEARLY":
            parts.setdefault("BYMONTH", str(begin.month))
    return parts


def _reach_positions(parts: dict[str, str], *, monthly: bool) -> bool:
    """Leave out the positions that no period has: the library looks for each of them in every one. Say if any is left.

    How many days a period can have, by each part that picks some.
    """
    if "BYSETPOS" not in parts:
        return True
    weeks, months = (5, 1) if monthly else (53, 12)
    most_by = {"BYDAY": weeks, "BYMONTHDAY": months, "BYYEARDAY": 1, "BYWEEKNO": 7, "BYMONTH": 31}
    days = min([31 * months, *(n * len(parts[name].split(",")) for name, n in most_by.items() if name in parts)])
    times = prod(len(set(parts.get(name, "").split(","))) for name in TIMES)
    reached = [one for one in parts["BYSETPOS"].split(",") if abs(int(one)) <= days * times]
    parts["BYSETPOS"] = ",".join(reached)
    return bool(reached)


def _by_library(parts: Mapping[str, str], start: datetime, last: datetime) -> Iterator[datetime]:
    parts = {"WKST": "MO", **parts}  # else the library asks the process for the week's first day
    text = ";".join(f"{name}={value}" for name, value in parts.items())
    yield from rrulestr(text, dtstart=start).replace(until=last)  # type: ignore[union-attr] # it is one rule
