"""Series: their expansion as RFC 5545 defines it, across changes of the clocks, and the supported rules."""

from __future__ import annotations

import random
import time
from datetime import UTC, datetime, timedelta
from itertools import islice
from zoneinfo import ZoneInfo

import pytest

from src.database.calendar import Series, check_rrule, parse_rrule, to_wall_clock
from tests.database.calendar.random_rules import by_the_library, random_event, series

MADRID = ZoneInfo("Europe/Madrid")
LORD_HOWE = ZoneInfo("Australia/Lord_Howe")
MEXICO = ZoneInfo("America/Mexico_City")


def local(*parts: int) -> datetime:
    return datetime(*parts)  # type: ignore[arg-type] # noqa: DTZ001 - wall-clock time


def starts(one: Series, year: int = 2026, *, years: int = 1) -> list[datetime]:
    window = datetime(year, 1, 1, tzinfo=UTC), datetime(year + years, 1, 1, tzinfo=UTC)
    return [slot.start for slot in one.between(*window)]


def on_the_wall(one: Series, limit: int = 100) -> list[str]:
    return [f"{to_wall_clock(start, one.zone):%m-%d %H:%M}" for start in starts(one)[:limit]]


@pytest.mark.slow
def test_random_rules_are_expanded_as_another_library_does(*, is_long: bool) -> None:
    """Except ends of occurrences that begin in a gap: the library ends these too early."""
    rules = 500 if is_long else 200
    dice = random.Random(5545)  # noqa: S311 - rules that repeat
    compared = differing_ends = 0
    for _ in range(rules):
        event = random_event(dice)
        check_rrule(event.rrule or "", all_day=event.all_day)
        start = datetime(dice.choice([2021, 2022]), dice.choice([2, 3, 9, 10]), dice.randint(1, 28), tzinfo=UTC)
        window = start, start + timedelta(days=90)
        one = Series(event)
        slots = sorted(one.between(*window), key=lambda slot: slot.start)
        expected = by_the_library(event, *window)

        assert [slot.start for slot in slots] == [start for start, _ in expected], (event.rrule, event.start_local)
        for slot, (_, end) in zip(slots, expected, strict=True):
            is_in_gap = to_wall_clock(slot.start, one.zone) != slot.local
            assert slot.end == end or is_in_gap, (event.rrule, event.start_local)
            differing_ends += slot.end != end
        compared += len(slots)

    assert compared > 6 * rules
    assert differing_ends < rules / 25


def test_an_event_at_nine_stays_at_nine_when_the_clocks_change() -> None:
    one = Series(series(local(2026, 3, 28, 9), MADRID, "FREQ=DAILY;COUNT=3"))

    assert [start.hour for start in starts(one)] == [8, 7, 7], "in UTC"
    assert on_the_wall(one) == ["03-28 09:00", "03-29 09:00", "03-30 09:00"]


@pytest.mark.parametrize(
    ("zone", "day", "expected"),
    [(MADRID, (2026, 3, 29), "03-29 03:15"), (LORD_HOWE, (2026, 10, 4), "10-04 02:45")],
)
def test_a_time_that_does_not_exist_has_the_offset_from_before_the_gap(
    zone: ZoneInfo, day: tuple[int, int, int], expected: str
) -> None:
    """RFC 5545, 3.3.5: it "is interpreted using the UTC offset before the gap in local times"."""
    one = Series(series(local(*day, 2, 15) - timedelta(days=1), zone, "FREQ=DAILY;COUNT=3", hours=0.25))

    gap = list(one.between(datetime(2026, 1, 1, tzinfo=UTC), datetime(2027, 1, 1, tzinfo=UTC)))[1]

    assert on_the_wall(one)[1] == expected
    assert gap.end is not None
    assert gap.end - gap.start == timedelta(minutes=15), "it does not end before it begins"


def test_a_time_that_exists_twice_is_the_first() -> None:
    """RFC 5545, 3.3.5: it "refers to the first occurrence of the referenced time"."""
    one = Series(series(local(2026, 10, 24, 2, 30), MADRID, "FREQ=DAILY;COUNT=3"))

    assert starts(one)[1] == datetime(2026, 10, 25, 0, 30, tzinfo=UTC)


def test_a_start_in_the_second_of_two_equal_hours_is_kept() -> None:
    event = series(local(2026, 10, 25, 2, 30), MADRID, "FREQ=DAILY;COUNT=2")
    event.start_datetime += timedelta(hours=1)
    event.end_datetime = event.start_datetime + timedelta(minutes=15)

    first, second = Series(event).between(datetime(2026, 1, 1, tzinfo=UTC), datetime(2027, 1, 1, tzinfo=UTC))

    assert (first.start, first.end) == (event.start_datetime, event.end_datetime)
    assert second.start == datetime(2026, 10, 26, 1, 30, tzinfo=UTC)


def test_a_night_ends_at_seven_when_the_clocks_change() -> None:
    one = Series(series(local(2026, 3, 27, 22), MADRID, "FREQ=DAILY;COUNT=3", hours=9))

    slots = one.between(datetime(2026, 1, 1, tzinfo=UTC), datetime(2027, 1, 1, tzinfo=UTC))

    assert [to_wall_clock(slot.end, MADRID).hour for slot in slots if slot.end] == [7, 7, 7]


def test_two_local_times_with_one_instant_are_one_occurrence() -> None:
    one = Series(series(local(2026, 3, 28, 2), MADRID, "FREQ=DAILY;BYHOUR=2,3;COUNT=4"))

    assert on_the_wall(one) == ["03-28 02:00", "03-28 03:00", "03-29 03:00"]


def test_a_day_that_a_zone_skipped_is_the_next_one() -> None:
    one = Series(series(local(2011, 12, 29, 10), ZoneInfo("Pacific/Apia"), "FREQ=DAILY;COUNT=4"))

    days = [to_wall_clock(start, one.zone).day for start in starts(one, 2011, years=2)]

    assert days == [29, 31, 1], "there was no 30 December 2011 in Samoa"


def test_out_of_order_times_around_a_gap_come_in_order() -> None:
    one = Series(series(local(2026, 3, 28, 2, 30), MADRID, "FREQ=DAILY;BYHOUR=2,3;BYMINUTE=0,30", hours=0.1))
    window = datetime(2026, 3, 29, 1, tzinfo=UTC), datetime(2026, 3, 29, 9, tzinfo=UTC)

    slots = one.earliest(*window, replaced=(), limit=2)

    assert [to_wall_clock(slot.start, MADRID) for slot in slots] == [local(2026, 3, 29, 3), local(2026, 3, 29, 3, 30)]


def test_a_change_of_the_zones_rules_leaves_the_local_time() -> None:
    event = series(local(2026, 7, 1, 10), MEXICO, "FREQ=DAILY;COUNT=2")
    event.start_datetime -= timedelta(hours=1)  # as it was written, while the zone still had summer time
    event.end_datetime = event.start_datetime + timedelta(hours=1)

    first, second = Series(event).between(datetime(2026, 1, 1, tzinfo=UTC), datetime(2027, 1, 1, tzinfo=UTC))

    assert [to_wall_clock(slot.start, MEXICO).hour for slot in (first, second)] == [10, 10]
    assert first.end is not None
    assert first.end - first.start == timedelta(hours=1)


def test_the_start_is_the_first_occurrence_even_if_the_rule_has_none_there() -> None:
    """RFC 5545, 3.3.10: "The DTSTART property value always counts as the first occurrence"."""
    one = Series(series(local(2026, 6, 1, 9), MADRID, "FREQ=WEEKLY;BYDAY=TU;COUNT=3"))

    assert on_the_wall(one) == ["06-01 09:00", "06-02 09:00", "06-09 09:00"]


def test_a_week_by_its_number_has_the_weekday_of_the_start() -> None:
    one = Series(series(local(2026, 5, 13, 9), MADRID, "FREQ=YEARLY;BYWEEKNO=20"))

    assert [start.date() for start in starts(one, years=3)] == [
        local(2026, 5, 13).date(),
        local(2027, 5, 19).date(),
        local(2028, 5, 17).date(),
    ]


def test_a_fraction_of_a_second_is_kept() -> None:
    one = Series(series(local(2026, 6, 1, 9, 0, 0, 5), MADRID, "FREQ=DAILY;COUNT=2"))

    assert [start.microsecond for start in starts(one)] == [5, 5]


@pytest.mark.parametrize("until", ["20260603T070000Z", "20260603"])
def test_until_is_included(until: str) -> None:
    all_day = len(until) == 8
    event = series(local(2026, 6, 1, 0 if all_day else 9), MADRID, f"FREQ=DAILY;UNTIL={until}", all_day=all_day)

    assert len(starts(Series(event))) == 3


@pytest.mark.parametrize("rule", ["FREQ=DAILY", "FREQ=WEEKLY;INTERVAL=3;BYDAY=MO,SU", "FREQ=DAILY;INTERVAL=7"])
def test_a_window_far_from_the_start_equals_a_full_expansion(rule: str) -> None:
    ancient = Series(series(local(1990, 1, 3, 9), MADRID, rule))
    counted = Series(series(local(1990, 1, 3, 9), MADRID, f"{rule};COUNT=10000"))

    assert starts(ancient, 2010) == starts(counted, 2010) != []


@pytest.mark.parametrize(
    "rule",
    [
        "FREQ=DAILY",
        "FREQ=DAILY;BYMONTH=2;BYMONTHDAY=30",
        "FREQ=DAILY;BYMONTH=2;BYMONTHDAY=30;COUNT=10000",
        "FREQ=YEARLY;BYMONTH=2;BYMONTHDAY=30",
        "FREQ=MONTHLY;BYMONTHDAY=31;BYMONTH=2",
        "FREQ=WEEKLY;INTERVAL=9999;COUNT=10000",
    ],
)
def test_every_rule_is_expanded_quickly(rule: str) -> None:
    one = Series(series(local(1900, 1, 1, 9), MADRID, rule))
    before = time.process_time()

    one.earliest(datetime(2190, 1, 1, tzinfo=UTC), datetime(2199, 12, 31, tzinfo=UTC), replaced=(), limit=10)
    for year in (2026, 2027, 2028):
        one.after(datetime(year, 1, 1, tzinfo=UTC))

    assert time.process_time() - before < 3, "no search continues until the year 9999"


def test_a_day_that_no_month_has_is_not_searched_until_the_year_9999() -> None:
    one = Series(series(local(2025, 1, 1, 9), MADRID, "FREQ=MONTHLY;BYMONTH=2;BYMONTHDAY=30"))
    before = time.process_time()

    found = [one.after(datetime(year, 1, 1, tzinfo=UTC)) for year in range(2026, 2036)]

    assert found == [None] * 10
    assert time.process_time() - before < 1.5


def test_the_next_one_after_29_february_is_four_years_later() -> None:
    one = Series(series(local(2024, 2, 29, 9), MADRID, "FREQ=YEARLY"))

    slot = one.after(datetime(2024, 3, 1, tzinfo=UTC))

    assert slot is not None
    assert slot.local == local(2028, 2, 29, 9)


@pytest.mark.parametrize(
    ("rule", "problem"),
    [
        ("", "1 to 2000 characters"),
        ("FREQ=DAILY;" * 200, "1 to 2000 characters"),
        ("DAILY", "must have the parts of RFC 5545"),
        ("RRULE:FREQ=DAILY", "must have the parts of RFC 5545"),
        ("DTSTART=20260101T090000Z;FREQ=DAILY", "without DTSTART"),
        ("FREQ=DAILY\nDTSTART:20260101", "FREQ must be one of"),
        ("FREQ=DAILY\0", "FREQ must be one of"),
        ("FREQ=DAILY;BYEASTER=0", "must have the parts of RFC 5545"),
        ("FREQ=DAILY;FREQ=WEEKLY", "FREQ twice"),
        ("COUNT=3", "FREQ must be one of"),
        ("FREQ=SECONDLY", "FREQ=DAILY;BYHOUR=9,13,17"),
        ("FREQ=MINUTELY", "FREQ must be one of"),
        ("FREQ=HOURLY", "FREQ must be one of"),
        ("FREQ=DAILY;INTERVAL=0", "INTERVAL must be from 1 to 9999"),
        ("FREQ=DAILY;COUNT=0", "COUNT must be from 1"),
        ("FREQ=DAILY;COUNT=-1", "COUNT must be from 1"),
        ("FREQ=DAILY;COUNT=10001", "COUNT must be from 1 to 10000"),
        ("FREQ=DAILY;COUNT=1,2", "COUNT must be from 1"),
        ("FREQ=DAILY;COUNT=٣", "COUNT must be from 1"),
        ("FREQ=DAILY;BYHOUR=24", "BYHOUR must be from 0 to 23"),
        ("FREQ=YEARLY;BYMONTH=13", "BYMONTH must be from 1 to 12"),
        ("FREQ=MONTHLY;BYMONTHDAY=0", "BYMONTHDAY must be from 1 to 31"),
        ("FREQ=MONTHLY;BYDAY=", "BYDAY must be weekdays"),
        ("FREQ=MONTHLY;BYDAY=XX", "BYDAY must be weekdays"),
        ("FREQ=WEEKLY;WKST=1MO", "WKST must be a weekday"),
        ("FREQ=WEEKLY;BYDAY=1MO", "BYDAY must have numbers"),
        ("FREQ=WEEKLY;BYMONTHDAY=1", "BYMONTHDAY must not be combined with FREQ=WEEKLY"),
        ("FREQ=MONTHLY;BYWEEKNO=1", "BYWEEKNO must not be combined with FREQ=MONTHLY"),
        ("FREQ=MONTHLY;BYSETPOS=1", "BYSETPOS must be combined with"),
        ("FREQ=DAILY;BYHOUR=9,13;BYSETPOS=3", "BYSETPOS must be at most 2"),
        ("FREQ=WEEKLY;BYDAY=MO,FR;BYSETPOS=-3", "BYSETPOS must be at most 2"),
        ("FREQ=DAILY;COUNT=3;UNTIL=20300101T000000Z", "COUNT or UNTIL, not both"),
        ("FREQ=DAILY;BYHOUR=1,2;BYMINUTE=" + ",".join(map(str, range(60))), "at most 24 times a day, got 120"),
        ("FREQ=DAILY;UNTIL=20300101T000000", "UNTIL must be an instant in UTC"),
        ("FREQ=DAILY;UNTIL=20300230T000000Z", "UNTIL must be an instant in UTC"),
        ("FREQ=DAILY;UNTIL=20300101", "UNTIL must be in UTC"),
    ],
)
def test_rejects_a_rule_and_names_the_part(rule: str, problem: str) -> None:
    with pytest.raises(ValueError, match=problem):
        check_rrule(rule, all_day=False)


@pytest.mark.parametrize(
    ("rule", "problem"),
    [("FREQ=DAILY;UNTIL=20300101T000000Z", "UNTIL must be a date"), ("FREQ=DAILY;BYHOUR=9", "must have no BYHOUR")],
)
def test_rejects_a_time_in_the_rule_of_an_all_day_event(rule: str, problem: str) -> None:
    with pytest.raises(ValueError, match=problem):
        check_rrule(rule, all_day=True)


def test_a_rule_is_read_whatever_its_case() -> None:
    assert str(parse_rrule("freq=weekly;byday=mo")) == "FREQ=WEEKLY;BYDAY=MO"


@pytest.mark.parametrize(
    "rule", ["FREQ=WEEKLY;INTERVAL=2;BYDAY=SU,MO", "FREQ=WEEKLY;BYDAY=MO,WE;WKST=SU", "FREQ=DAILY"]
)
@pytest.mark.parametrize("days", [-3, 1, 8])
def test_a_weekly_rule_that_is_moved_has_each_occurrence_moved(rule: str, days: int) -> None:
    old = Series(series(local(2026, 1, 5, 9), MADRID, rule))
    by = timedelta(days=days)
    new = Series(series(old.first + by, MADRID, str(old.rule_moved(old.first, old.first + by))))

    far = datetime(2030, 1, 1, tzinfo=UTC)
    assert [slot.local for slot in islice(new.between(far - timedelta(days=2000), far), 60)] == [
        slot.local + by for slot in islice(old.between(far - timedelta(days=2000), far), 60)
    ]
