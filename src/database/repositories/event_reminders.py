"""Reminders that several workers share without ever firing one twice at a time; a series reminds of each occurrence."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime, timedelta
from functools import partial
from uuid import UUID

from sqlalchemy import ColumnElement, select

from src.database.models import Event
from src.database.pagination import check_limit
from src.database.repositories.base import Repository
from src.database.repositories.event_reminder_fields import reminder_lead, set_reminder
from src.database.repositories.recurrence import Series
from src.database.repositories.recurrence_bounds import check_instant, check_year
from src.database.statements import reminders
from src.database.statements.in_session import InSession
from src.database.statements.reminders import CLAIM, MAX_ATTEMPTS, pending
from src.database.statements.turn_leases import statement_time

__all__ = ["EventReminders"]


class EventReminders(Repository[Event]):
    """What a worker asks of the events.

    It goes through the tenants by the registry, and acts as each in turn::

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

    async def claim_due_reminders(
        self,
        worker: str,
        *,
        limit: int = 10,
        lease: timedelta = timedelta(minutes=5),
        user_id: UUID | None = None,
        max_attempts: int = MAX_ATTEMPTS,
    ) -> list[Event]:
        """Take reminders that are due, for a while; what another worker holds is passed over.

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
            partial(InSession(self.session).entities, CLAIM, Event, refresh=True),
            partial(self._give_up, lease=lease),
            worker,
            limit=limit,
            lease=lease,
            max_attempts=max_attempts,
            user_id=user_id,
        )

    async def _give_up(self, events: Sequence[Event], *, lease: timedelta) -> None:
        """Set the reminders of series, just claimed, to those of their next occurrences."""
        for event in events:
            await self._go_on(event, now=_claimed_at(event, lease))

    async def _go_on(self, event: Event, *, now: datetime) -> None:
        """Set a series' reminder to that of its next occurrence that begins after `now`; to None where it has none."""
        try:
            series = Series(event)
        except (ValueError, KeyError):  # a rule or a zone from elsewhere: it stays held, and the others are claimed
            return
        lead = reminder_lead(event, series)
        begun = (event.reminder_datetime or event.start_datetime) + lead
        set_reminder(event, await self._next_reminder(event, series, after=max(begun, now)), lead=lead)
        await self.session.flush()

    async def ack_reminder(self, event_id: UUID, token: UUID, *, now: datetime | None = None) -> Event:
        """Say that a claimed reminder was sent; a series goes on to the reminder of its next occurrence.

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
            check_year("now", now)
        acked = await reminders.acknowledge(self.session, event_id, token)
        if acked.rrule is not None and acked.reminder_datetime is not None:
            series = Series(acked)
            lead = reminder_lead(acked, series)
            sent_for = acked.reminder_datetime + lead
            upcoming = await self._next_reminder(acked, series, after=max(sent_for, now or acked.updated_at))
            if upcoming is not None:
                set_reminder(acked, upcoming, lead=lead)
                await self.session.flush()
        return acked

    async def release_reminder(self, event_id: UUID, token: UUID, *, retry_at: datetime | None = None) -> Event:
        """Give a claim back without having sent: at once for everybody, or out of reach until later.

        Its attempts stay counted. Until `retry_at` it is held under a token that nobody has.

        Args:
            event_id: Whose.
            token: The claim's.
            retry_at: Not to be claimed before.

        Raises:
            StaleDataError: The claim is not held under this token any more.
            ValueError: `retry_at` is naive.
        """
        if retry_at is None:
            return await reminders.release(self.session, event_id, token)
        check_instant("retry_at", retry_at)
        return await reminders.hold_back(self.session, event_id, token, retry_at)

    async def skip_reminder(self, event_id: UUID, token: UUID) -> Event:
        """Give a claimed reminder up: a series goes on to the one of its next occurrence; of another it is released.

        Args:
            event_id: Whose.
            token: The claim's.

        Raises:
            StaleDataError: The claim is not held under this token any more.
        """
        event = await reminders.release(self.session, event_id, token)
        if event.rrule is not None:
            await self._go_on(event, now=event.updated_at)
        return event

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
        statement = self._select(*self._pending(user_id), Event.reminder_datetime < statement_time() - grace)
        return list(await self.session.scalars(statement.order_by(Event.reminder_datetime, Event.id).limit(limit)))

    async def _server_time(self) -> datetime:
        """Return the present by the server's clock, which all reminders go by."""
        return (await self.session.execute(select(statement_time()))).scalar_one()

    def _pending(self, user_id: UUID | None) -> list[ColumnElement[bool]]:
        of_user = [] if user_id is None else [Event.user_id == user_id]
        return [*pending(self.session.tenant_id), *of_user]

    async def _next_reminder(self, event: Event, series: Series, *, after: datetime) -> datetime | None:
        """Say when to remind of the first occurrence after an instant; a changed one has a reminder of its own."""
        replaced = await self._replaced([event.id], since=after)
        slot = series.after(after, replaced=replaced.get(event.id, ()))
        return None if slot is None else slot.start - reminder_lead(event, series)

    async def _replaced(
        self, series_ids: list[UUID], *, since: datetime, until: datetime | None = None
    ) -> dict[UUID, set[datetime]]:
        """Return the original starts of the occurrences that have a row of their own, by series."""
        statement = select(Event.series_id, Event.recurrence_id).where(
            Event.tenant_id == self.session.tenant_id, Event.series_id.in_(series_ids), Event.recurrence_id >= since
        )
        if until is not None:
            statement = statement.where(Event.recurrence_id < until)
        found: dict[UUID, set[datetime]] = {}
        for series_id, recurrence_id in await self.session.execute(statement):
            if series_id is not None and recurrence_id is not None:  # the CHECK says so, its types do not
                found.setdefault(series_id, set()).add(recurrence_id)
        return found


def _claimed_at(event: Event, lease: timedelta) -> datetime:
    """Return when a claim was made, by the server's clock: its lease counts from then."""
    assert event.reminder_claimed_until is not None  # noqa: S101 - the claim has just set it
    return event.reminder_claimed_until - lease
