"""Made-up events: appointments, whole days and series, before the present and after it, with their reminders."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime, time, timedelta
from itertools import count
from typing import Any, Final

from src.database.calendar import to_instant
from src.database.cli.seed.dice import Dice
from src.database.cli.seed.people import Person
from src.database.cli.seed.phrases import said

__all__ = ["agenda"]

AHEAD: Final = timedelta(days=90)
BEHIND: Final = timedelta(days=180)
OFFSETS: Final = (0, 600, 900, 3600, 86_400)
WEEKDAYS: Final = ("MO", "TU", "WE", "TH", "FR", "SA", "SU")
WEEK: Final = timedelta(days=7)
DAY: Final = timedelta(days=1)
HOUR: Final = timedelta(hours=1)


def agenda(person: Person, dice: Dice, until: datetime) -> Iterator[dict[str, Any]]:
    """Go through a person's events; a changed occurrence comes after its series."""
    for _ in range(int(dice.amount(8, 0.7, 100))):
        kind = dice.random()
        if kind < 0.7:
            yield _single(person, dice, until)
        elif kind < 0.85:
            yield _whole_days(person, dice, until)
        else:
            yield from _series(person, dice, until)


def _single(person: Person, dice: Dice, until: datetime) -> dict[str, Any]:
    local = _wall_clock(person, dice, until)
    start = to_instant(local, person.zone)
    length = timedelta(minutes=dice.pick((15, 30, 60, 60, 90)))
    row = _row(person, dice, until, start=start, end=start + length if dice.happens(0.9) else None)
    row["status"] = _status(dice, is_over=start + length < until)
    if dice.happens(0.4):
        _remind(row, start, dice.pick(OFFSETS), dice, until)
    if dice.happens(0.1):
        row["ical_uid"] = f"{row['id']}@calendar.example"
    return row


def _whole_days(person: Person, dice: Dice, until: datetime) -> dict[str, Any]:
    first = datetime.combine(_wall_clock(person, dice, until), time())
    last = first + DAY * dice.pick((1, 1, 1, 2, 7, 14))
    yearly = last - first == DAY and dice.happens(0.3)
    start, end = (to_instant(day, person.zone) for day in (first, last))
    row = _row(person, dice, until, start=start, end=end)
    row |= {"all_day": True, "title": said(dice, person.language, person.language.days)}
    row |= {"rrule": "FREQ=YEARLY"} if yearly else {"status": _status(dice, is_over=end < until)}
    return row


def _series(person: Person, dice: Dice, until: datetime) -> Iterator[dict[str, Any]]:
    """Make a weekly or monthly series; some have an occurrence that is left out, and one that was moved."""
    local = _wall_clock(person, dice, until)
    start = to_instant(local, person.zone)
    row = _row(person, dice, until, start=start, end=start + HOUR)
    row["rrule"] = rule = _rule(local, dice)
    if not rule.startswith("FREQ=WEEKLY;BYDAY"):
        yield row
        return
    left_out, moved_from = (to_instant(local + WEEK * n, person.zone) for n in (1, 2))
    if dice.happens(0.4):
        row["exdates"] = [left_out]
    if dice.happens(0.5):
        offset = dice.pick(OFFSETS)
        later = (to_instant(local + WEEK * n, person.zone) for n in count())
        upcoming = (one for one in later if one > until + timedelta(seconds=offset))
        _remind(row, next(one for one in upcoming if one not in {left_out, moved_from}), offset, dice, until)
    yield row
    if dice.happens(0.4):
        moved = _row(person, dice, until, start=moved_from + HOUR, end=moved_from + HOUR * 2)
        yield moved | {"title": row["title"], "series_id": row["id"], "recurrence_id": moved_from}


def _rule(local: datetime, dice: Dice) -> str:
    weekly = f"FREQ=WEEKLY;BYDAY={WEEKDAYS[local.weekday()]}"
    last = (local + DAY * 200).replace(tzinfo=UTC)
    monthly = "FREQ=MONTHLY" if local.day > 28 else f"FREQ=MONTHLY;BYMONTHDAY={local.day}"
    daily = f"FREQ=DAILY;COUNT={2 + int(dice.random() * 20)}"
    return dice.pick((weekly, weekly, f"{weekly};UNTIL={last:%Y%m%dT%H%M%SZ}", monthly, daily))


def _wall_clock(person: Person, dice: Dice, until: datetime) -> datetime:
    """Choose a quarter of an hour between eight and eight, when no zone changes its clocks."""
    day = dice.between(max(person.joined, until - BEHIND), until + AHEAD)
    return datetime.combine(day.astimezone(person.zone), time(8 + int(dice.random() * 12), dice.pick((0, 15, 30, 45))))


def _row(person: Person, dice: Dice, until: datetime, *, start: datetime, end: datetime | None) -> dict[str, Any]:
    written = min(dice.between(person.joined, start), until) if start > person.joined else person.joined
    return {
        "id": dice.id(written),
        "user_id": person.id,
        "title": said(dice, person.language, person.language.events),
        "description": said(dice, person.language, person.language.asks, 80) if dice.happens(0.3) else None,
        "location": dice.pick(person.language.gaps["place"]) if dice.happens(0.4) else None,
        "start_datetime": start,
        "end_datetime": end,
        "timezone": person.zone.key,
        "all_day": False,
        "status": "scheduled",
        "rrule": None,
        "exdates": [],
        "series_id": None,
        "recurrence_id": None,
        "ical_uid": None,
        "reminder_datetime": None,
        "reminder_offset": None,
        "reminder_attempts": 0,
        "reminder_sent_at": None,
        "created_at": written,
        "updated_at": written,
    }


def _status(dice: Dice, *, is_over: bool) -> str:
    if dice.happens(0.07):
        return "cancelled"
    return "done" if is_over and dice.happens(0.6) else "scheduled"


def _remind(row: dict[str, Any], start: datetime, offset: int, dice: Dice, until: datetime) -> None:
    """Set a reminder; one that is past was sent, but for a few that a worker finds due."""
    at = start - timedelta(seconds=offset)
    row |= {"reminder_datetime": at, "reminder_offset": offset}
    if at <= until and not dice.happens(0.05):
        sent = at + timedelta(seconds=2)
        row |= {"reminder_attempts": 1, "reminder_sent_at": sent, "updated_at": max(sent, row["created_at"])}
