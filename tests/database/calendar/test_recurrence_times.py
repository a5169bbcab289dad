"""The local times of a rule: as RFC 5545 defines them, and computed without iterating from the start."""

from __future__ import annotations

import random
import time
from datetime import UTC, datetime
from zoneinfo import ZoneInfo

import pytest

from src.database.calendar import Series, check_rrule, parse_rrule, times_of
from tests.database.calendar.any_rules import random_case
from tests.database.calendar.random_rules import DAYS, series
from tests.database.calendar.rfc5545 import local_times, occurrences

HOURS = ",".join(map(str, range(24)))
WEEK = ",".join(DAYS)
POSITIONS = ",".join(map(str, range(100, 367)))
SEEDS = range(4)


@pytest.mark.slow
@pytest.mark.parametrize("seed", SEEDS)
def test_random_rules_are_expanded_as_brute_force_expands_them(seed: int, *, is_long: bool) -> None:
    """500 rules, or 20,000 with `--long`: of every part that is accepted, in zones, with COUNT, UNTIL and `exdates`."""
    rules = (20_000 if is_long else 500) // len(SEEDS)
    dice = random.Random(f"3.3.10 {seed}")  # noqa: S311 - rules that repeat
    compared = 0
    for _ in range(rules):
        case = random_case(dice)
        check_rrule(case.rule, all_day=case.all_day)
        event = series(case.first, case.zone, case.rule, all_day=case.all_day)
        event.end_datetime = None
        found = occurrences(case.rule, event.start_local, case.zone, case.window)
        event.exdates = dice.sample(found, len(found) // 5)

        expected = [one for one in found if one not in event.exdates]
        assert sorted(slot.start for slot in Series(event).between(*case.window)) == expected, case
        compared += len(expected)

    assert compared > 5 * rules


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
def test_no_valid_rule_blocks_the_event_loop(rule: str) -> None:
    check_rrule(rule, all_day=False)
    one = Series(series(datetime(1900, 1, 1, 9), ZoneInfo("Europe/Madrid"), rule))  # noqa: DTZ001
    before = time.process_time()

    one.earliest(datetime(2199, 12, 1, tzinfo=UTC), datetime(2199, 12, 2, tzinfo=UTC), replaced=(), limit=1000)
    one.after(datetime(2026, 11, 22, tzinfo=UTC))

    assert time.process_time() - before < 1, "expansion is too slow"


@pytest.mark.parametrize(
    ("rule", "first", "expected"),
    [
        ("FREQ=MONTHLY;BYDAY=MO,-1WE;COUNT=7", "2026-03-02", "03-02 03-09 03-16 03-23 03-25 03-30 04-06"),
        ("FREQ=YEARLY;BYMONTH=3;BYDAY=1MO,WE;COUNT=7", "2026-03-02", "03-02 03-04 03-11 03-18 03-25 03-01 03-03"),
        ("FREQ=YEARLY;BYDAY=FR,1MO;BYMONTHDAY=5;COUNT=4", "2026-01-05", "01-05 06-05 02-05 03-05"),
        ("FREQ=WEEKLY;BYDAY=MO,WE,FR;BYSETPOS=1;COUNT=3", "2026-03-03", "03-03 03-09 03-16"),
        ("FREQ=WEEKLY;BYDAY=MO,WE,FR;BYSETPOS=2;COUNT=3", "2026-03-04", "03-04 03-11 03-18"),
        ("FREQ=WEEKLY;BYDAY=MO,WE,FR;BYSETPOS=-3;WKST=WE;COUNT=3", "2026-03-05", "03-05 03-11 03-18"),
        ("FREQ=WEEKLY;INTERVAL=2;BYDAY=SU,MO;BYSETPOS=1;WKST=SU;COUNT=3", "2026-03-02", "03-02 03-15 03-29"),
        ("FREQ=MONTHLY;BYDAY=MO;BYHOUR=8,9;BYSETPOS=1;BYMINUTE=0;COUNT=2", "2026-03-02", "03-02 04-06"),
        ("FREQ=YEARLY;BYWEEKNO=52;BYDAY=SA,SU;COUNT=6", "2009-12-26", "12-26 12-27 01-01 01-02 12-31 01-01"),
        ("FREQ=YEARLY;BYWEEKNO=53;BYDAY=SA,SU;COUNT=4", "2009-12-31", "12-31 01-02 01-03 01-02"),
        ("FREQ=YEARLY;BYWEEKNO=1;BYDAY=MO;COUNT=4", "2008-12-29", "12-29 01-04 01-03 01-02"),
        ("FREQ=YEARLY;BYWEEKNO=1;BYDAY=MO;INTERVAL=2;COUNT=3", "2008-12-29", "12-29 01-03 12-31"),
        ("FREQ=YEARLY;BYWEEKNO=-1;BYDAY=SU;INTERVAL=2;COUNT=3", "2010-01-03", "01-03 01-01 12-29"),
        ("FREQ=YEARLY;BYWEEKNO=1;BYDAY=MO,SU;BYSETPOS=1;COUNT=3", "2008-12-29", "12-29 01-04 01-03"),
        ("FREQ=YEARLY;BYYEARDAY=-365;COUNT=6", "2000-01-02", "01-02 01-01 01-01 01-01 01-02 01-01"),
        ("FREQ=YEARLY;BYWEEKNO=1;WKST=SU;BYDAY=SU;COUNT=3", "2009-01-04", "01-04 01-03 01-02"),
    ],
)
def test_each_interval_has_its_whole_set(rule: str, first: str, expected: str) -> None:
    start = datetime.fromisoformat(f"{first}T09:00")

    for found in (
        times_of(parse_rrule(rule), start, start, start.replace(year=start.year + 7)),
        local_times(rule, start, start, start.replace(year=start.year + 7)),
    ):
        assert [f"{one:%m-%d}" for one in found] == expected.split()


@pytest.mark.parametrize("rule", ["FREQ=DAILY", "FREQ=WEEKLY", "FREQ=MONTHLY", "FREQ=YEARLY", "FREQ=DAILY;COUNT=2"])
def test_both_bounds_are_included(rule: str) -> None:
    first = datetime(2026, 3, 2, 9)  # noqa: DTZ001 - local time
    second = list(times_of(parse_rrule(rule), first, first, first.replace(year=2028)))[1]

    assert list(times_of(parse_rrule(rule), first, second, second)) == [second]


def test_accepts_a_rule_that_ends_with_a_semicolon() -> None:
    """Google and Exchange write a trailing semicolon."""
    assert parse_rrule("FREQ=WEEKLY;BYDAY=MO;") == parse_rrule("FREQ=WEEKLY;BYDAY=MO")
