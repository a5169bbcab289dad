"""Recurrence rules (RFC 5545, section 3.3.10): parse and check them, end them, and move them to other days."""

from __future__ import annotations

import re
from calendar import monthrange
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, date, datetime, time, timedelta
from functools import lru_cache
from math import prod
from types import MappingProxyType
from typing import Final

MAX_LENGTH: Final = 2000
MAX_COUNT: Final = 10_000
MAX_TIMES_A_DAY: Final = 24
FIRST_YEAR, LAST_YEAR = 1900, 2199
"""The years that are expanded. A later UNTIL is dropped: some calendars write the year 9999 for an endless series."""
MOST_OF_A_WEEKDAY: Final = {"month": 5, "year": 53}

_FREQUENCIES: Final = ("DAILY", "WEEKLY", "MONTHLY", "YEARLY")
WEEKDAYS: Final = ("MO", "TU", "WE", "TH", "FR", "SA", "SU")
TIMES: Final = ("BYHOUR", "BYMINUTE", "BYSECOND")
# The smallest and the greatest number, and whether a minus sign counts from the end.
_NUMBERS: Final[Mapping[str, tuple[int, int, bool]]] = {
    "BYMONTH": (1, 12, False),
    "BYMONTHDAY": (1, 31, True),
    "BYYEARDAY": (1, 366, True),
    "BYWEEKNO": (1, 53, True),
    "BYSETPOS": (1, 366, True),
    "BYHOUR": (0, 23, False),
    "BYMINUTE": (0, 59, False),
    "BYSECOND": (0, 59, False),
    "INTERVAL": (1, 9999, False),
    "COUNT": (1, MAX_COUNT, False),
}
_SINGLE: Final = frozenset({"INTERVAL", "COUNT"})
_KNOWN: Final = frozenset({"FREQ", "UNTIL", "BYDAY", "WKST", *_NUMBERS})
# Combinations that the table of section 3.3.10 marks as "N/A".
_NOT_WITH: Final[Mapping[str, tuple[str, ...]]] = {
    "BYMONTHDAY": ("WEEKLY",),
    "BYYEARDAY": ("DAILY", "WEEKLY", "MONTHLY"),
    "BYWEEKNO": ("DAILY", "WEEKLY", "MONTHLY"),
}
_DAYS_IN_EACH_MONTH: Final = 28
_LEAP_DAY: Final = (2, 29)
_FIX_DAYS: Final = ("BYMONTH", "BYMONTHDAY", "BYYEARDAY", "BYWEEKNO", "BYSETPOS")
_DAY: Final = re.compile(r"(?P<nth>[+-]?[1-9][0-9]?)?(?:MO|TU|WE|TH|FR|SA|SU)")
_NUMBER: Final = re.compile(r"[+-]?[0-9]{1,5}")
_UNTIL: Final = re.compile(r"[0-9]{8}(T[0-9]{6}Z)?")


@dataclass(frozen=True, slots=True)
class Rule:
    """A checked rule: its parts in upper case, and the two parts that can end it."""

    parts: Mapping[str, str]
    count: int | None
    until: datetime | date | None
    """An instant in UTC, or the last date."""

    def __str__(self) -> str:
        return ";".join(f"{name}={value}" for name, value in self.parts.items())

    @property
    def frequency(self) -> str:
        """DAILY, WEEKLY, MONTHLY or YEARLY."""
        return self.parts["FREQ"]

    @property
    def interval(self) -> int:
        """The number of days, weeks, months or years between two sets of occurrences."""
        return int(self.parts.get("INTERVAL", "1"))

    def unbounded(self) -> dict[str, str]:
        """Return the parts without COUNT and UNTIL."""
        return {name: value for name, value in self.parts.items() if name not in {"COUNT", "UNTIL"}}

    def ending(self, until: datetime | date) -> Rule:
        """Return the rule with this UNTIL, in place of its COUNT or UNTIL."""
        return _rule({**self.unbounded(), "UNTIL": _rendered(until)})

    def counting(self, count: int) -> Rule:
        """Return the rule with this COUNT, in place of its COUNT or UNTIL."""
        return _rule({**self.unbounded(), "COUNT": str(count)})

    def moved(self, before: datetime, after: datetime) -> Rule:
        """Return the rule of a series that moves its occurrence at the local time `before` to the local time `after`.

        Weekdays move too. COUNT and UNTIL stay.

        Raises:
            ValueError: The rule fixes days or times, and how they should move is ambiguous.
        """
        if before.time() != after.time() and any(name in self.parts for name in TIMES):
            raise ValueError("the series' rule fixes its times of day (BYHOUR, BYMINUTE); give the new rule as `rrule`")
        days = (after.date() - before.date()).days
        if days == 0:
            return self
        by_day = "BYDAY" in self.parts
        if any(name in self.parts for name in _FIX_DAYS) or (by_day and self.frequency in {"MONTHLY", "YEARLY"}):
            raise ValueError("the series' rule fixes its days (BYDAY, BYMONTHDAY, …); give the new rule as `rrule`")
        if (self.frequency == "MONTHLY" and max(before.day, after.day) > _DAYS_IN_EACH_MONTH) or (
            self.frequency == "YEARLY" and _LEAP_DAY in {(before.month, before.day), (after.month, after.day)}
        ):
            raise ValueError("some months or years lack the old or the new day; give the new rule as `rrule`")
        if not by_day:
            return self
        week = {"WKST": _turned(self.parts.get("WKST", "MO"), days)} if self.frequency == "WEEKLY" else {}
        turned = ",".join(_turned(day, days) for day in self.parts["BYDAY"].split(","))
        return _rule({**self.parts, "BYDAY": turned, **week})

    def shifted(self, local: datetime, before: datetime, after: datetime) -> datetime:
        """Return the new local time of an occurrence, if `moved` moves the rule from `before` to `after`.

        A rule by days or weeks moves each occurrence by the same time. A rule by months or years that repeats on a day
        of the month moves it by the same number of months, to the new day.
        """
        if self.frequency in {"DAILY", "WEEKLY"} or before.date() == after.date():
            return local + (after - before)
        month = 12 * (local.year + after.year - before.year) + local.month - 1 + after.month - before.month
        year, month = month // 12, month % 12 + 1
        moved = local.replace(year=year, month=month, day=min(after.day, monthrange(year, month)[1]))
        return moved + (after - datetime.combine(after, before.time()))

    def end_shifted(self, until: datetime, before: datetime, after: datetime) -> datetime:
        """Return the new local end of a moved rule, such that it includes the same occurrences as before."""
        if self.frequency in {"DAILY", "WEEKLY"} or before.date() == after.date():
            return until + (after - before)
        month = until if until.day >= before.day else until.replace(day=1) - timedelta(days=1)
        latest = month.replace(day=min(before.day, monthrange(month.year, month.month)[1]))
        if latest == until:
            return self.shifted(until, before, after)
        return datetime.combine(self.shifted(latest, before, after), time(23, 59, 59))


def check_rrule(rrule: str, *, all_day: bool | None = None) -> None:
    """Check that a recurrence rule is valid and supported.

    Supported are the rules of RFC 5545 with FREQ=DAILY, WEEKLY, MONTHLY or YEARLY, at most 24 times a day, with a COUNT
    of at most 10000.

    Args:
        rrule: The value of an RRULE without DTSTART, e.g. `FREQ=WEEKLY;BYDAY=MO,WE`, at most 2000 characters. The start
        is
            that of the event. A trailing semicolon is ignored.
        all_day: True if the event is an all-day event; None if that is unknown, which skips the checks that depend on
        it.

    Raises:
        ValueError: The rule is invalid or not supported, has both COUNT and UNTIL, or its UNTIL is not an instant in
        UTC
            (for an all-day event: not a date).
    """
    rule = parse_rrule(rrule)
    if all_day is None:
        return
    if all_day and any(name in rule.parts for name in TIMES):
        raise ValueError("the rrule of an all-day event must have no BYHOUR, BYMINUTE or BYSECOND")
    if rule.until is not None and isinstance(rule.until, datetime) is all_day:
        wanted = "a date, UNTIL=20300131," if all_day else "in UTC, UNTIL=20300131T225959Z,"
        kind = "an all-day event" if all_day else "an event with a time of day"
        raise ValueError(f"UNTIL must be {wanted} for {kind}, got {rule.parts['UNTIL']}")


@lru_cache(maxsize=1024)
def parse_rrule(rrule: str) -> Rule:
    """Parse a recurrence rule.

    Raises:
        ValueError: The rule is invalid or not supported (see `check_rrule`).
    """
    if not 1 <= len(rrule) <= MAX_LENGTH:
        raise ValueError(f"an rrule must have 1 to {MAX_LENGTH} characters, got {len(rrule)}")
    parts: dict[str, str] = {}
    for part in rrule.upper().removesuffix(";").split(";"):  # Google and Exchange end rules with a semicolon
        name, equals, value = part.partition("=")
        if not equals or name not in _KNOWN:
            raise ValueError(
                "an rrule must have the parts of RFC 5545, e.g. FREQ=WEEKLY;BYDAY=MO, without DTSTART, got"
                f" {part[:20]!r}"
            )
        if name in parts:
            raise ValueError(f"an rrule must have each part once, got {name} twice")
        parts[name] = value
    _check_frequency(parts)
    _check_values(parts)
    _check_together(parts)
    if int(parts.get("UNTIL", "0")[:4]) > LAST_YEAR:
        del parts["UNTIL"]
    return _rule(parts)


def _check_frequency(parts: Mapping[str, str]) -> None:
    if (frequency := parts.get("FREQ")) not in _FREQUENCIES:
        raise ValueError(
            f"FREQ must be one of {', '.join(_FREQUENCIES)}, got {frequency and frequency[:20]!r};"
            " for several times a day, use FREQ=DAILY;BYHOUR=9,13,17"
        )


def _check_values(parts: Mapping[str, str]) -> None:
    for name, value in parts.items():
        items = [value] if name in _SINGLE else value.split(",")
        if name in _NUMBERS and not all(_is_number(item, *_NUMBERS[name]) for item in items):
            first, last, signed = _NUMBERS[name]
            raise ValueError(f"{name} must be from {first} to {last}{' or negative' * signed}, got {value[:20]!r}")
    if not all(map(_DAY.fullmatch, parts.get("BYDAY", "MO").split(","))):
        raise ValueError(f"BYDAY must be weekdays like MO,-1FR, got {parts['BYDAY'][:20]!r}")
    if parts.get("WKST", "MO") not in WEEKDAYS:
        raise ValueError(f"WKST must be a weekday like MO, got {parts['WKST'][:20]!r}")


def _check_together(parts: Mapping[str, str]) -> None:
    """Check which parts may stand together."""
    frequency = parts["FREQ"]
    for name, frequencies in _NOT_WITH.items():
        if name in parts and frequency in frequencies:
            raise ValueError(f"{name} must not be combined with FREQ={frequency}")
    has_nth = any(character.isdigit() for character in parts.get("BYDAY", ""))
    if has_nth and (frequency not in {"MONTHLY", "YEARLY"} or "BYWEEKNO" in parts):
        raise ValueError("BYDAY must have numbers (-1FR) only with FREQ=MONTHLY or YEARLY, and without BYWEEKNO")
    period = "month" if frequency == "MONTHLY" or "BYMONTH" in parts else "year"
    counted = [int(nth) for nth in re.findall(r"[0-9]+", parts.get("BYDAY", ""))]
    if max(counted, default=0) > MOST_OF_A_WEEKDAY[period]:
        raise ValueError(
            f"BYDAY must have numbers up to {MOST_OF_A_WEEKDAY[period]}, the most times that a {period} has a weekday"
        )
    if 0 < int(parts.get("UNTIL", "0")[:4]) < FIRST_YEAR:
        raise ValueError(f"UNTIL must be in the year {FIRST_YEAR} or later, got {parts['UNTIL'][:4]}")
    if "BYSETPOS" in parts and not any(name.startswith("BY") and name != "BYSETPOS" for name in parts):
        raise ValueError("BYSETPOS must be combined with another part whose name begins with BY")
    if "COUNT" in parts and "UNTIL" in parts:
        raise ValueError("an rrule must have COUNT or UNTIL, not both")
    times = prod(_number_of(parts, name) for name in TIMES)
    if times > MAX_TIMES_A_DAY:
        raise ValueError(f"an rrule must repeat at most {MAX_TIMES_A_DAY} times a day, got {times}")
    most = {"DAILY": times, "WEEKLY": times * _number_of(parts, "BYDAY")}.get(frequency)
    if most is not None and any(abs(int(one)) > most for one in parts.get("BYSETPOS", "1").split(",")):
        raise ValueError(f"BYSETPOS must be at most {most}, the number of occurrences in each period")


def _number_of(parts: Mapping[str, str], name: str) -> int:
    return len(set(parts.get(name, "").split(",")))


def _is_number(text: str, first: int, last: int, signed: bool) -> bool:
    if not _NUMBER.fullmatch(text) or (not signed and text[0] in "+-"):
        return False
    return first <= (abs(int(text)) if signed else int(text)) <= last


def _rule(parts: Mapping[str, str]) -> Rule:
    until = _instant_or_date(parts["UNTIL"]) if "UNTIL" in parts else None
    return Rule(MappingProxyType(dict(parts)), int(parts["COUNT"]) if "COUNT" in parts else None, until)


def _instant_or_date(text: str) -> datetime | date:
    try:
        until = datetime.fromisoformat(text if _UNTIL.fullmatch(text) else "")
    except ValueError as error:
        raise ValueError(
            f"UNTIL must be an instant in UTC, UNTIL=20300131T225959Z, or a date, got {text[:20]!r}"
        ) from error
    return until if "T" in text else until.date()


def _rendered(until: datetime | date) -> str:
    if isinstance(until, datetime):
        until = until.astimezone(UTC)
        return f"{until.year:04}{until:%m%dT%H%M%SZ}"
    return f"{until.year:04}{until:%m%d}"


def _turned(day: str, days: int) -> str:
    return WEEKDAYS[(WEEKDAYS.index(day) + days) % len(WEEKDAYS)]
