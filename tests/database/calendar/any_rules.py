"""Random rules with every supported part, in unusual combinations."""

from __future__ import annotations

import random
from datetime import UTC, datetime, timedelta
from typing import NamedTuple
from zoneinfo import ZoneInfo

from tests.database.calendar.rfc5545 import WEEK, instant_of

FREQUENCIES = ("DAILY", "WEEKLY", "MONTHLY", "YEARLY")
ZONES = ("UTC", "UTC", "Europe/Madrid", "Australia/Lord_Howe", "America/Mexico_City")
DAYS_OF_WINDOW = {"DAILY": 40, "WEEKLY": 90, "MONTHLY": 250, "YEARLY": 800}


class Case(NamedTuple):
    """A series, and the window in which its occurrences are compared."""

    rule: str
    first: datetime
    zone: ZoneInfo
    all_day: bool
    window: tuple[datetime, datetime]


def random_case(dice: random.Random) -> Case:
    """Return a series from the late 1990s, and a window near its start or years later."""
    zone, all_day = ZoneInfo(dice.choice(ZONES)), dice.random() < 0.15
    first = datetime(dice.randint(1995, 1999), 1, 1) + timedelta(days=dice.randint(0, 364))  # noqa: DTZ001
    if not all_day:
        first += timedelta(minutes=15 * dice.randint(0, 95), microseconds=dice.choice([0, 0, 0, 5]))
    frequency = dice.choice(FREQUENCIES)
    parts = [f"FREQ={frequency}", *by_parts(dice, frequency, all_day=all_day)]
    if dice.random() < 0.5:
        parts.append(f"INTERVAL={dice.choice([1, 2, 2, 3, 4, 7, 13])}")
    if dice.random() < 0.5:
        parts.append(f"WKST={dice.choice(WEEK)}")
    near = first + timedelta(days=dice.choice([-2, 0, 1, 30, 400, 2000]))
    days = timedelta(days=DAYS_OF_WINDOW[frequency] * dice.uniform(0.5, 1))
    if (end := dice.random()) < 0.25:
        parts.append(f"COUNT={dice.choice([1, 3, 10, 40, 400])}")
    elif end < 0.5:
        last = near + days * dice.random() + timedelta(seconds=1)
        parts.append(f"UNTIL={last:%Y%m%d}" if all_day else f"UNTIL={instant_of(last, zone):%Y%m%dT%H%M%SZ}")
    dice.shuffle(parts)
    start = near.replace(tzinfo=UTC)
    return Case(";".join(parts), first, zone, all_day, (start, start + days))


def by_parts(dice: random.Random, frequency: str, *, all_day: bool) -> list[str]:
    """Return parts that the frequency can have, BYSETPOS among them."""
    values = by_days(dice, frequency)
    if not all_day:
        for name, limit, likely in (("BYHOUR", 24, 0.25), ("BYMINUTE", 60, 0.1), ("BYSECOND", 60, 0.05)):
            if dice.random() < likely:
                values[name] = some(dice, range(limit), 3)
    times = 1
    for name in ("BYHOUR", "BYMINUTE", "BYSECOND"):
        times *= len(values.get(name, "x"))
    if times > 24:
        del values["BYSECOND"]
    if values and dice.random() < 0.35:
        # What a day or a week cannot have is refused.
        most = {"DAILY": times, "WEEKLY": times * len(values.get("BYDAY", "x")), "MONTHLY": 12, "YEARLY": 60}[frequency]
        numbers = [n for n in range(1, most + 1) if n < 9 or dice.random() < 0.1]
        values["BYSETPOS"] = some(dice, [*numbers, *(-n for n in numbers)], 3)
    return [f"{name}={','.join(items)}" for name, items in values.items()]


def by_days(dice: random.Random, frequency: str) -> dict[str, list[str]]:
    """Return the parts that pick dates, with their items; none, one or several."""
    values: dict[str, list[str]] = {}
    if dice.random() < 0.3:
        values["BYMONTH"] = some(dice, range(1, 13), 4)
    if frequency != "WEEKLY" and dice.random() < 0.3:
        values["BYMONTHDAY"] = some(dice, [1, 2, 13, 15, 28, 29, 30, 31, -1, -2, -30, -31], 5)
    if frequency == "YEARLY" and dice.random() < 0.3:
        values["BYWEEKNO"] = some(dice, [1, 2, 20, 51, 52, 53, -1, -2, -52, -53], 4)
    if frequency == "YEARLY" and dice.random() < 0.2:
        values["BYYEARDAY"] = some(dice, [*range(1, 60), 100, 200, 365, 366, -1, -31, -100, -365, -366], 30)
    if dice.random() < 0.5:
        counts = [""] * 4
        if frequency in {"MONTHLY", "YEARLY"} and "BYWEEKNO" not in values:
            counts += ["1", "+2", "-1", "5", "-5"]
            if frequency == "YEARLY" and "BYMONTH" not in values:
                counts += ["20", "52", "53", "-53"]
        values["BYDAY"] = [dice.choice(counts) + day for day in dice.sample(WEEK, dice.randint(1, 7))]
    return values


def some(dice: random.Random, of: range | list[int], most: int) -> list[str]:
    return [str(one) for one in dice.sample(of, dice.randint(1, min(most, len(of))))]
