"""Moving and cancelling events: one, one occurrence of a series, it and what follows, or the whole series."""

from __future__ import annotations

from datetime import datetime, timedelta
from typing import get_args
from uuid import UUID

from sqlalchemy import select
from sqlalchemy.orm import aliased

from src.database.errors import StaleDataError
from src.database.models import Event
from src.database.repositories.event_moves import (
    Move,
    Scope,
    copy_of,
    end_before,
    is_next_reminded,
    place,
    plan_move,
    slot_meant,
)
from src.database.repositories.event_reminder_fields import drop_claim, has_reminder, reminder_lead, set_reminder
from src.database.repositories.event_reminders import EventReminders
from src.database.repositories.recurrence import Series, Slot
from src.database.repositories.recurrence_bounds import check_instant, check_year
from src.database.statements.changed_occurrences import cancel_changed, get_changed, lock_changed, move_changed

__all__ = ["EventChanges", "Scope"]


class EventChanges(EventReminders):
    """What changes when events happen. The row that is named is locked: two changes to it come one after the other."""

    async def reschedule(
        self,
        event_id: UUID,
        start: datetime,
        *,
        end: datetime | None = None,
        scope: Scope = "this",
        recurrence_id: datetime | None = None,
        rrule: str | None = None,
        version: int | None = None,
        now: datetime | None = None,
    ) -> Event:
        """Move an event; its reminder is set anew, and a claim on that is lost.

        "this" makes a row of the occurrence. "following" ends the series before it, and begins another one with what
        remains of its COUNT. "all" moves the series by as much wall-clock time as this one; what repeats on a day of
        the month goes to the new day of as many months later. Changed and excluded occurrences go along; the one that
        is named goes to `start` itself, whatever it was changed to.

        Args:
            event_id: The event, the series, or a changed occurrence.
            start: When it is to begin.
            end: When it is to end; by default it lasts as long by the clock on the wall.
            scope: What is meant, where it recurs.
            recurrence_id: Which occurrence of the series, by its original start; for "all" by default the first.
            rrule: The new rule, for "following" and "all"; by default the old one, its weekdays moved along. It must
                have a place for what was changed and excluded: as far away, or by the same number of its month.
            version: Which version of the row named by `event_id` is to be changed; by default the one that is there.
            now: From when on a series reminds; by default the present, by the server's clock.

        Returns:
            What is moved now: the event, the changed occurrence, the new series, the series.

        Raises:
            NotFoundError: This tenant has none.
            StaleDataError: The row is of another version than the one named, or than the one that this session read.
            ValueError: The series has no such occurrence, the event is cancelled, the rule cannot be moved so, or an
                argument does not fit.
        """
        _check_scope(scope)
        _check_times(start, end)
        if now is not None:
            check_year("now", now)
        event, recurrence_id = await self._held(event_id, scope, recurrence_id, version)
        _check_scheduled(event)
        if rrule is not None and (event.rrule is None or scope == "this"):
            raise ValueError('rrule must be None unless a series is moved, with the scope "following" or "all"')
        if event.rrule is None:
            place(event, start, end)
            await self.session.flush()
            return event
        series = Series(event)
        slot = slot_meant(event, series, scope, recurrence_id)
        if scope == "this":
            return await self._change_one(event, series, slot, start, end)
        check_year("start", start)
        whole = scope == "all" or slot.local == series.first
        changed = await lock_changed(self.session, event.id, since=None if whole else slot.start)
        originals = {one for one in event.exdates if whole or one >= slot.start}
        originals.update(row.recurrence_id for row in changed if row.recurrence_id is not None)
        is_named = recurrence_id is not None
        move = plan_move(event, slot, start, end, rrule=rrule, whole=whole, is_named=is_named, originals=originals)
        carry_out = self._move_all if whole else self._move_following
        return await carry_out(event, move, changed, now)

    async def cancel(
        self,
        event_id: UUID,
        *,
        scope: Scope = "this",
        recurrence_id: datetime | None = None,
        version: int | None = None,
    ) -> Event:
        """Cancel an event; nobody is reminded of it any more.

        "this" excludes the occurrence from its series, "following" ends the series before it.

        Args:
            event_id: The event, the series, or a changed occurrence.
            scope: What is meant, where it recurs.
            recurrence_id: Which occurrence of the series, by its original start; not needed for "all".
            version: Which version of the row named by `event_id` is to be changed; by default the one that is there.

        Returns:
            What says so: the event, the changed occurrence, or the series.

        Raises:
            NotFoundError: This tenant has none.
            StaleDataError: The row is of another version than the one named, or than the one that this session read.
            ValueError: The series has no such occurrence, or the scope is none of the three.
        """
        _check_scope(scope)
        event, recurrence_id = await self._held(event_id, scope, recurrence_id, version)
        if event.rrule is None:
            return await self._cancel_whole(event)
        series = Series(event)
        slot = slot_meant(event, series, scope, recurrence_id)
        if scope == "this":
            return await self._cancel_one(event, series, slot)
        if scope == "all" or slot.local == series.first:
            await cancel_changed(self.session, event.id)
            return await self._cancel_whole(event)
        await cancel_changed(self.session, event.id, since=slot.start)
        end_before(event, series, slot)
        await self.session.flush()
        return event

    async def _held(
        self, event_id: UUID, scope: Scope, recurrence_id: datetime | None, version: int | None
    ) -> tuple[Event, datetime | None]:
        """Lock what is to change: of a changed occurrence, where more than it alone is meant, the series."""
        event, series = await self._lock(event_id, version)
        return (event, recurrence_id) if series is None or scope == "this" else (series, event.recurrence_id)

    async def _lock(self, event_id: UUID, version: int | None = None) -> tuple[Event, Event | None]:
        """Lock a row as it is now, and before it, if it is a changed occurrence, its series: all do so in this order.

        What the session has read of them before is what the change is meant for.
        """
        await self.session.flush()  # what this session has changed itself is no other writer's version
        known = {row.id: row.__dict__.get("version") for row in self.session.sync_session if isinstance(row, Event)}
        named = aliased(Event)
        series_id = select(named.series_id).where(named.tenant_id == self.session.tenant_id, named.id == event_id)
        both = self._select(Event.id.in_([event_id, series_id.scalar_subquery()])).order_by(
            Event.series_id.nulls_first()
        )
        statement = both.with_for_update().execution_options(populate_existing=True)
        rows = {row.id: row for row in await self.session.scalars(statement)}
        event: Event = self._found(rows.get(event_id), f"id {event_id}")
        series = None if event.series_id is None else rows.get(event.series_id)
        if event.series_id is not None and series is None:
            raise StaleDataError(f"event {event_id} has just gone to another series", hint="read it again")
        for row in rows.values():
            meant = version if version is not None and row is event else known.get(row.id)
            if meant is not None and row.version != meant:
                raise StaleDataError(
                    f"event {row.id} has version {row.version}, and the change is meant for version {meant}",
                    hint="read it again, and apply the change to what is there now",
                )
        return event, series

    async def _change_one(
        self, event: Event, series: Series, slot: Slot, start: datetime, end: datetime | None
    ) -> Event:
        changed = await get_changed(self.session, event.id, slot.start)
        if changed is None:
            changed = copy_of(event, slot.start, slot.end, ical_uid=event.ical_uid)
            changed.series_id, changed.recurrence_id = event.id, slot.start
            changed.reminder_datetime = slot.start - reminder_lead(event, series) if has_reminder(event) else None
            self.session.add(changed)
        _check_scheduled(changed)
        place(changed, start, end)
        await self._pass_over(event, series, slot)
        await self.session.flush()
        return changed

    async def _cancel_one(self, event: Event, series: Series, slot: Slot) -> Event:
        changed = await get_changed(self.session, event.id, slot.start)
        if changed is not None:
            return await self._cancel_whole(changed)
        event.exdates = sorted({*event.exdates, slot.start})
        await self._pass_over(event, series, slot)
        await self.session.flush()
        return event

    async def _cancel_whole(self, event: Event) -> Event:
        event.status = "cancelled"
        drop_claim(event)
        await self.session.flush()
        return event

    async def _move_all(self, event: Event, move: Move, changed: list[Event], now: datetime | None) -> Event:
        lead = reminder_lead(event, move.series)
        replaced = await self._move_changed(changed, move, into=event)
        event.exdates = move.starts(event.exdates)
        event.rrule = str(move.rule)
        event.start_datetime, event.end_datetime = move.begins, move.ends
        await self.session.flush()
        await self._remind_of_next(event, lead, now, replaced)
        return event

    async def _move_following(self, event: Event, move: Move, changed: list[Event], now: datetime | None) -> Event:
        series, slot = move.series, move.slot
        lead = reminder_lead(event, series)
        new = copy_of(event, move.begins, move.ends)
        new.reminder_datetime = move.begins - lead if has_reminder(event) else None
        new.exdates = move.starts(one for one in event.exdates if one >= slot.start)
        new.rrule = str(move.rule)
        self.session.add(new)
        end_before(event, series, slot)
        await self.session.flush()
        replaced = await self._move_changed(changed, move, into=new)
        await self._remind_of_next(new, lead, now, replaced)
        return new

    async def _move_changed(self, changed: list[Event], move: Move, *, into: Event) -> set[datetime]:
        """Move changed occurrences along with their series, and return their original starts in it."""
        if changed:
            since = min(row.recurrence_id for row in changed if row.recurrence_id is not None)
            await move_changed(self.session, move.series.event.id, move.along(changed), since=since, into=into)
        return {row.recurrence_id for row in changed if row.recurrence_id is not None}

    async def _remind_of_next(
        self, event: Event, lead: timedelta, now: datetime | None, replaced: set[datetime]
    ) -> None:
        """Set a series' reminder to that of the first occurrence that has not begun."""
        if has_reminder(event):
            now = now or await self._server_time()
            upcoming = Series(event).after(now, replaced=replaced)
            set_reminder(event, None if upcoming is None else upcoming.start - lead, lead=lead)
            await self.session.flush()

    async def _pass_over(self, event: Event, series: Series, slot: Slot) -> None:
        """Where the series' reminder is that of this occurrence, which is none of its own any more, go to the next."""
        if is_next_reminded(event, series, slot):
            lead = reminder_lead(event, series)
            set_reminder(event, await self._next_reminder(event, series, after=slot.start), lead=lead)


def _check_scope(scope: str) -> None:
    if scope not in get_args(Scope):
        raise ValueError(f"scope must be this, following or all, got {scope!r}")


def _check_times(start: datetime, end: datetime | None) -> None:
    check_instant("start", start)
    if end is not None:
        check_instant("end", end)
        if end < start:
            raise ValueError(f"end must not be before start, got {start.isoformat()} to {end.isoformat()}")


def _check_scheduled(event: Event) -> None:
    if event.status == "cancelled":
        raise ValueError(f"event {event.id} is cancelled; `update` its status to scheduled before it is moved")
