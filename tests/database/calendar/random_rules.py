"""Random recurring events, and their expansion by `recurring-ical-events`."""

from __future__ import annotations

import random
from datetime import UTC, datetime, timedelta
from zoneinfo import ZoneInfo

import recurring_ical_events
from icalendar import Calendar, vRecur
from icalendar import Event as CalendarEvent

from src.database.base import uuid7
from src.database.calendar import to_instant, to_wall_clock
from src.database.models import Event
from tests.database.calendar.rfc5545 import local_times

ZONES = ("Europe/Madrid", "America/Mexico_City", "Australia/Lord_Howe")
# The years: Mexico City gave its DST up in 2022.
FIRST_YEARS = (2020, 2021)
DAYS = ("MO", "TU", "WE", "TH", "FR", "SA", "SU")


def random_event(dice: random.Random) -> Event:
    """Return a series as the database returns it, by day or at the hour of the night at which the clocks change."""
    zone = ZoneInfo(dice.choice(ZONES))
    all_day = dice.random() < 0.15
    time = (0, 0) if all_day else (dice.choice([0, 1, 2, 2, 3, 9, 18, 23]), dice.choice([0, 15, 30, 45]))
    local = datetime(dice.choice(FIRST_YEARS), dice.randint(1, 12), dice.randint(1, 28), *time)  # noqa: DTZ001
    rule = random_rule(dice, all_day=all_day)
    # RFC 5545 requires a start that the rule produces.
    unbounded = ";".join(part for part in rule if not part.startswith("COUNT"))
    produced = local_times(unbounded, local - timedelta(days=1), local, local + timedelta(days=800))
    if not produced:
        return random_event(dice)
    local = produced[0]
    if dice.random() < 0.3 and not any(part.startswith("COUNT") for part in rule):
        rule.append(f"UNTIL={until(local + timedelta(days=dice.randint(0, 700)), zone, all_day=all_day)}")
    return series(local, zone, ";".join(rule), hours=24 if all_day else dice.choice([0.5, 1, 5, 26]), all_day=all_day)


def series(local: datetime, zone: ZoneInfo, rrule: str, *, hours: float = 1, all_day: bool = False) -> Event:
    start = to_instant(local, zone)
    return Event(
        id=uuid7(),
        title="x",
        timezone=zone.key,
        start_datetime=start,
        start_local=to_wall_clock(start, zone),  # as the server makes it
        end_datetime=to_instant(to_wall_clock(start, zone) + timedelta(hours=hours), zone),
        all_day=all_day,
        rrule=rrule,
        exdates=[],
    )


def random_rule(dice: random.Random, *, all_day: bool) -> list[str]:
    frequency = dice.choice(["DAILY", "WEEKLY", "MONTHLY", "YEARLY"])
    parts = [f"FREQ={frequency}"]
    if dice.random() < 0.5:
        parts.append(f"INTERVAL={dice.randint(1, 4 if frequency != 'YEARLY' else 2)}")
    parts += {"DAILY": daily, "WEEKLY": weekly, "MONTHLY": monthly, "YEARLY": yearly}[frequency](dice)
    if not all_day and dice.random() < 0.2:
        parts.append(f"BYHOUR={','.join(map(str, sorted(dice.sample(range(24), dice.randint(1, 4)))))}")
    if dice.random() < 0.3:
        parts.append(f"COUNT={dice.randint(1, 400)}")
    if dice.random() < 0.2:
        parts.append(f"WKST={dice.choice(['SU', 'MO'])}")
    return parts


def some_days(dice: random.Random) -> str:
    return ",".join(dice.sample(DAYS, dice.randint(1, 4)))


def daily(dice: random.Random) -> list[str]:
    return dice.choice([[], [], [f"BYDAY={some_days(dice)}"], [f"BYMONTH={dice.randint(1, 12)}"]])


def weekly(dice: random.Random) -> list[str]:
    return dice.choice([[], [f"BYDAY={some_days(dice)}"], [f"BYDAY={some_days(dice)}"]])


def monthly(dice: random.Random) -> list[str]:
    nth = dice.choice([1, 2, 3, 4, -1, -2])
    return dice.choice(
        [
            [],
            [f"BYMONTHDAY={dice.choice([1, 15, 29, 31, -1, -3])}"],
            [f"BYDAY={nth}{dice.choice(DAYS)}"],
            ["BYDAY=MO,TU,WE,TH,FR", f"BYSETPOS={dice.choice([1, -1])}"],
            ["BYDAY=FR", "BYMONTHDAY=13"],
        ]
    )


def yearly(dice: random.Random) -> list[str]:
    return dice.choice(
        [
            [],
            [f"BYMONTH={dice.choice(['3', '10', '4,11'])}", f"BYDAY={dice.choice([1, -1])}SU"],
            [f"BYYEARDAY={dice.choice(['1', '100', '60,-1'])}"],
            # The library expands the weeks at a year's ends wrongly.
            [f"BYWEEKNO={dice.randint(2, 51)}", f"BYDAY={dice.choice(DAYS)}"],
            ["BYMONTH=3,10", f"BYMONTHDAY={dice.choice(['27,28,29,30', '31', '1,2,3'])}"],
        ]
    )


def until(local: datetime, zone: ZoneInfo, *, all_day: bool) -> str:
    return f"{local:%Y%m%d}" if all_day else f"{to_instant(local, zone):%Y%m%dT%H%M%SZ}"


def by_the_library(event: Event, start: datetime, end: datetime) -> list[tuple[datetime, datetime]]:
    """Ask for the same event's occurrences: from and to, in UTC."""
    zone = ZoneInfo(event.timezone)
    entry = CalendarEvent()
    entry.add("uid", str(event.id))
    first, last = event.start_datetime.astimezone(zone), event.end_datetime and event.end_datetime.astimezone(zone)
    assert last is not None
    entry.add("dtstart", first.date() if event.all_day else first)
    entry.add("dtend", last.date() if event.all_day else last)
    entry.add("rrule", vRecur.from_ical(event.rrule or ""))
    if event.exdates:
        entry.add("exdate", [one.astimezone(zone) for one in event.exdates])
    calendar = Calendar()
    calendar.add_component(entry)
    found = recurring_ical_events.of(calendar).between(start.astimezone(zone), end.astimezone(zone))
    return sorted((_instant(one.start, zone), _instant(one.end, zone)) for one in found)


def _instant(value: object, zone: ZoneInfo) -> datetime:
    assert hasattr(value, "year")
    if isinstance(value, datetime):
        return value.astimezone(UTC)
    return to_instant(datetime(value.year, value.month, value.day), zone)  # type: ignore[attr-defined] # noqa: DTZ001
