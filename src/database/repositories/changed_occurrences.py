"""The changed occurrences of a series, which are rows of their own: moved along with it, or cancelled."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime, timedelta
from typing import Any, Final
from uuid import UUID

from sqlalchemy import DateTime, Interval, TableValuedAlias, Uuid, column, func, literal, select, update
from sqlalchemy.dialects.postgresql import ARRAY

from src.database.base import CleanText, UtcDateTime
from src.database.models import Event
from src.database.models.event import start_local_values
from src.database.repositories.event_moves import Move, end_at
from src.database.repositories.event_reminder_fields import reminder_lead
from src.database.repositories.recurrence_clock import to_instant, to_wall_clock
from src.database.statements.reminders import NOT_HELD
from src.database.tenancy import AsyncSession
from src.database.zones import get_zone

__all__ = ["cancel_changed", "get_changed", "lock_changed", "move_changed"]

# Out of the way of those that are there: each is one of its series' under its own recurrence_id.
_ASIDE: Final = timedelta(days=400_000)
_MOVED: Final[dict[str, Any]] = {
    "id": Uuid(),
    **dict.fromkeys(("recurrence_id", "start_datetime", "end_datetime", "reminder_datetime"), UtcDateTime()),
    "start_local": DateTime(),
    "start_local_basis": CleanText(),
}
"""What a moved row is to be, by attribute."""
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


async def lock_changed(session: AsyncSession, series_id: UUID, *, since: datetime | None = None) -> list[Event]:
    """Return, locked, the changed occurrences of a series, or those from an original start on."""
    mine = [Event.tenant_id == session.tenant_id, Event.series_id == series_id]
    if since is not None:
        mine.append(Event.recurrence_id >= since)
    statement = select(Event).where(*mine).order_by(Event.recurrence_id).with_for_update()
    return list(await session.scalars(statement.execution_options(**_OPTIONS)))


async def move_changed(session: AsyncSession, rows: Sequence[Event], move: Move, *, into: Event) -> set[datetime]:
    """Move the changed occurrences of a series along, each as far as its place in the series.

    Args:
        session: Whose.
        rows: Which ones.
        move: Where the series goes.
        into: The series that they then belong to.

    Returns:
        Their original starts within the series that they then belong to.
    """
    if not rows:
        return set()
    moved = _moved(rows, move)
    mine = [Event.tenant_id == session.tenant_id, Event.series_id == rows[0].series_id]
    since = min(row.recurrence_id for row in rows if row.recurrence_id is not None)
    aside = update(Event).where(*mine, Event.recurrence_id >= since)
    aside = aside.values(recurrence_id=Event.recurrence_id + literal(_ASIDE, Interval()))
    await session.execute(aside.execution_options(synchronize_session=False))
    values = {
        "series_id": into.id,
        "ical_uid": into.ical_uid,
        "recurrence_id": moved.c.recurrence_id,
        "start_datetime": moved.c.start_datetime,
        "start_local": moved.c.start_local,
        "start_local_basis": moved.c.start_local_basis,
        "end_datetime": moved.c.end_datetime,
        "reminder_datetime": moved.c.reminder_datetime,
        "reminder_sent_at": None,
        "reminder_attempts": 0,
        "version": Event.version + 1,
        **NOT_HELD,
    }
    settle = update(Event).where(Event.tenant_id == session.tenant_id, Event.id == moved.c.id).values(values)
    await session.scalars(settle.returning(Event).execution_options(**_OPTIONS))
    return {row.recurrence_id for row in rows if row.recurrence_id is not None}


def _moved(rows: Sequence[Event], move: Move) -> TableValuedAlias:
    """Make a table of what each row is to be: one statement moves them all."""
    columns: dict[str, list[Any]] = {name: [] for name in _MOVED}
    for row in rows:
        original = row.recurrence_id or row.start_datetime
        old, new = move.places[original]
        if move.is_named and original == move.slot.start:
            start, end = move.start, move.end or end_at(row, move.start)
        else:
            zone, all_day = get_zone(row.timezone), bool(row.all_day)
            start = to_instant(to_wall_clock(row.start_datetime, zone, all_day=all_day) + (new - old), zone)
            end = end_at(row, start)
        reminder = None if row.reminder_datetime is None else start - reminder_lead(row)
        local = start_local_values(start, row.timezone)
        its = (row.id, to_instant(new, move.series.zone), start, end, reminder, *local.values())
        for values, value in zip(columns.values(), its, strict=True):
            values.append(value)
    arrays = [literal(values, ARRAY(_MOVED[name])) for name, values in columns.items()]
    named = [column(name, type_) for name, type_ in _MOVED.items()]
    return func.unnest(*arrays).table_valued(*named).render_derived(name="moved")
