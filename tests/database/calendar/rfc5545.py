"""Recurrence sets by brute force, from the text of RFC 5545 alone: every day is tried against every part of the rule.

This module imports nothing of the package and no recurrence library. A start that the rule does not produce counts as
the first occurrence (3.8.5.3). Of the parts, those are implemented that the package accepts.
"""

from __future__ import annotations

from bisect import bisect_left
from datetime import UTC, date, datetime, time, timedelta
from functools import lru_cache
from itertools import product
from operator import attrgetter
from typing import NamedTuple
from zoneinfo import ZoneInfo

WEEK = ("MO", "TU", "WE", "TH", "FR", "SA", "SU")
DAY = timedelta(days=1)
# No set is longer. The sets of the first days are incomplete, so brute force begins two of them early.
LONGEST_SET = {"DAILY": DAY, "WEEKLY": 7 * DAY, "MONTHLY": 31 * DAY, "YEARLY": 371 * DAY}


class Facts(NamedTuple):
    """The ordinals of a date as the RFC defines them, counted from the start and from the end."""

    day: date
    month: list[str]
    month_day: list[str]
    year_day: list[str]
    weekday_in_month: list[str]
    weekday_in_year: list[str]
    week_number: list[str]
    week: int
    week_year: int


def occurrences(rule: str, dtstart: datetime, zone: ZoneInfo, window: tuple[datetime, datetime]) -> list[datetime]:
    """Return the instants of a series that starts at a local time, in order, in a half-open window of instants."""
    start, end = window
    local_start, local_end = (one.astimezone(zone).replace(tzinfo=None) for one in window)
    found = set[datetime]()
    for local in local_times(rule, dtstart, local_start - 3 * DAY, local_end + 3 * DAY):
        instant = instant_of(local, zone)
        if start <= instant < end and not is_past_until(rule, local, instant):
            found.add(instant)
    return sorted(found)


def local_times(rule: str, dtstart: datetime, since: datetime, last: datetime) -> list[datetime]:
    """Return the local times of a rule in [since, last], without regard to UNTIL."""
    parts = parts_of(rule, dtstart)
    near = dtstart if "COUNT" in parts else max(dtstart, since)
    begin = near.date() - 2 * LONGEST_SET[parts["FREQ"]]
    end = last.date() + LONGEST_SET[parts["FREQ"]]
    years = range(begin.year, end.year + 1)
    days = [one for year in years for one in facts_of(year, parts["WKST"]) if begin <= one.day <= end]
    for name, column in columns_of(parts).items():
        if name in parts:
            wanted, ordinals = listed(parts[name]), attrgetter(column)
            days = [one for one in days if not wanted.isdisjoint(ordinals(one))]
    sets: dict[int, list[date]] = {}
    for one in days:
        sets.setdefault(interval_of(parts, one), []).append(one.day)
    first = next(interval_of(parts, one) for one in facts_of(dtstart.year, parts["WKST"]) if one.day == dtstart.date())
    step = int(parts.get("INTERVAL", "1"))
    at = times_of_day(parts, dtstart)
    found = [dtstart] if near == dtstart else []
    for number in sorted(sets):
        if number >= first and (number - first) % step == 0:
            times = by_position(parts, [datetime.combine(*pair) for pair in product(sets[number], at)])
            found += [one for one in times if one > dtstart]
    return [one for one in found[: int(parts.get("COUNT", len(found)))] if since <= one <= last]


def parts_of(rule: str, dtstart: datetime) -> dict[str, str]:
    """Return the parts of a rule, with the days that it leaves to DTSTART.

    "Information, not contained in the rule, necessary to determine the various recurrence instance start time and dates
    are derived from the Start Time (DTSTART) component attribute."
    """
    parts = {"WKST": "MO", **dict(part.split("=") for part in rule.split(";"))}
    weekday = WEEK[dtstart.weekday()]
    if parts["FREQ"] == "WEEKLY":
        parts.setdefault("BYDAY", weekday)
    elif parts["FREQ"] != "DAILY" and not parts.keys() & {"BYDAY", "BYMONTHDAY", "BYYEARDAY"}:
        if "BYWEEKNO" in parts:
            parts["BYDAY"] = weekday
        else:
            parts["BYMONTHDAY"] = str(dtstart.day)
            if parts["FREQ"] == "YEARLY":
                parts.setdefault("BYMONTH", str(dtstart.month))
    return parts


def columns_of(parts: dict[str, str]) -> dict[str, str]:
    """Return, for each part that picks dates, the column of `Facts` that it is compared with.

    BYDAY counts "within the MONTHLY or YEARLY"; with BYMONTH it is a "special expand for MONTHLY".
    """
    in_month = parts["FREQ"] == "MONTHLY" or "BYMONTH" in parts
    return {
        "BYMONTH": "month",
        "BYWEEKNO": "week_number",
        "BYYEARDAY": "year_day",
        "BYMONTHDAY": "month_day",
        "BYDAY": "weekday_in_month" if in_month else "weekday_in_year",
    }


@lru_cache(maxsize=4096)
def listed(text: str) -> frozenset[str]:
    return frozenset(item.removeprefix("+") for item in text.split(","))


def interval_of(parts: dict[str, str], facts: Facts) -> int:
    """Return the number of the interval that a date belongs to; a numbered week belongs to its own year, whole."""
    match parts["FREQ"]:
        case "DAILY":
            return facts.day.toordinal()
        case "WEEKLY":
            return facts.week
        case "MONTHLY":
            return 12 * facts.day.year + facts.day.month
        case _:
            return facts.week_year if "BYWEEKNO" in parts else facts.day.year


def times_of_day(parts: dict[str, str], dtstart: datetime) -> list[time]:
    defaults = {"BYHOUR": dtstart.hour, "BYMINUTE": dtstart.minute, "BYSECOND": dtstart.second}
    lists = [[int(one) for one in listed(parts.get(name, str(value)))] for name, value in defaults.items()]
    return sorted(time(hour, minute, second, dtstart.microsecond) for hour, minute, second in product(*lists))


def by_position(parts: dict[str, str], times: list[datetime]) -> list[datetime]:
    """Return what BYSETPOS picks: "the nth occurrence within the set of recurrence instances" of one interval."""
    if "BYSETPOS" not in parts:
        return times
    positions = [int(one) for one in listed(parts["BYSETPOS"])]
    return [one for n, one in enumerate(times) if n + 1 in positions or n - len(times) in positions]


@lru_cache(maxsize=512)
def facts_of(year: int, wkst: str) -> list[Facts]:
    """Return the facts of each date of a year, as the RFC defines them."""
    found = []
    for day in days_of(year):
        weekday = WEEK[day.weekday()]
        week = week_of(day, wkst)
        # "the first week that contains at least four (4) days in that calendar year": of any four, the fourth is one
        week_year = week[3].year
        facts = Facts(
            day=day,
            month=[str(day.month)],
            month_day=both_ways(days_of(year, day.month), day),
            year_day=both_ways(days_of(year), day),
            weekday_in_month=[weekday, *(n + weekday for n in both_ways(days_of(year, day.month, day.weekday()), day))],
            weekday_in_year=[weekday, *(n + weekday for n in both_ways(days_of(year, None, day.weekday()), day))],
            week_number=both_ways(days_of(week_year, None, week[3].weekday()), week[3]),
            week=(week[0] - date(1, 1, 1)).days // 7,
            week_year=week_year,
        )
        found.append(facts)
    return found


def both_ways(days: list[date], day: date) -> list[str]:
    """Return the ordinal of a date among dates: from the start, and as a negative number from the end."""
    index = bisect_left(days, day)
    return [str(index + 1), str(index - len(days))]


def week_of(day: date, wkst: str) -> list[date]:
    while WEEK[day.weekday()] != wkst:
        day -= DAY
    return [day + n * DAY for n in range(7)]


@lru_cache(maxsize=4096)
def days_of(year: int, month: int | None = None, weekday: int | None = None) -> list[date]:
    """Return the dates of a year, of one of its months, of one weekday in either."""
    first, following = date(year, 1, 1), date(year + 1, 1, 1)
    days = [first + n * DAY for n in range((following - first).days)]
    return [one for one in days if month in {None, one.month} and weekday in {None, one.weekday()}]


def instant_of(local: datetime, zone: ZoneInfo) -> datetime:
    """Return the instant of a local time (3.3.5): the first of two; in a gap "the UTC offset before the gap"."""
    utc = local.replace(tzinfo=UTC)
    before, after = (zone.utcoffset((utc + by).astimezone(zone)) or timedelta() for by in (-2 * DAY, 2 * DAY))
    instants = [one for one in (utc - before, utc - after) if one.astimezone(zone).replace(tzinfo=None) == local]
    return min(instants, default=utc - before)


def is_past_until(rule: str, local: datetime, instant: datetime) -> bool:
    """Return True if an occurrence is after UNTIL, which "bounds the recurrence rule in an inclusive manner"."""
    until = dict(part.split("=") for part in rule.split(";")).get("UNTIL")
    if until is None:
        return False
    if "T" in until:
        return instant > datetime.strptime(until, "%Y%m%dT%H%M%SZ").replace(tzinfo=UTC)
    return local.date() > datetime.strptime(until, "%Y%m%d").replace(tzinfo=UTC).date()
