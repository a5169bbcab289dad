"""Events: what is ahead, what overlaps, and what a user's calendar shows, series expanded."""

from __future__ import annotations

import asyncio
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from functools import partial
from typing import Any, Final
from uuid import UUID

from sqlalchemy import Select, bindparam, select, union_all

from src.database.base import utc_now
from src.database.calendar import Series
from src.database.models import Event, start_local_values
from src.database.repositories.base import Condition, Repository, Upserted, insert_unless_there, select_by_key
from src.database.statements import InSession, Scope, check_limit, event_moves, events, reminders

MAX_WINDOW: Final = timedelta(days=3660)


@dataclass(frozen=True, slots=True)
class Occurrence:
    """An occurrence: a single event, a changed occurrence of a series, or one of a series by its rule."""

    event: Event
    """The row of the single event, of the series, or of the change."""
    start: datetime
    end: datetime | None
    recurrence_id: datetime | None
    """The original start within its series, by which it is named; None for what does not recur."""
    is_exception: bool
    """True for a changed occurrence of a series."""

    @property
    def id(self) -> UUID:
        """The event's."""
        return self.event.id


class EventRepository(Repository[Event]):
    """The events of the current tenant.

    An event with an `rrule` is a series, and its row is the first occurrence. A changed occurrence is a row of its own,
    with `series_id` and, as `recurrence_id`, the start that it has by the rule; `exdates` are such starts that are left
    out. Values are checked together with the others of their row: instants, the zone, and the rule (`check_rrule` of
    `src.database.calendar` documents the rules).

    A worker goes through the tenants by the registry, with each as its current tenant in turn::

        async with get_db() as session:  # every tenant reads the registry; none has to be current
            tenants = list(await session.scalars(select(Tenant.id).where(Tenant.status == "active")))
        for tenant_id in tenants:
            with tenant_context(tenant_id):
                async with get_db() as session:
                    claimed = await EventRepository(session).claim_due_reminders("worker-1")
                for event in claimed:  # committed by now: what is sent is held
                    await send(event)
                    async with get_db() as session:
                        await EventRepository(session).ack_reminder(event.id, event.reminder_token)
    """

    model = Event

    async def upcoming(
        self, user_id: UUID, *, now: datetime | None = None, within: timedelta | None = None, limit: int = 50
    ) -> list[Event]:
        """Return a user's scheduled events that have yet to begin, the next one first: rows, a series by its own start.

        A series that has begun is not among them, whatever it has ahead: `occurrences(user_id, now, now + within)`
        shows what a calendar does.

        Args:
            user_id: Whose.
            now: From when on; by default the present.
            within: How far ahead to look; by default, and from the end of the calendar on, at all that is to come.
            limit: At most so many.

        Raises:
            ValueError: The limit is not from 1 to 1000, or `now` is no instant.
        """
        check_limit(limit)
        now = now or utc_now()
        events.check_instant("now", now)
        ahead: dict[str, Any] = {"user_id": user_id, "now": now, "limit": limit}
        if within is None or within > events.LATEST - now:
            return await self._built(EventRepository._upcoming).rows(self.session, **ahead)
        return await self._built(EventRepository._upcoming_until).rows(self.session, **ahead, until=now + within)

    async def overlapping(self, user_id: UUID, start: datetime, end: datetime, *, limit: int = 1000) -> list[Event]:
        """Return a user's single events and changed occurrences that overlap an interval, the earliest first.

        What was cancelled does not count. `occurrences` has those of series too.

        Args:
            user_id: Whose.
            start: From.
            end: Until, not included. An event without an end is an instant.
            limit: At most so many.

        Raises:
            ValueError: A bound is naive, or the end is not after the start.
        """
        check_limit(limit)
        events.check_interval(start, end)
        statement = union_all(*self._overlapping(user_id, start, end, limit)).order_by("start_datetime", "id")
        return list(await self.session.scalars(select(Event).from_statement(statement.limit(limit))))

    async def occurrences(
        self, user_id: UUID, start: datetime, end: datetime, *, limit: int = 1000
    ) -> list[Occurrence]:
        """Return what a user has in an interval, the earliest first: single events, and series expanded (RFC 5545).

        Series go by the clock on the wall of their zone: what is at nine stays at nine when the clocks change.

        Args:
            user_id: Whose.
            start: From.
            end: Until, not included; at most ten years later. An event without an end is an instant.
            limit: At most so many.

        Raises:
            ValueError: A bound is naive or not between the years 1900 and 2199, the end is not after the start, or more
                than ten years after it.
        """
        check_limit(limit)
        _check_window(start, end)
        series = self._select(
            Event.user_id == user_id, Event.rrule.is_not(None), Event.status != "cancelled", Event.start_datetime < end
        )
        statement = union_all(*self._overlapping(user_id, start, end, limit), series)
        rows = list(await self.session.scalars(select(Event).from_statement(statement)))
        found = [
            Occurrence(row, row.start_datetime, row.end_datetime, row.recurrence_id, row.series_id is not None)
            for row in rows
            if row.rrule is None
        ]
        found += await self._expand([Series(row) for row in rows if row.rrule is not None], start, end, limit)
        return sorted(found, key=lambda one: (one.start, one.event.id))[:limit]

    async def _expand(self, every: Sequence[Series], start: datetime, end: datetime, limit: int) -> list[Occurrence]:
        current = [one for one in every if not one.is_over(start)]
        if not current:
            return []
        since = start - max(one.duration or timedelta() for one in current)
        series_ids = [one.event.id for one in current]
        replaced = await reminders.replaced_starts(self.session, series_ids, since=since, until=end)
        found: list[Occurrence] = []
        for one in current:
            slots = one.earliest(start, end, replaced=replaced.get(one.event.id, ()), limit=limit)
            found += [Occurrence(one.event, slot.start, slot.end, slot.start, is_exception=False) for slot in slots]
            await asyncio.sleep(0)  # hundreds of series must not keep all others from their turn
        return found

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
        await events.set_first_reminders(self.session, rows, now)
        await events.check_series(self.session, {(row.series_id, row.user_id) for row in rows})
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
        events.check_not_moved(row, values)
        await events.apply_changes(self.session, row, values)
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
                is_changed = await events.apply_changes(self.session, row, changes)
                return Upserted(row, "updated" if is_changed else "unchanged")
            new = Event(**values)
            self._check_rows([new])
            await events.check_series(self.session, {(new.series_id, new.user_id)})
            await events.set_first_reminders(self.session, [new], None)
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
        if await events.delete_single(self.session, row_id):
            return
        event, series = await event_moves.lock_event(self.session, row_id)
        if series is not None and event.recurrence_id is not None:
            series.exdates = sorted({*series.exdates, event.recurrence_id})
            await self.session.flush()
        await super().delete(row_id, hard=hard)

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
        return await event_moves.reschedule(
            self.session,
            event_id,
            start,
            end=end,
            scope=scope,
            recurrence_id=recurrence_id,
            rrule=rrule,
            version=version,
            now=now,
        )

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
        return await event_moves.cancel(
            self.session, event_id, scope=scope, recurrence_id=recurrence_id, version=version
        )

    async def claim_due_reminders(
        self,
        worker: str,
        *,
        limit: int = 10,
        lease: timedelta = timedelta(minutes=5),
        user_id: UUID | None = None,
        max_attempts: int = reminders.MAX_ATTEMPTS,
    ) -> list[Event]:
        """Claim due reminders for a while; those that another worker holds are skipped.

        Commit before sending. Each claim has a fresh `reminder_token`: `ack_reminder` wants it back. Who dies with a
        claim in hand loses it when the lease ends, and the reminder is claimed again: at least once, never by two
        at a time. Time is the server's. Cancelled events and those of deleted users are never claimed. A series whose
        reminder was claimed in vain too often goes on with its next occurrence once that one has begun.

        Args:
            worker: Who claims, for people to read.
            limit: At most so many.
            lease: For how long.
            user_id: Only this user's.
            max_attempts: What was claimed so often in vain is left to `missed`; of a series this one occurrence.

        Returns:
            The events, the longest due first; `reminder_attempts` counts this claim. A series' `reminder_datetime` plus
            `reminder_offset` is the start of the occurrence.

        Raises:
            ValueError: The limit is not from 1 to 1000, the lease not positive or longer than a year, or the worker
                has no name.
        """
        return await reminders.claim_due(
            partial(InSession(self.session).entities, reminders.CLAIM, Event, refresh=True),
            partial(reminders.give_up, self.session, lease=lease),
            worker,
            limit=limit,
            lease=lease,
            max_attempts=max_attempts,
            user_id=user_id,
        )

    async def ack_reminder(self, event_id: UUID, token: UUID, *, now: datetime | None = None) -> Event:
        """Record that a claimed reminder was sent; a series goes on to the reminder of its next occurrence.

        Those that have begun by now are passed over: after an outage nobody is reminded of what is past.

        Args:
            event_id: Whose.
            token: The claim's.
            now: The time that a series goes on from; by default the present, by the server's clock.

        Returns:
            The event: `reminder_sent_at` is set where that was its last reminder.

        Raises:
            StaleDataError: The claim is not held under this token any more: the lease ended and another worker has it,
                or the event was moved.
            ValueError: `now` is naive, or not between the years 1900 and 2199.
        """
        if now is not None:
            events.check_year("now", now)
        return await reminders.acknowledge(self.session, event_id, token, now=now)

    async def release_reminder(self, event_id: UUID, token: UUID, *, retry_at: datetime | None = None) -> Event:
        """Release a claim without having sent: for every worker immediately, or not before a later time.

        Its attempts stay counted. Until `retry_at` it is held under a token that nobody has.

        Args:
            event_id: Whose.
            token: The claim's.
            retry_at: Not to be claimed before.

        Raises:
            StaleDataError: The claim is not held under this token any more.
            ValueError: `retry_at` is naive.
        """
        if retry_at is not None:
            events.check_instant("retry_at", retry_at)
        return await reminders.release(self.session, event_id, token, retry_at=retry_at)

    async def skip_reminder(self, event_id: UUID, token: UUID) -> Event:
        """Skip a claimed reminder: a series goes on to that of its next occurrence; that of a single event is released.

        Args:
            event_id: Whose.
            token: The claim's.

        Raises:
            StaleDataError: The claim is not held under this token any more.
        """
        return await reminders.skip(self.session, event_id, token)

    async def missed(
        self, *, grace: timedelta = timedelta(hours=1), user_id: UUID | None = None, limit: int = 50
    ) -> list[Event]:
        """Return reminders that should have been sent and that nobody holds, the longest due first.

        Because no worker came, or because each attempt failed (`reminder_attempts`); `update` with
        `reminder_attempts=0` lets the workers try again. Time is the server's.

        Args:
            grace: Due for longer than this.
            user_id: Only this user's.
            limit: At most so many.
        """
        check_limit(limit)
        late = self._select(*reminders.missed(self.session.tenant_id, user_id, grace))
        return list(await self.session.scalars(late.order_by(Event.reminder_datetime, Event.id).limit(limit)))

    def _overlapping(self, user_id: UUID, start: datetime, end: datetime, limit: int) -> list[Select[Any]]:
        """Return two selects, of what begins in the interval and of what began before it: an index serves each."""
        single = self._select(Event.user_id == user_id, Event.rrule.is_(None), Event.status != "cancelled")
        begins = single.where(Event.start_datetime >= start, Event.start_datetime < end)
        goes_on = single.where(Event.start_datetime < start, Event.end_datetime > start)
        return [one.order_by(Event.start_datetime, Event.id).limit(limit) for one in (begins, goes_on)]

    def _upcoming(self, *where: Condition) -> Select[Any]:
        of_user = (Event.user_id == bindparam("user_id"), Event.status == "scheduled")
        ahead = self._select(*of_user, Event.start_datetime >= bindparam("now"), *where)
        return ahead.order_by(Event.start_datetime, Event.id).limit(bindparam("limit"))

    def _upcoming_until(self) -> Select[Any]:
        return self._upcoming(Event.start_datetime < bindparam("until"))

    def _check_rows(self, rows: Sequence[Event]) -> None:
        super()._check_rows(rows)
        for row in rows:
            events.check_new_event(row)

    def _check_attributes(self, values: Mapping[str, Any]) -> None:
        super()._check_attributes(values)
        for name in ("start_local", "start_local_basis"):
            if name in values:
                raise ValueError(f"Event.{name} cannot be set: it is computed from start_datetime and timezone")
        events.check_values(values)


def _check_window(start: Any, end: Any) -> None:
    """Check that series can be expanded in an interval.

    Raises:
        ValueError: A bound is not between the years 1900 and 2199, the end is not after the start, or more than ten
            years after it.
    """
    events.check_interval(start, end)
    for name, value in (("start", start), ("end", end)):
        events.check_year(name, value)
    if end - start > MAX_WINDOW:
        raise ValueError(f"end must be at most {MAX_WINDOW.days} days after start, got {(end - start).days}")
