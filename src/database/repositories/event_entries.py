"""Entering events, whole or in part: checked beside what is there, their reminders set anew with what they are for."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from datetime import datetime, timedelta
from typing import Any, Final
from uuid import UUID

from src.database.models import Event
from src.database.models.event import start_local_values
from src.database.repositories.base import Upserted
from src.database.repositories.event_changes import EventChanges
from src.database.repositories.event_checks import CHECKED, check_event, check_not_moved, check_values
from src.database.repositories.event_reminder_fields import has_reminder, reminder_lead, set_reminder
from src.database.repositories.recurrence import Series
from src.database.repositories.recurrence_bounds import check_year
from src.database.repositories.upsert import insert_unless_there, select_by_key
from src.database.statements.changed_occurrences import delete_single

__all__ = ["EventEntries"]

_MOVE_REMINDERS: Final = frozenset({"start_datetime", "rrule", "reminder_offset", "reminder_datetime"})
_OF_REMINDERS: Final = frozenset(
    {"reminder_attempts", "reminder_claimed_by", "reminder_claimed_until", "reminder_token", "reminder_sent_at"}
)


class EventEntries(EventChanges):
    """What is written of events by their columns."""

    async def add(self, row: Event, *, now: datetime | None = None) -> Event:
        """Insert an event, as `add_many` does."""
        return (await self.add_many([row], now=now))[0]

    async def add_many(self, rows: Sequence[Event], *, now: datetime | None = None) -> list[Event]:
        """Insert events, as `Repository.add_many` does; a changed occurrence is of a series of its own user.

        Args:
            rows: The events. Where only the `reminder_offset` is given, the reminder's time comes from that. A series
                that is under way reminds of the next occurrence to come.
            now: From when on a series reminds; by default the present, by the server's clock.

        Raises:
            ValueError: An instant, a zone or a rule cannot be right, or a series is none of the user's.
        """
        self._check_rows(rows)
        await self._set_first_reminders(rows, now)
        await self._check_series({(row.series_id, row.user_id) for row in rows})
        return await super().add_many(rows)

    async def update(self, row_id: UUID, /, **values: Any) -> Event:
        """Change attributes of the event of this id, as `Repository.update` does.

        Where its start, its `reminder_offset` or its `reminder_datetime` changes, its reminder is set anew: nobody
        holds it, and it was not sent. A series is moved by `reschedule`.

        Raises:
            NotFoundError: This tenant has none.
            StaleDataError: Another writer changed it meanwhile.
            ValueError: An attribute is unknown, or is one that never changes; the values do not go with the others of
                the row; or a series' start, zone or rule changes.
        """
        self._check_attributes(values)
        row = await self.get(row_id)
        check_not_moved(row, values)
        await self._apply(row, values)
        return row

    async def upsert(self, values: Mapping[str, Any], *, key: Collection[str]) -> Upserted[Event]:
        """Insert an event, or bring the one with this key up to date, as `Repository.upsert` does, in two statements.

        Reminders are set as `add` and `update` do it. A series is taken as it is given, start and rule: give its
        `exdates` with it, and its changed occurrences after it.

        Raises:
            ValueError: An attribute is unknown, no unique key is made of these, one of them has no value, or the values
                do not go together.
        """
        self._check_attributes({name: value for name, value in values.items() if name != "id"})
        there = select_by_key(self.session, Event, values, key=key).with_for_update()
        while True:  # a further round only where another writer inserts it between the two statements
            row: Event | None = await self.session.scalar(there.execution_options(populate_existing=True))
            if row is not None:
                changes = {name: value for name, value in values.items() if name != "id"}  # a row keeps its own
                return Upserted(row, "updated" if await self._apply(row, changes) else "unchanged")
            new = Event(**values)
            self._check_rows([new])
            await self._check_series({(new.series_id, new.user_id)})
            await self._set_first_reminders([new], None)
            local = start_local_values(new.start_datetime, new.timezone)
            whole = {**values, "reminder_datetime": new.reminder_datetime, **local}
            row = await insert_unless_there(self.session, Event, whole, key=key)
            if row is not None:
                return Upserted(row, "inserted")

    async def delete(self, row_id: UUID, *, hard: bool = False) -> None:
        """Delete the event of this id for good; a changed occurrence is excluded from its series, as if cancelled.

        Raises:
            NotFoundError: This tenant has none.
            ForeignKeyError: It is a series, and changed occurrences still refer to it; `cancel` it.
        """
        if await delete_single(self.session, row_id):
            return
        event, series = await self._lock(row_id)
        if series is not None and event.recurrence_id is not None:
            series.exdates = sorted({*series.exdates, event.recurrence_id})
            await self.session.flush()
        await super().delete(row_id, hard=hard)

    async def _apply(self, row: Event, values: Mapping[str, Any]) -> bool:
        """Change a row, and its reminder where that is for something else now; say whether anything changed."""
        if values.keys() & set(CHECKED):
            check_event({name: values.get(name, getattr(row, name)) for name in CHECKED})
        if values.keys() & {"series_id", "user_id"}:
            await self._check_series({(values.get("series_id", row.series_id), values.get("user_id", row.user_id))})
        lead, now = timedelta(), None
        if values.keys() & (_MOVE_REMINDERS | {"exdates"}):
            lead = reminder_lead(row, None if row.rrule is None else Series(row))
            if values.get("rrule", row.rrule) is not None and values.get("reminder_datetime") is not None:
                now = await self._server_time()
            values = _meant(row, values, lead, now)
        before = {name: getattr(row, name) for name in values}
        had_reminder = has_reminder(row)
        for name, value in values.items():
            setattr(row, name, value)
        changed = {name for name, value in values.items() if value != before[name]}
        if changed & _MOVE_REMINDERS or self._excludes_next(row, changed, lead):
            await self._rearm(row, changed, lead, had_reminder=had_reminder, now=now)
            for name in _OF_REMINDERS & values.keys():
                setattr(row, name, values[name])
        await self.session.flush()
        return bool(changed)

    async def _rearm(
        self, row: Event, changed: set[str], lead: timedelta, *, had_reminder: bool, now: datetime | None
    ) -> None:
        """Set a reminder anew: as it says itself, else as long before the start as its offset says, or as it was."""
        if "reminder_datetime" in changed:
            set_reminder(row, row.reminder_datetime)
        elif "reminder_offset" in changed and row.reminder_offset is None:
            set_reminder(row, None)
        elif had_reminder or row.reminder_offset is not None:
            lead = lead if row.reminder_offset is None else timedelta(seconds=row.reminder_offset)
            if row.rrule is None:
                set_reminder(row, _before(row, lead))
                return
            await self.session.flush()
            now = now or await self._server_time()
            set_reminder(row, await self._next_reminder(row, Series(row), after=now), lead=lead)

    async def _set_first_reminders(self, rows: Sequence[Event], now: datetime | None) -> None:
        """Set when new events are first reminded of; only a series needs the time for that."""
        if now is None and any(row.rrule is not None and has_reminder(row) for row in rows):
            now = await self._server_time()
        for row in rows:
            _set_first_reminder(row, now)

    def _excludes_next(self, row: Event, changed: set[str], lead: timedelta) -> bool:
        """Say whether a series' reminder is of an occurrence that is excluded now."""
        if row.rrule is None or "exdates" not in changed or row.reminder_datetime is None:
            return False
        return row.reminder_sent_at is None and row.reminder_datetime + lead in row.exdates

    async def _check_series(self, pairs: Collection[tuple[UUID | None, UUID]]) -> None:
        """Want that each of these series is of the user beside it; None is no series."""
        wanted = {series_id for series_id, _ in pairs if series_id is not None}
        if wanted:
            of_series = self._select(Event.id.in_(wanted)).with_only_columns(Event.id, Event.user_id)
            owners: dict[UUID, UUID] = dict(iter(await self.session.execute(of_series)))
            if any(series_id is not None and owners.get(series_id) != user_id for series_id, user_id in pairs):
                raise ValueError("series_id must be that of a series of the same user")

    def _check_rows(self, rows: Sequence[Event]) -> None:
        super()._check_rows(rows)
        for row in rows:
            check_event({name: getattr(row, name) for name in CHECKED} | {"timezone": row.timezone or "UTC"})

    def _check_attributes(self, values: Mapping[str, Any]) -> None:
        super()._check_attributes(values)
        for name in ("start_local", "start_local_basis"):
            if name in values:
                raise ValueError(f"Event.{name} cannot be set: it is computed from start_datetime and timezone")
        check_values(values)


def _set_first_reminder(row: Event, now: datetime | None) -> None:
    """Say when a new event is first reminded of; a series of the first occurrence that has not begun."""
    if not has_reminder(row):
        return
    lead = reminder_lead(row)
    if row.reminder_datetime is None:
        row.reminder_datetime = _before(row, lead)
    if now is None or row.rrule is None or row.reminder_sent_at is not None or row.start_datetime > now:
        return
    check_year("now", now)
    if row.reminder_datetime <= row.start_datetime:
        row.timezone = row.timezone or "UTC"
        slot = Series(row).after(now)
        set_reminder(row, None if slot is None else slot.start - lead, lead=lead)


def _meant(row: Event, values: Mapping[str, Any], lead: timedelta, now: datetime | None) -> Mapping[str, Any]:
    """Leave a reminder's time out where an offset says it; of a series under way it says how long before each one.

    Args:
        row: The event.
        values: The changes.
        lead: How long before the start its reminder was.
        now: The present; None where no time of a series' reminder changes.
    """
    at = values.get("reminder_datetime")
    if at is None:
        skip = values.get("reminder_offset") is not None
        return {name: value for name, value in values.items() if not (skip and name == "reminder_datetime")}
    start = values.get("start_datetime", row.start_datetime)
    if now is None or start > now or at > start:
        return values
    rest = {name: value for name, value in values.items() if name != "reminder_datetime"}
    return (
        rest
        if has_reminder(row) and start - at == lead
        else {"reminder_offset": int((start - at).total_seconds()), **rest}
    )


def _before(row: Event, lead: timedelta) -> datetime:
    try:
        return row.start_datetime - lead
    except OverflowError:
        raise ValueError("reminder_offset must leave the reminder within the calendar") from None
