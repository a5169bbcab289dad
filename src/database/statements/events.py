"""Check the values of events together, and write them with the time of the event's reminder."""

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

# One day from each end of Python's calendar: within these bounds an instant has a local time in every zone.
EARLIEST: Final = datetime(1, 1, 2, tzinfo=UTC)
LATEST: Final = datetime(9999, 12, 30, tzinfo=UTC)

_INSTANTS: Final = ("start_datetime", "end_datetime", "recurrence_id", "reminder_datetime")
_CHECKED_TOGETHER: Final = (*_INSTANTS, "timezone", "all_day", "rrule", "exdates", "series_id")
_MOVED_BY_RESCHEDULE: Final = ("start_datetime", "timezone", "rrule")
_RESET_REMINDERS: Final = frozenset({"start_datetime", "rrule", "reminder_offset", "reminder_datetime"})
_REMINDER_STATE: Final = frozenset(
    {"reminder_attempts", "reminder_claimed_by", "reminder_claimed_until", "reminder_token", "reminder_sent_at"}
)


def check_instant(name: str, value: Any) -> None:
    """Check that a value is an instant that has a local time in every zone.

    Raises:
        ValueError: The value is not an aware datetime, or is within a day of an end of the calendar.
    """
    _check_datetime(name, value)
    if not EARLIEST <= value <= LATEST:
        raise ValueError(f"{name} must be from {EARLIEST.date()} to {LATEST.date()}, got the year {value.year}")


def check_year(name: str, value: Any) -> None:
    """Check that a value is an instant for which series are expanded.

    Raises:
        ValueError: The value is not an aware datetime, or is not between the years 1900 and 2199.
    """
    _check_datetime(name, value)
    if not FIRST_YEAR <= value.year <= LAST_YEAR:
        raise ValueError(f"{name} must be between the years {FIRST_YEAR} and {LAST_YEAR}, got {value.year}")


def check_interval(start: Any, end: Any) -> None:
    """Check that two values are the bounds of a half-open interval.

    Raises:
        ValueError: A bound is not an aware datetime, or the end is not after the start.
    """
    _check_datetime("start", start)
    _check_datetime("end", end)
    if end <= start:
        raise ValueError(f"end must be after start, got {start.isoformat()} to {end.isoformat()}")


def _check_datetime(name: str, value: Any) -> None:
    if not isinstance(value, datetime):
        raise ValueError(  # noqa: TRY004 - bad input
            f"{name} must be a datetime with a zone, got {type(value).__name__}; for a date, pass midnight"
        )
    check_aware(name, value)


def check_values(values: Mapping[str, Any]) -> None:
    """Check values of an event's attributes, each independently of the others.

    Raises:
        ValueError: A zone or a rule is invalid, or an instant is outside of the calendar.
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
            f"exdates must be a list of datetimes, empty for no excluded occurrence, got {type(exdates).__name__}"
        )
    for one in exdates:
        check_year("each of exdates", one)


def check_new_event(row: Event) -> None:
    """Check the values of an event that is to be inserted.

    Raises:
        ValueError: The event has no start, a value is invalid, or the series begins outside of the years that are
            expanded.
    """
    _check_together({**_values_of(row), "timezone": row.timezone or "UTC"})


def _values_of(row: Event) -> dict[str, Any]:
    return {name: getattr(row, name) for name in _CHECKED_TOGETHER}


def _check_together(values: Mapping[str, Any]) -> None:
    if values["start_datetime"] is None:
        raise ValueError("start_datetime must be the start of the event, got None")
    check_values({**values, "exdates": values["exdates"] or [], "all_day": bool(values["all_day"])})
    if values["recurrence_id"] is not None:
        check_year("recurrence_id", values["recurrence_id"])
    if values["rrule"] is None:
        return
    if values["series_id"] is not None:
        raise ValueError("rrule must be None for a changed occurrence: the rule belongs to its series")
    check_year("start_datetime", values["start_datetime"])


def check_not_moved(row: Event, values: Mapping[str, Any]) -> None:
    """Check that values do not change the start, the zone or the rule of a series.

    Its changed and excluded occurrences are stored by their original start. An update of the columns alone would leave
    them where they were; `event_moves.reschedule` moves them too.

    Raises:
        ValueError: The values would move the series.
    """
    if row.rrule is None:
        return
    for name in _MOVED_BY_RESCHEDULE:
        if name in values and values[name] != getattr(row, name):
            remedy = "cancel the series and add it again" if name == "timezone" else 'use `reschedule(…, scope="all")`'
            raise ValueError(
                f"{name} of a series must not be updated: its changed and excluded occurrences would not move; {remedy}"
            )


async def check_series(session: AsyncSession, pairs: Collection[tuple[UUID | None, UUID]]) -> None:
    """Check that each series belongs to the user of its pair.

    Args:
        session: The session.
        pairs: The ids of a series and a user; None in place of the series passes.

    Raises:
        ValueError: A series belongs to another user, or does not exist.
    """
    wanted = {series_id for series_id, _ in pairs if series_id is not None}
    if wanted:
        of_series = select(Event.id, Event.user_id).where(Event.tenant_id == session.tenant_id, Event.id.in_(wanted))
        owners: dict[UUID, UUID] = dict(iter(await session.execute(of_series)))
        if any(series_id is not None and owners.get(series_id) != user_id for series_id, user_id in pairs):
            raise ValueError("series_id must be the id of a series of the same user")


async def set_first_reminders(session: AsyncSession, rows: Sequence[Event], now: datetime | None) -> None:
    """Set the first reminders of new events; for a series, that of its first occurrence after `now`."""
    rows = [row for row in rows if has_reminder(row)]
    if now is None and any(row.rrule is not None for row in rows):
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
    """Update attributes of a locked or versioned event, and reset its reminder if its time changes.

    Returns:
        True if an attribute changed.

    Raises:
        ValueError: The values do not go together, or the series belongs to another user.
    """
    if values.keys() & set(_CHECKED_TOGETHER):
        _check_together(_values_of(row) | {name: values[name] for name in _CHECKED_TOGETHER if name in values})
    if values.keys() & {"series_id", "user_id"}:
        pair = values.get("series_id", row.series_id), values.get("user_id", row.user_id)
        await check_series(session, {pair})
    lead, now = timedelta(), None
    if values.keys() & (_RESET_REMINDERS | {"exdates"}):
        lead = reminder_lead(row, None if row.rrule is None else Series(row))
        if values.get("rrule", row.rrule) is not None and values.get("reminder_datetime") is not None:
            now = await server_time(session)
        values = _with_reminder_offset(row, values, lead, now)
    before = {name: getattr(row, name) for name in values}
    had_reminder = has_reminder(row)
    for name, value in values.items():
        setattr(row, name, value)
    changed = {name for name, value in values.items() if value != before[name]}
    if changed & _RESET_REMINDERS or ("exdates" in changed and _excludes_next(row, lead)):
        await _reset_reminder(session, row, changed, lead, had_reminder=had_reminder, now=now)
        for name in _REMINDER_STATE & values.keys():
            setattr(row, name, values[name])
    await session.flush()
    return bool(changed)


def _with_reminder_offset(
    row: Event, values: Mapping[str, Any], lead: timedelta, now: datetime | None
) -> Mapping[str, Any]:
    """Return the changes without a `reminder_datetime` that an offset replaces.

    A series that has begun has its reminder before its next occurrence, so that a new time relative to the start of the
    series is stored as an offset.

    Args:
        row: The event.
        values: The changes.
        lead: The time from the event's reminder to its start, before the changes.
        now: The server's time; None if the changes set no time for the reminder of a series.
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
    """Return True if the pending reminder of a series is that of an excluded occurrence."""
    if row.rrule is None or row.reminder_datetime is None or row.reminder_sent_at is not None:
        return False
    return row.reminder_datetime + lead in row.exdates


async def _reset_reminder(
    session: AsyncSession, row: Event, changed: set[str], lead: timedelta, *, had_reminder: bool, now: datetime | None
) -> None:
    """Set a reminder to its own new time, or else before the start, by its offset or by its lead before the changes."""
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
        raise ValueError("reminder_offset must keep the reminder within the calendar, from the year 1 on") from None


async def delete_single(session: AsyncSession, event_id: UUID) -> bool:
    """Delete an event that is not a changed occurrence; return False if there is no such event."""
    check_id("row_id", event_id)
    single = delete(Event).where(Event.tenant_id == session.tenant_id, Event.id == event_id, Event.series_id.is_(None))
    options = {"synchronize_session": "fetch"}  # removes the entity from the session too
    return await session.scalar(single.returning(Event.id), execution_options=options) is not None
