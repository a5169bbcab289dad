"""Reminders that several workers share without ever firing one twice at a time; a series reminds of each occurrence."""

from __future__ import annotations

from datetime import datetime, timedelta
from typing import Any, Final
from uuid import UUID

from sqlalchemy import ColumnElement, Executable, bindparam, exists, func, or_, select, update

from src.database.base import check_aware, utc_now, uuid7
from src.database.errors import StaleDataError
from src.database.models import Event, User
from src.database.pagination import check_limit
from src.database.repositories.base import Repository
from src.database.repositories.recurrence import Series, check_year

__all__ = ["NOT_HELD", "EventReminders", "drop_claim", "has_reminder", "reminder_lead", "set_reminder"]

MAX_ATTEMPTS: Final = 5

# What a row says that no worker holds.
NOT_HELD: Final[dict[str, Any]] = {
    "reminder_claimed_by": None,
    "reminder_claimed_until": None,
    "reminder_token": None,
}
# Built once: a worker sends one of them for each reminder.
_HELD: Final = update(Event).where(
    Event.tenant_id == bindparam("tenant"),
    Event.id == bindparam("event"),
    Event.reminder_token == bindparam("held_under"),
)
_RELEASED: Final = (
    _HELD.values(NOT_HELD).returning(Event).execution_options(populate_existing=True, synchronize_session=False)
)
_SENT: Final = _RELEASED.values(reminder_sent_at=func.now())
_HELD_BACK: Final = (
    _HELD.values(reminder_claimed_until=bindparam("until"), reminder_token=bindparam("nobodys"))
    .returning(Event)
    .execution_options(populate_existing=True, synchronize_session=False)
)


class EventReminders(Repository[Event]):
    """What a worker asks of the events.

    It goes through the tenants by the registry, and acts as each in turn::

        async with get_db() as session:  # the registry is outside row-level security: no tenant has to act
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
        at a time. Time is the server's. Cancelled events and those of deleted users are never claimed.

        Args:
            worker: Who claims, for people to read.
            limit: At most so many.
            lease: For how long.
            user_id: Only this user's.
            max_attempts: What was claimed so often in vain is left to `missed`.

        Returns:
            The events, the longest due first; `reminder_attempts` counts this claim. A series' `reminder_datetime` plus
            `reminder_offset` is the start of the occurrence.

        Raises:
            ValueError: The limit is not from 1 to 1000, the lease not positive, or the worker has no name.
        """
        check_limit(limit)
        if lease <= timedelta(0):
            raise ValueError(f"lease must be more than zero, got {lease}")
        if not worker:
            raise ValueError("worker must say who claims, got an empty name")
        due = (
            select(Event.id)
            .where(
                *self._pending(user_id),
                Event.reminder_datetime <= func.now(),
                Event.reminder_attempts < max_attempts,
            )
            .order_by(Event.reminder_datetime, Event.id)
            .limit(limit)
            .with_for_update(skip_locked=True)
            # Once: inside `IN (…)` the planner may run it again for each row, and the limit with it.
            .cte("due")
            .prefix_with("MATERIALIZED")
        )
        claim = (
            update(Event)
            .where(Event.tenant_id == self.session.tenant_id, Event.id == due.c.id)
            .values(
                reminder_claimed_by=worker,
                reminder_claimed_until=func.now() + lease,
                reminder_token=uuid7(),
                reminder_attempts=Event.reminder_attempts + 1,
            )
            .returning(Event)
            .execution_options(populate_existing=True, synchronize_session=False)
        )
        claimed = list(await self.session.scalars(claim))
        return sorted(claimed, key=lambda event: (event.reminder_datetime or event.start_datetime, event.id))

    async def ack_reminder(self, event_id: UUID, token: UUID, *, now: datetime | None = None) -> Event:
        """Say that a claimed reminder was sent; a series goes on to the reminder of its next occurrence.

        Those that have begun by now are passed over: after an outage nobody is reminded of what is past.

        Args:
            event_id: Whose.
            token: The claim's.
            now: The time that a series goes on from; by default the present.

        Returns:
            The event: `reminder_sent_at` is set where that was its last reminder.

        Raises:
            StaleDataError: The claim is not held under this token any more: the lease ended and another worker has it,
                or the event was moved.
            ValueError: `now` is naive, or not between the years 1900 and 2199.
        """
        now = now or utc_now()
        check_aware("now", now)
        check_year("now", now)
        acked = await self._give_back(_SENT, event_id, token)
        if acked.rrule is not None and acked.reminder_datetime is not None:
            series = Series(acked)
            lead = reminder_lead(acked, series)
            sent_for = acked.reminder_datetime + lead
            upcoming = await self._next_reminder(acked, series, after=max(sent_for, now))
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
            return await self._give_back(_RELEASED, event_id, token)
        check_aware("retry_at", retry_at)
        return await self._give_back(_HELD_BACK, event_id, token, until=retry_at, nobodys=uuid7())

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
        statement = self._select(*self._pending(user_id), Event.reminder_datetime < func.now() - grace)
        return list(await self.session.scalars(statement.order_by(Event.reminder_datetime, Event.id).limit(limit)))

    def _pending(self, user_id: UUID | None) -> list[ColumnElement[bool]]:
        """Want what is to be sent, of users who are still there, and held by nobody."""
        of_user = exists().where(
            User.tenant_id == self.session.tenant_id, User.id == Event.user_id, User.deleted_at.is_(None)
        )
        return [
            Event.tenant_id == self.session.tenant_id,
            Event.status == "scheduled",
            Event.reminder_sent_at.is_(None),
            or_(Event.reminder_claimed_until.is_(None), Event.reminder_claimed_until < func.now()),
            of_user,
            *([] if user_id is None else [Event.user_id == user_id]),
        ]

    async def _give_back(self, statement: Executable, event_id: UUID, token: UUID, **more: Any) -> Event:
        claim = {"tenant": self.session.tenant_id, "event": event_id, "held_under": token}
        row: Event | None = await self.session.scalar(statement, {**claim, **more})
        if row is None:
            raise StaleDataError(
                f"the reminder of event {event_id} is not held under this token",
                hint="another worker has claimed or sent it; a longer lease leaves more time to send",
            )
        return row

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


def reminder_lead(event: Event, series: Series | None = None) -> timedelta:
    """Say how long before its start an event is reminded of; where no offset says so, its reminder's time does."""
    if event.reminder_offset is not None:
        return timedelta(seconds=event.reminder_offset)
    if event.reminder_datetime is None:
        return timedelta()
    start = event.start_datetime
    if series is not None and start < event.reminder_datetime:
        slot = series.after(event.reminder_datetime - timedelta(microseconds=1))
        start = start if slot is None else slot.start
    return start - event.reminder_datetime


def set_reminder(event: Event, at: datetime | None, *, lead: timedelta | None = None) -> None:
    """Set an event's reminder anew: nobody holds it, nobody has tried, nothing was sent.

    Args:
        event: Whose.
        at: When, or None for never.
        lead: What to keep as its offset, where it has none: a series needs it for the next one.
    """
    event.reminder_datetime = at
    event.reminder_sent_at = None
    event.reminder_attempts = 0
    drop_claim(event)
    if lead is not None and event.reminder_offset is None and lead >= timedelta():
        event.reminder_offset = int(lead.total_seconds())


def drop_claim(event: Event) -> None:
    """Take an event's reminder from the worker that holds it."""
    for name, value in NOT_HELD.items():
        setattr(event, name, value)


def has_reminder(event: Event) -> bool:
    """Say whether an event is reminded of, be it that the last one was sent."""
    return event.reminder_datetime is not None or event.reminder_offset is not None
