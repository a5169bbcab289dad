"""Check the values of events beside each other, and write them together with the event's reminder."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from datetime import UTC, datetime, timedelta
from typing import Any, Final
from uuid import UUID

from sqlalchemy import delete, select

from src.database.base import check_aware, check_id
from src.database.calendar import FIRST_YEAR, LAST_YEAR, Series, check_rrule, check_timezone
from src.database.models import Event
from src.database.session import AsyncSession
from src.database.statements.reminders import has_reminder, next_reminder, reminder_lead, server_time, set_reminder

# A day within the calendar's ends: every zone has a wall-clock time there.
EARLIEST: Final = datetime(1, 1, 2, tzinfo=UTC)
LATEST: Final = datetime(9999, 12, 30, tzinfo=UTC)

_INSTANTS: Final = ("start_datetime", "end_datetime", "recurrence_id", "reminder_datetime")
_CHECKED_TOGETHER: Final = (*_INSTANTS, "timezone", "all_day", "rrule", "exdates", "series_id")
_MOVED_ALONE: Final = ("start_datetime", "timezone", "rrule")
_MOVE_REMINDERS: Final = frozenset({"start_datetime", "rrule", "reminder_offset", "reminder_datetime"})
_OF_REMINDERS: Final = frozenset(
    {"reminder_attempts", "reminder_claimed_by", "reminder_claimed_until", "reminder_token", "reminder_sent_at"}
)


def check_instant(name: str, value: Any) -> None:
    """Check that a value is an instant that has a local time in every zone.

    Raises:
        ValueError: The value is no aware datetime, or is too close to an end of the calendar.
    """
    _check_datetime(name, value)
    if not EARLIEST <= value <= LATEST:
        raise ValueError(f"{name} must be from {EARLIEST.date()} to {LATEST.date()}, got the year {value.year}")


def check_year(name: str, value: Any) -> None:
    """Check that a value is an instant that series reach.

    Raises:
        ValueError: The value is no aware datetime, or is not between the years 1900 and 2199.
    """
    _check_datetime(name, value)
    if not FIRST_YEAR <= value.year <= LAST_YEAR:
        raise ValueError(f"{name} must be between the years {FIRST_YEAR} and {LAST_YEAR}, got {value.year}")


def check_interval(start: Any, end: Any) -> None:
    """Check that two values are the bounds of a half-open interval.

    Raises:
        ValueError: A bound is no aware datetime, or the end is not after the start.
    """
    _check_datetime("start", start)
    _check_datetime("end", end)
    if end <= start:
        raise ValueError(f"end must be after start, got {start.isoformat()} to {end.isoformat()}")


def _check_datetime(name: str, value: Any) -> None:
    if not isinstance(value, datetime):
        raise ValueError(  # noqa: TRY004 - bad input
            f"{name} must be a datetime with a zone, got {type(value).__name__}; of a date its midnight in the zone"
        )
    check_aware(name, value)


def check_values(values: Mapping[str, Any]) -> None:
    """Check values of an event's attributes, each by itself.

    Raises:
        ValueError: A zone, a rule or an instant is invalid, or is out of the calendar.
    """
    for name in _INSTANTS:
        if values.get(name) is not None:
            check_instant(name, values[name])
    if values.get("timezone") is not None:
        check_timezone(values["timezone"])
    if values.get("rrule") is not None:
        check_rrule(values["rrule"], all_day=values.get("all_day"))
    exdates = values.get("exdates", [])
    if not isinstance(exdates, list | tuple):
        raise ValueError(  # noqa: TRY004 - bad input
            f"exdates must be a list of datetimes, the empty one for none, got {type(exdates).__name__}"
        )
    for one in exdates:
        check_year("each of exdates", one)


def check_new_event(row: Event) -> None:
    """Check the values of an event that is to be inserted.

    Raises:
        ValueError: The event has no start, a value is invalid, or it is a series that is not expanded.
    """
    _check_together({**_values_of(row), "timezone": row.timezone or "UTC"})


def _values_of(row: Event) -> dict[str, Any]:
    return {name: getattr(row, name) for name in _CHECKED_TOGETHER}


def _check_together(values: Mapping[str, Any]) -> None:
    if values["start_datetime"] is None:
        raise ValueError("start_datetime must be given: an event without a start is none")
    check_values({**values, "exdates": values["exdates"] or [], "all_day": bool(values["all_day"])})
    if values["recurrence_id"] is not None:
        check_year("recurrence_id", values["recurrence_id"])
    if values["rrule"] is None:
        return
    if values["series_id"] is not None:
        raise ValueError("a changed occurrence must have no rrule of its own: its series has it")
    check_year("start_datetime", values["start_datetime"])


def check_not_moved(row: Event, values: Mapping[str, Any]) -> None:
    """Check that values do not move a series by its columns alone: changed and excluded occurrences would stay behind.

    Raises:
        ValueError: A start, a zone or a rule changes.
    """
    if row.rrule is None:
        return
    for name in _MOVED_ALONE:
        if name in values and values[name] != getattr(row, name):
            remedy = "cancel it and add one in that zone" if name == "timezone" else '`reschedule(…, scope="all")` it'
            raise ValueError(
                f"{name} of a series must not be updated, for its changed and excluded occurrences would stay behind;"
                f" {remedy}"
            )


async def check_series(session: AsyncSession, pairs: Collection[tuple[UUID | None, UUID]]) -> None:
    """Check that each series belongs to the user beside it; None is no series.

    Raises:
        ValueError: A series belongs to another user, or does not exist.
    """
    wanted = {series_id for series_id, _ in pairs if series_id is not None}
    if wanted:
        of_series = select(Event.id, Event.user_id).where(Event.tenant_id == session.tenant_id, Event.id.in_(wanted))
        owners: dict[UUID, UUID] = dict(iter(await session.execute(of_series)))
        if any(series_id is not None and owners.get(series_id) != user_id for series_id, user_id in pairs):
            raise ValueError("series_id must be that of a series of the same user")


async def set_first_reminders(session: AsyncSession, rows: Sequence[Event], now: datetime | None) -> None:
    """Set the first reminders of new events; a series reminds of its first occurrence that has not begun."""
    rows = [row for row in rows if has_reminder(row)]
    if now is None and any(row.rrule is not None for row in rows):  # only a series needs the time
        now = await server_time(session)
    for row in rows:
        lead = reminder_lead(row)
        if row.reminder_datetime is None:
            row.reminder_datetime = _before(row, lead)
        if now is None or row.rrule is None or row.reminder_sent_at is not None or row.start_datetime > now:
            continue
        check_year("now", now)
        if row.reminder_datetime <= row.start_datetime:
            row.timezone = row.timezone or "UTC"
            slot = Series(row).after(now)
            set_reminder(row, None if slot is None else slot.start - lead, lead=lead)


async def apply_changes(session: AsyncSession, row: Event, values: Mapping[str, Any]) -> bool:
    """Change an event, and set its reminder again where it is for another time; return True if anything changed."""
    if values.keys() & set(_CHECKED_TOGETHER):
        _check_together(_values_of(row) | {name: values[name] for name in _CHECKED_TOGETHER if name in values})
    if values.keys() & {"series_id", "user_id"}:
        pair = values.get("series_id", row.series_id), values.get("user_id", row.user_id)
        await check_series(session, {pair})
    lead, now = timedelta(), None
    if values.keys() & (_MOVE_REMINDERS | {"exdates"}):
        lead = reminder_lead(row, None if row.rrule is None else Series(row))
        if values.get("rrule", row.rrule) is not None and values.get("reminder_datetime") is not None:
            now = await server_time(session)
        values = _meant(row, values, lead, now)
    before = {name: getattr(row, name) for name in values}
    had_reminder = has_reminder(row)
    for name, value in values.items():
        setattr(row, name, value)
    changed = {name for name, value in values.items() if value != before[name]}
    if changed & _MOVE_REMINDERS or ("exdates" in changed and _excludes_next(row, lead)):
        await _rearm(session, row, changed, lead, had_reminder=had_reminder, now=now)
        for name in _OF_REMINDERS & values.keys():
            setattr(row, name, values[name])
    await session.flush()
    return bool(changed)


def _meant(row: Event, values: Mapping[str, Any], lead: timedelta, now: datetime | None) -> Mapping[str, Any]:
    """Leave out a reminder's time that an offset replaces; for a series under way, turn it into an offset.

    Args:
        row: The event.
        values: The changes.
        lead: How long before the start its reminder was.
        now: The present; None where no time of a series' reminder changes.
    """
    at = values.get("reminder_datetime")
    rest = {name: value for name, value in values.items() if name != "reminder_datetime"}
    if at is None:
        return values if values.get("reminder_offset") is None else rest
    start = values.get("start_datetime", row.start_datetime)
    if now is None or start > now or at > start:
        return values
    if has_reminder(row) and start - at == lead:
        return rest
    return {"reminder_offset": int((start - at).total_seconds()), **rest}


def _excludes_next(row: Event, lead: timedelta) -> bool:
    """Return True if a series' reminder is for an occurrence that is excluded."""
    if row.rrule is None or row.reminder_datetime is None or row.reminder_sent_at is not None:
        return False
    return row.reminder_datetime + lead in row.exdates


async def _rearm(
    session: AsyncSession, row: Event, changed: set[str], lead: timedelta, *, had_reminder: bool, now: datetime | None
) -> None:
    """Set a reminder again: to its own time if that has changed, else before the start by its offset or old lead."""
    if "reminder_datetime" in changed:
        set_reminder(row, row.reminder_datetime)
    elif "reminder_offset" in changed and row.reminder_offset is None:
        set_reminder(row, None)
    elif had_reminder or row.reminder_offset is not None:
        lead = lead if row.reminder_offset is None else timedelta(seconds=row.reminder_offset)
        if row.rrule is None:
            set_reminder(row, _before(row, lead))
            return
        await session.flush()
        now = now or await server_time(session)
        set_reminder(row, await next_reminder(session, row, Series(row), after=now), lead=lead)


def _before(row: Event, lead: timedelta) -> datetime:
    try:
        return row.start_datetime - lead
    except OverflowError:
        raise ValueError("reminder_offset must leave the reminder within the calendar") from None


async def delete_single(session: AsyncSession, event_id: UUID) -> bool:
    """Delete an event that is no changed occurrence, and return whether there was one."""
    check_id("row_id", event_id)
    single = delete(Event).where(Event.tenant_id == session.tenant_id, Event.id == event_id, Event.series_id.is_(None))
    options = {"synchronize_session": "fetch"}  # the session forgets the row
    return await session.scalar(single.returning(Event.id), execution_options=options) is not None
