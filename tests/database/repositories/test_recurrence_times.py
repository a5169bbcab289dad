"""The times that a rule has: found near the window, the same as from the start on, and soon."""

from __future__ import annotations

import random
import time
from datetime import UTC, datetime, timedelta
from zoneinfo import ZoneInfo

import pytest
from dateutil.rrule import rrulestr

from src.database.repositories.recurrence import Series
from src.database.repositories.recurrence_rule import check_rrule, parse_rrule
from src.database.repositories.recurrence_times import times_of
from tests.database.repositories.random_rules import DAYS, series

HOURS = ",".join(map(str, range(24)))
WEEK = ",".join(DAYS)
POSITIONS = ",".join(map(str, range(100, 367)))
FREQUENCIES = ("DAILY", "WEEKLY", "MONTHLY", "YEARLY")


def random_text(dice: random.Random) -> str:
    """Make a rule of parts that few calendars write; its first window is years after its start."""

    def some(of: range | list[int] | tuple[str, ...], most: int) -> str:
        return ",".join(map(str, dice.sample(list(of), dice.randint(1, most))))

    frequency = dice.choice(FREQUENCIES)
    parts = [f"FREQ={frequency};INTERVAL={dice.choice([1, 2, 3, 7, 13])};WKST={dice.choice(DAYS)}"]
    if dice.random() < 0.4:
        parts.append(f"BYMONTH={some(range(1, 13), 4)}")
    if frequency != "WEEKLY" and dice.random() < 0.4:
        parts.append(f"BYMONTHDAY={some([1, 13, 28, 29, 30, 31, -1, -2, -31], 4)}")
    if frequency == "YEARLY" and dice.random() < 0.2:
        parts.append(f"BYWEEKNO={some([1, 20, 52, 53, -1], 2)};BYDAY={some(DAYS, 3)}")
    elif dice.random() < 0.4:
        nth = dice.choice(["", "1", "2", "-1", "5"]) if frequency in {"MONTHLY", "YEARLY"} else ""
        parts.append(f"BYDAY={','.join(nth + day for day in dice.sample(DAYS, dice.randint(1, 7)))}")
    if dice.random() < 0.3:
        parts.append(f"BYHOUR={some(range(24), 3)}")
    if frequency in {"MONTHLY", "YEARLY"} and len(parts) > 1 and dice.random() < 0.3:
        parts.append(f"BYSETPOS={some([1, 2, -1, 5, 40, -3, 366], 3)}")
    return ";".join(parts)


def by_the_library(text: str, first: datetime, last: datetime) -> list[datetime]:
    """Ask for it 7600 years later, when the calendar is the same: a rule without times is gone through until 9999."""
    later = 7600
    made = rrulestr(text, dtstart=first.replace(year=first.year + later))
    until = last.replace(year=last.year + later)
    return [one.replace(year=one.year - later) for one in made.replace(until=until)]  # type: ignore[union-attr] # it is one rule


def test_60_random_rules_begin_near_the_window_and_have_the_same_times() -> None:
    dice = random.Random(3310)  # noqa: S311 - rules that repeat
    compared = 0
    for _ in range(60):
        text = random_text(dice)
        first = datetime(dice.randint(1990, 2000), dice.randint(1, 12), 1, 9) + timedelta(days=dice.randint(0, 30))  # noqa: DTZ001
        since = datetime(dice.randint(1999, 2012), dice.randint(1, 12), dice.randint(1, 28), 9)  # noqa: DTZ001
        last = since + timedelta(days=dice.choice([1, 40, 400]))
        count = dice.choice([None, None, None, 40, 400])

        begun = [first, *(one for one in by_the_library(text, first, last) if one > first)]
        expected = [one for one in begun[:count] if since <= one <= last]
        rule = parse_rrule(text if count is None else f"{text};COUNT={count}")
        assert list(times_of(rule, first, since, last)) == expected, (str(rule), first, since)
        compared += len(expected)

    assert compared > 300


@pytest.mark.parametrize(
    "rule",
    [
        f"FREQ=YEARLY;BYDAY={WEEK};BYHOUR={HOURS}",
        f"FREQ=YEARLY;BYDAY={WEEK};BYHOUR={HOURS};COUNT=10000",
        f"FREQ=MONTHLY;BYDAY={WEEK};BYHOUR={HOURS}",
        f"FREQ=WEEKLY;BYDAY={WEEK};BYHOUR={HOURS}",
        f"FREQ=DAILY;BYHOUR={HOURS};BYMONTH=2;BYMONTHDAY=30;COUNT=10000",
        "FREQ=MONTHLY;BYMONTH=2;BYMONTHDAY=30;COUNT=10000",
        f"FREQ=MONTHLY;BYDAY=MO;BYSETPOS={POSITIONS};COUNT=10000",
        f"FREQ=YEARLY;BYDAY=MO;BYSETPOS={POSITIONS}",
    ],
)
def test_no_legal_rule_keeps_the_loop_from_its_turn(rule: str) -> None:
    check_rrule(rule, all_day=False)
    one = Series(series(datetime(1900, 1, 1, 9), ZoneInfo("Europe/Madrid"), rule))  # noqa: DTZ001
    before = time.process_time()

    one.earliest(datetime(2199, 12, 1, tzinfo=UTC), datetime(2199, 12, 2, tzinfo=UTC), replaced=(), limit=1000)
    one.after(datetime(2026, 11, 22, tzinfo=UTC))

    assert time.process_time() - before < 1, "it took many"
