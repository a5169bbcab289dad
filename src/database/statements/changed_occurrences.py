"""The changed occurrences of a series, which are rows of their own: moved along with it, or cancelled."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime, timedelta
from typing import Any, Final, NamedTuple
from uuid import UUID

from sqlalchemy import DateTime, Interval, TableValuedAlias, Uuid, column, delete, func, literal, select, update
from sqlalchemy.dialects.postgresql import ARRAY

from src.database.base import CleanText, UtcDateTime, check_id
from src.database.models import Event
from src.database.models.event import start_local_values
from src.database.session import AsyncSession
from src.database.statements.reminders import NOT_HELD
from src.database.statements.updating import update_rows

__all__ = ["Moved", "cancel_changed", "get_changed", "lock_changed", "move_changed"]

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


class Moved(NamedTuple):
    """A changed occurrence as it is to be; its zone stays."""

    id: UUID
    recurrence_id: datetime
    start_datetime: datetime
    end_datetime: datetime | None
    reminder_datetime: datetime | None
    timezone: str


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
    of_series = [Event.series_id == series_id, Event.status == "scheduled"]
    if since is not None:
        of_series.append(Event.recurrence_id >= since)
    cancelled = {"status": "cancelled", "version": Event.version + 1, **NOT_HELD}
    await update_rows(session, Event, *of_series, **cancelled)


async def lock_changed(session: AsyncSession, series_id: UUID, *, since: datetime | None = None) -> list[Event]:
    """Return, locked, the changed occurrences of a series, or those from an original start on."""
    mine = [Event.tenant_id == session.tenant_id, Event.series_id == series_id]
    if since is not None:
        mine.append(Event.recurrence_id >= since)
    statement = select(Event).where(*mine).order_by(Event.recurrence_id).with_for_update()
    return list(await session.scalars(statement.execution_options(**_OPTIONS)))


async def move_changed(
    session: AsyncSession, series_id: UUID, moved: Sequence[Moved], *, since: datetime, into: Event
) -> None:
    """Move changed occurrences of a series, in one statement after those that are in the way are put aside.

    Args:
        session: The session.
        series_id: The series that they belong to.
        moved: The rows as they are to be; all that the series has from `since` on.
        since: The first of their original starts.
        into: The series that they belong to afterwards.
    """
    mine = [Event.tenant_id == session.tenant_id, Event.series_id == series_id]
    aside = update(Event).where(*mine, Event.recurrence_id >= since)
    aside = aside.values(recurrence_id=Event.recurrence_id + literal(_ASIDE, Interval()))
    await session.execute(aside.execution_options(synchronize_session=False))
    row = _as_table(moved)
    values = {
        **{name: row.c[name] for name in _MOVED if name != "id"},
        "series_id": into.id,
        "ical_uid": into.ical_uid,
        "reminder_sent_at": None,
        "reminder_attempts": 0,
        "version": Event.version + 1,
        **NOT_HELD,
    }
    await update_rows(session, Event, Event.id == row.c.id, **values)


def _as_table(moved: Sequence[Moved]) -> TableValuedAlias:
    """Return a table of what each row is to be: one statement moves them all."""
    rows = [(*one[:-1], *start_local_values(one.start_datetime, one.timezone).values()) for one in moved]
    arrays = [
        literal(list(values), ARRAY(type_))
        for values, type_ in zip(zip(*rows, strict=True), _MOVED.values(), strict=True)
    ]
    named = [column(name, type_) for name, type_ in _MOVED.items()]
    return func.unnest(*arrays).table_valued(*named).render_derived(name="moved")


async def delete_single(session: AsyncSession, event_id: UUID) -> bool:
    """Delete an event that is no changed occurrence, and return whether there was one."""
    check_id("row_id", event_id)
    single = delete(Event).where(Event.tenant_id == session.tenant_id, Event.id == event_id, Event.series_id.is_(None))
    options = {"synchronize_session": "fetch"}  # the session forgets the row
    return await session.scalar(single.returning(Event.id), execution_options=options) is not None
