"""The changed occurrences of a series, which are rows of their own: moved along with it, or cancelled."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime, timedelta
from typing import Any, Final
from uuid import UUID
from zoneinfo import ZoneInfo

from sqlalchemy import Interval, TableValuedAlias, Uuid, column, func, literal, select, update
from sqlalchemy.dialects.postgresql import ARRAY

from src.database.base import UtcDateTime
from src.database.models import Event
from src.database.repositories.event_reminders import NOT_HELD, reminder_lead
from src.database.repositories.recurrence import Series, lasting, to_instant, to_wall_clock, wall_clock_duration
from src.database.tenancy import AsyncSession

__all__ = ["cancel_changed", "get_changed", "move_changed"]

# Out of the way of those that are there: each is one of its series' under its own recurrence_id.
_ASIDE: Final = timedelta(days=400_000)
_OPTIONS: Final[dict[str, Any]] = {"populate_existing": True, "synchronize_session": False}


async def get_changed(session: AsyncSession, series_id: UUID, recurrence_id: datetime) -> Event | None:
    """Return, locked, the row of a series' occurrence, or None where it was not changed."""
    found: Event | None = await session.scalar(
        select(Event)
        .where(Event.tenant_id == session.tenant_id, Event.series_id == series_id, Event.recurrence_id == recurrence_id)
        .with_for_update()
        .execution_options(populate_existing=True)
    )
    return found


async def cancel_changed(session: AsyncSession, series_id: UUID, *, since: datetime | None = None) -> None:
    """Cancel the changed occurrences of a series that are still to be, or those from an original start on."""
    statement = (
        update(Event)
        .where(
            Event.tenant_id == session.tenant_id,
            Event.series_id == series_id,
            Event.status == "scheduled",
            *([] if since is None else [Event.recurrence_id >= since]),
        )
        .values(status="cancelled", version=Event.version + 1, **NOT_HELD)
        .returning(Event)
        .execution_options(**_OPTIONS)
    )
    await session.scalars(statement)


async def move_changed(
    session: AsyncSession, series: Series, by: timedelta, *, into: Event, since: datetime | None = None
) -> set[datetime]:
    """Move the changed occurrences of a series along, or those from an original start on, by wall-clock time.

    Args:
        session: Whose.
        series: As it was.
        by: How far.
        into: The series that they then belong to.
        since: Those before this original start stay.

    Returns:
        Their original starts within the series that they then belong to.
    """
    mine = [Event.tenant_id == session.tenant_id, Event.series_id == series.event.id]
    if since is not None:
        mine.append(Event.recurrence_id >= since)
    rows = list(await session.scalars(select(Event).where(*mine).with_for_update().execution_options(**_OPTIONS)))
    if not rows:
        return set()
    locals_ = series.locals_of(row.recurrence_id for row in rows if row.recurrence_id is not None)
    starts = {instant: to_instant(local + by, series.zone) for instant, local in locals_.items()}
    moved = _moved(rows, starts, by)
    aside = update(Event).where(*mine).values(recurrence_id=Event.recurrence_id + literal(_ASIDE, Interval()))
    await session.execute(aside.execution_options(synchronize_session=False))
    values = {
        "series_id": into.id,
        "ical_uid": into.ical_uid,
        "recurrence_id": moved.c.recurrence_id,
        "start_datetime": moved.c.start_datetime,
        "end_datetime": moved.c.end_datetime,
        "reminder_datetime": moved.c.reminder_datetime,
        "reminder_sent_at": None,
        "reminder_attempts": 0,
        "version": Event.version + 1,
        **NOT_HELD,
    }
    settle = update(Event).where(Event.tenant_id == session.tenant_id, Event.id == moved.c.id).values(values)
    await session.scalars(settle.returning(Event).execution_options(**_OPTIONS))
    return set(starts.values())


def _moved(rows: Sequence[Event], starts: dict[datetime, datetime], by: timedelta) -> TableValuedAlias:
    """Make a table of what each row is to be: one statement moves them all."""
    columns: dict[str, list[Any]] = {
        name: [] for name in ("id", "recurrence_id", "start_datetime", "end_datetime", "reminder_datetime")
    }
    for row in rows:
        zone = ZoneInfo(row.timezone)
        start = to_instant(to_wall_clock(row.start_datetime, zone) + by, zone)
        end = lasting(start, wall_clock_duration(row.start_datetime, row.end_datetime, zone), zone)
        reminder = None if row.reminder_datetime is None else start - reminder_lead(row)
        new = (row.id, starts[row.recurrence_id or row.start_datetime], start, end, reminder)
        for values, value in zip(columns.values(), new, strict=True):
            values.append(value)
    types = {name: Uuid() if name == "id" else UtcDateTime() for name in columns}
    arrays = [literal(values, ARRAY(types[name])) for name, values in columns.items()]
    named = [column(name, type_) for name, type_ in types.items()]
    return func.unnest(*arrays).table_valued(*named).render_derived(name="moved")
