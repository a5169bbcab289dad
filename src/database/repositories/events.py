"""Events: the events ahead, those that overlap an interval, the occurrences of series, and reminders."""

from __future__ import annotations

import asyncio
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from functools import partial
from typing import TYPE_CHECKING, Any, Final, Unpack
from uuid import UUID

from sqlalchemy import Select, bindparam, select, union_all

from src.database.base import utc_now
from src.database.calendar import Series
from src.database.models import Event, start_local_values
from src.database.repositories.base import Condition, Repository, Upserted, insert_unless_there, select_by_key
from src.database.statements import InSession, Scope, check_limit, event_moves, events, reminders

if TYPE_CHECKING:
    from src.database.models import attributes

MAX_WINDOW: Final = timedelta(days=3660)


@dataclass(frozen=True, slots=True)
class Occurrence:
    """An entry of a calendar: a single event, an occurrence of a series by its rule, or a changed occurrence."""

    event: Event
    """The row of the single event, of the series, or of the changed occurrence."""
    start: datetime
    end: datetime | None
    recurrence_id: datetime | None
    """The start that the rule gives, which identifies the occurrence within its series; None for a single event."""
    is_exception: bool
    """True for a changed occurrence of a series."""

    @property
    def id(self) -> UUID:
        """The id of the event."""
        return self.event.id


class EventRepository(Repository[Event]):
    """The events of the current tenant.

    An event with an `rrule` is a series, and its row is the first occurrence. A changed occurrence is a separate row:
    its `series_id` is the series, and its `recurrence_id` is the start that the rule gives. `exdates` lists the starts
    of excluded occurrences. The values of a row are checked together: instants, zone and rule (`check_rrule` of
    `src.database.calendar` documents the supported rules).

    A worker reads the registry of tenants, and makes each tenant the current one in turn::

        async with get_db() as session:  # reading the registry needs no current tenant
            tenants = list(await session.scalars(select(Tenant.id).where(Tenant.status == "active")))
        for tenant_id in tenants:
            with tenant_context(tenant_id):
                async with get_db() as session:
                    claimed = await EventRepository(session).claim_due_reminders("worker-1")
                for event in claimed:  # the claim is committed before anything is sent
                    await send(event)
                    async with get_db() as session:
                        await EventRepository(session).ack_reminder(event.id, event.reminder_token)
    """

    model = Event
    read_only = dict.fromkeys(("start_local", "start_local_basis"), "it is computed from start_datetime and timezone")

    async def upcoming(
        self, user_id: UUID, *, now: datetime | None = None, within: timedelta | None = None, limit: int = 50
    ) -> list[Event]:
        """Return a user's scheduled events that start after a time, the earliest first.

        A series counts by the start of its row: a series that has begun is not returned, even if it has occurrences
        ahead. Use `occurrences(user_id, now, now + within)` for these.

        Args:
            user_id: The user's id.
            now: The earliest start; by default the current time.
            within: How far ahead the start may be; by default without limit.
            limit: The largest number of events, 1 to 1000.

        Raises:
            ValueError: The limit is out of range, or `now` is naive, or not from 0001-01-02 to 9999-12-30.
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

        Cancelled events are left out. `occurrences` also has the occurrences of series.

        Args:
            user_id: The user's id.
            start: The start of the interval.
            end: The end of the interval, not included. An event without an end is an instant.
            limit: The largest number of events, 1 to 1000.

        Raises:
            ValueError: The limit is out of range, a bound is naive, or the end is not after the start.
        """
        check_limit(limit)
        events.check_interval(start, end)
        statement = union_all(*self._overlapping(user_id, start, end, limit)).order_by("start_datetime", "id")
        return list(await self.session.scalars(select(Event).from_statement(statement.limit(limit))))

    async def occurrences(
        self, user_id: UUID, start: datetime, end: datetime, *, limit: int = 1000
    ) -> list[Occurrence]:
        """Return a user's calendar in an interval, the earliest entry first: single events and expanded series.

        Series are expanded as RFC 5545 defines it, in the local time of their zone: an event at nine o'clock stays at
        nine when daylight saving time begins.

        Args:
            user_id: The user's id.
            start: The start of the interval.
            end: The end of the interval, not included; at most 3660 days after the start. An event without an end is an
                instant.
            limit: The largest number of occurrences, 1 to 1000.

        Raises:
            ValueError: The limit is out of range, a bound is naive or not between the years 1900 and 2199, or the end
                is not after the start or too far from it.

        Example:
            week = datetime(2030, 1, 7, tzinfo=UTC)
            for occurrence in await EventRepository(session).occurrences(user.id, week, week + timedelta(days=7)):
                print(occurrence.start, occurrence.event.title)
        """
        check_limit(limit)
        _check_window(start, end)
        series = self._select(
            Event.user_id == user_id, Event.rrule.is_not(None), Event.status != "cancelled", Event.start_datetime < end
        )
        statement = union_all(*self._overlapping(user_id, start, end, limit), series)
        rows = list(await self.session.scalars(select(Event).from_statement(statement)))
        occurrences = [
            Occurrence(row, row.start_datetime, row.end_datetime, row.recurrence_id, row.series_id is not None)
            for row in rows
            if row.rrule is None
        ]
        occurrences += await self._expand([Series(row) for row in rows if row.rrule is not None], start, end, limit)
        return sorted(occurrences, key=lambda occurrence: (occurrence.start, occurrence.id))[:limit]

    async def _expand(self, every: Sequence[Series], start: datetime, end: datetime, limit: int) -> list[Occurrence]:
        """Return the earliest occurrences of each series in an interval, without those that were changed."""
        current = [series for series in every if not series.is_over(start)]
        if not current:
            return []
        since = start - max(series.duration or timedelta() for series in current)
        series_ids = [series.event.id for series in current]
        replaced = await reminders.replaced_starts(self.session, series_ids, since=since, until=end)
        occurrences: list[Occurrence] = []
        for series in current:
            slots = series.earliest(start, end, replaced=replaced.get(series.event.id, ()), limit=limit)
            event = series.event
            occurrences += [Occurrence(event, slot.start, slot.end, slot.start, is_exception=False) for slot in slots]
            await asyncio.sleep(0)  # expansion is CPU-bound: let other tasks run between hundreds of series
        return occurrences

    async def add(self, row: Event, *, now: datetime | None = None) -> Event:
        """Insert an event; see `add_many`."""
        return (await self.add_many([row], now=now))[0]

    async def add_many(self, rows: Sequence[Event], *, now: datetime | None = None) -> list[Event]:
        """Insert events in one statement.

        Args:
            rows: The events. If an event has a `reminder_offset` and no `reminder_datetime`, the latter is computed.
                The reminder of a series that has begun is that of its next occurrence.
            now: A series gets the reminder of its first occurrence after this time; by default the current time of the
                server.

        Raises:
            ValueError: An instant, a zone or a rule is invalid, or the series_id of a changed occurrence is not that of
                a series of the same user.
            IntegrityError: A row violates a constraint.
        """
        self._check_rows(rows)
        await events.set_first_reminders(self.session, rows, now)
        await events.check_series(self.session, {(row.series_id, row.user_id) for row in rows})
        return await super().add_many(rows)

    async def update(  # type: ignore[override] # only its attributes
        self,
        row_id: UUID,
        /,
        *,
        expected: attributes.EventAttributes | None = None,
        **values: Unpack[attributes.EventChanges],
    ) -> Event:
        """Update attributes of the event with this id.

        A change of the start, the `reminder_offset` or the `reminder_datetime` resets the reminder: it counts as not
        sent, and a worker's claim on it is lost. `reschedule` moves a series.

        Raises:
            NotFoundError: The tenant has no such event.
            StaleDataError: An expected attribute has another value, or another transaction has changed the event since
                it was read.
            ValueError: An attribute is unknown or cannot be set, the values contradict others of the row, or the start,
                the zone or the rule of a series would change.
        """
        self._check_attributes(values)
        row = await self._get_expected(row_id, expected)
        events.check_not_moved(row, values)
        await events.apply_changes(self.session, row, values)
        return row

    async def upsert(self, values: attributes.EventUpsert, *, key: Collection[str]) -> Upserted[Event]:  # type: ignore[override] # only its attributes
        """Insert an event, or update the event with this key, in two statements.

        Reminders are set as by `add` and `update`. Unlike `update`, this changes the start and the rule of a series as
        given: pass its `exdates` in the same call, and upsert its changed occurrences afterwards.

        Args:
            values: Attributes by name, including those of the key. An update changes only these.
            key: The names of the attributes of a unique key of the table, without `tenant_id`.

        Returns:
            The event, and whether it was inserted, updated or unchanged.

        Raises:
            ValueError: An attribute is unknown, `key` is not a unique key, an attribute of the key has no value, or the
                values contradict each other.
        """
        self._check_attributes({name: value for name, value in values.items() if name != "id"})
        existing = select_by_key(self.session, Event, values, key=key).with_for_update()
        while True:  # repeats only if another transaction inserts the row between the two statements
            row: Event | None = await self.session.scalar(existing.execution_options(populate_existing=True))
            if row is not None:
                changes = {
                    name: value for name, value in values.items() if name != "id"
                }  # an existing row keeps its id
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
        """Delete the event with this id permanently. Deleting a changed occurrence excludes it from its series.

        Raises:
            NotFoundError: The tenant has no such event.
            ForeignKeyError: The event is a series with changed occurrences. Use `cancel`.
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
        """Move an event. Its reminder is reset, and a worker's claim on the reminder is lost.

        The scopes of a series:

        - "this" stores the occurrence as a changed occurrence, a row of its own.
        - "following" ends the series before the occurrence, and creates a new series with the rest of its COUNT.
          For the first occurrence, "following" is the same as "all".
        - "all" moves the whole series by the same amount of local time as the occurrence. A monthly or yearly series
          that repeats on a day of the month moves by whole months, and to the new day of the month. Changed and
          excluded occurrences move too; the named occurrence gets exactly `start`, also if it was changed before.

        Args:
            event_id: The id of the event, the series, or a changed occurrence.
            start: The new start.
            end: The new end; by default the event keeps its duration in local time.
            scope: Which occurrences of a series move.
            recurrence_id: The occurrence of the series, by its original start; for "all" by default the first one.
            rrule: The new rule, for "following" and "all"; by default the old rule, with its weekdays moved. The
                move shifts occurrences by the local time between the moved occurrence and `start`. Each changed or
                excluded occurrence, shifted by the same time, must be an occurrence of the new rule. If both
                rules repeat by month or both by year, with the same INTERVAL, occurrences can also correspond by their
                position in the series.
            version: The expected version of the row `event_id`; by default the version that this session has read, or
                any version if the session has not read the row.
            now: A series gets the reminder of its first occurrence after this time; by default the current time of the
                server.

        Returns:
            The moved event, the changed occurrence, the new series ("following"), or the series ("all").

        Raises:
            NotFoundError: The tenant has no such event.
            StaleDataError: The row has another version than `version`, or than this session has read.
            ValueError: The series has no such occurrence, the event is cancelled, the rule cannot be moved this way, or
                an argument does not fit the scope.

        Example:
            nine = datetime(2030, 1, 14, 9, tzinfo=UTC)
            ten = nine + timedelta(hours=1)
            moved = await EventRepository(session).reschedule(event.id, ten, recurrence_id=nine)
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
        """Cancel an event, and its reminder. A cancelled event stays stored.

        Args:
            event_id: The id of the event, the series, or a changed occurrence.
            scope: For a series: "this" excludes the occurrence, "following" ends the series before it, "all" cancels
                the whole series. For the first occurrence, "following" is the same as "all".
            recurrence_id: The occurrence of the series, by its original start; not needed for "all".
            version: The expected version of the row `event_id`; by default the version that this session has read, or
                any version if the session has not read the row.

        Returns:
            The changed row: the event, the changed occurrence, or the series.

        Raises:
            NotFoundError: The tenant has no such event.
            StaleDataError: The row has another version than `version`, or than this session has read.
            ValueError: The series has no such occurrence, or `scope` is not one of the three.
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
        """Claim due reminders for the time of a lease. Reminders that another worker has claimed are skipped.

        Commit before sending. Each claim has a new `reminder_token`, which `ack_reminder` needs. If a worker dies, its
        claim ends with the lease, and another worker claims the reminder. Two workers never have a claim on the same
        reminder at the same time. But a reminder is sent twice if a worker dies between sending and `ack_reminder`, or
        is still sending when its lease ends: choose a lease longer than sending takes. Leases are measured with the
        server's clock. Reminders of cancelled events and of deleted users are never claimed. If the attempts for one
        occurrence of a series are used up, the series continues with its next occurrence as soon as the failed one has
        begun.

        Args:
            worker: The name of the worker, for operators.
            limit: The largest number of reminders, 1 to 1000.
            lease: The duration of the claim, at most a year.
            user_id: Claim only the reminders of this user.
            max_attempts: How often a reminder is claimed without success; then `missed` returns it. Attempts count for
                each occurrence of a series.

        Returns:
            The events, the longest due first; `reminder_attempts` includes this claim. For a series,
            `reminder_datetime` plus `reminder_offset` is the start of the occurrence.

        Raises:
            ValueError: The limit or the lease is out of range, or `worker` is empty.

        Example:
            events = EventRepository(session)
            due = await events.claim_due_reminders("worker-1", limit=20)
            await session.commit()  # send after the commit, so that no other worker claims the same reminders
            for event in due:
                print(event.title)
                await events.ack_reminder(event.id, event.reminder_token)
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
        """Record that a claimed reminder was sent. A series gets the reminder of its next occurrence.

        Occurrences that have begun are skipped, so that no reminder comes too late after an outage.

        Args:
            event_id: The id of the event.
            token: The `reminder_token` of the claim.
            now: A series gets the reminder of its first occurrence after this time; by default the current time of the
                server.

        Returns:
            The event. `reminder_sent_at` is set if this was its last reminder.

        Raises:
            StaleDataError: The claim is lost: the lease ended and another worker has claimed the reminder, or the event
                was moved.
            ValueError: `now` is naive, or not between the years 1900 and 2199.
        """
        if now is not None:
            events.check_year("now", now)
        return await reminders.acknowledge(self.session, event_id, token, now=now)

    async def release_reminder(self, event_id: UUID, token: UUID, *, retry_at: datetime | None = None) -> Event:
        """Release a claim without sending. The attempt stays counted.

        Args:
            event_id: The id of the event.
            token: The `reminder_token` of the claim.
            retry_at: The earliest time of the next claim; by default immediately. Until then the reminder stays
                claimed, under a token that no worker has.

        Raises:
            StaleDataError: The claim is lost.
            ValueError: `retry_at` is naive.
        """
        if retry_at is not None:
            events.check_instant("retry_at", retry_at)
        return await reminders.release(self.session, event_id, token, retry_at=retry_at)

    async def skip_reminder(self, event_id: UUID, token: UUID) -> Event:
        """Skip a claimed reminder. A series gets the reminder of its next occurrence; a single event is released.

        Args:
            event_id: The id of the event.
            token: The `reminder_token` of the claim.

        Raises:
            StaleDataError: The claim is lost.
        """
        return await reminders.skip(self.session, event_id, token)

    async def missed(
        self, *, grace: timedelta = timedelta(hours=1), user_id: UUID | None = None, limit: int = 50
    ) -> list[Event]:
        """Return events whose reminder is overdue and not claimed, the longest due first.

        Either no worker has run, or all attempts have failed (`reminder_attempts`). `update` with `reminder_attempts=0`
        lets the workers try again. The time is the server's.

        Args:
            grace: How long a reminder must be due.
            user_id: Only the events of this user.
            limit: The largest number of events, 1 to 1000.

        Raises:
            ValueError: The limit is out of range.
        """
        check_limit(limit)
        late = self._select(*reminders.missed(self.session.tenant_id, user_id, grace))
        return list(await self.session.scalars(late.order_by(Event.reminder_datetime, Event.id).limit(limit)))

    def _overlapping(self, user_id: UUID, start: datetime, end: datetime, limit: int) -> list[Select[Any]]:
        """Return two selects: events that begin in the interval, and events that began before. An index serves each."""
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
        events.check_values(values)


def _check_window(start: Any, end: Any) -> None:
    """Check the interval of `occurrences`.

    Raises:
        ValueError: A bound is not between the years 1900 and 2199, or the end is not after the start or too far from
            it.
    """
    events.check_interval(start, end)
    for name, value in (("start", start), ("end", end)):
        events.check_year(name, value)
    if end - start > MAX_WINDOW:
        raise ValueError(f"end must be at most {MAX_WINDOW.days} days after start, got {(end - start).days}")
