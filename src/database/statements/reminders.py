"""Reminders: what an event's columns say of its own, and the claims by which several workers share those that are due.

A series has one reminder at a time, which goes on from one occurrence to the next.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping, Sequence
from datetime import datetime, timedelta
from operator import attrgetter
from typing import Any, Final, TypeVar
from uuid import UUID

from sqlalchemy import ColumnElement, exists, or_, select

from src.database.base import clean_text, uuid7
from src.database.calendar import Series
from src.database.errors import StaleDataError
from src.database.models import Event, User
from src.database.session import AsyncSession
from src.database.statements.call import Call
from src.database.statements.in_session import entity_columns
from src.database.statements.pagination import check_limit
from src.database.statements.rows import statement_time, update_one

ReminderT = TypeVar("ReminderT")

MAX_ATTEMPTS: Final = 5
LONGEST_LEASE: Final = timedelta(days=366)
CLAIM_FUNCTION: Final = "app_claim_reminders"
CLAIM_PARAMETERS: Final = 7
CLAIM: Final[Call[Any]] = Call(CLAIM_FUNCTION, CLAIM_PARAMETERS, columns=entity_columns(Event))
"""The claim in a session, for `InSession.entities`."""

NOT_CLAIMED: Final[Mapping[str, Any]] = dict.fromkeys(
    ("reminder_claimed_by", "reminder_claimed_until", "reminder_token")
)
"""The attributes of an event whose reminder no worker has claimed."""
NOT_SENT: Final[Mapping[str, Any]] = {"reminder_sent_at": None, "reminder_attempts": 0, **NOT_CLAIMED}
"""The attributes of an event whose reminder is neither sent nor claimed, and has no attempts."""


def has_reminder(event: Event) -> bool:
    """Return True if an event has a reminder, also if its last one was sent."""
    return event.reminder_datetime is not None or event.reminder_offset is not None


def reminder_lead(event: Event, series: Series | None = None) -> timedelta:
    """Return how long before its start an event is reminded of, by its offset, or else by its reminder's time."""
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
    """Set an event's reminder: no worker holds it, no attempt is counted, and it is not sent.

    Args:
        event: The event.
        at: The time of the reminder, or None for no reminder.
        lead: The offset of an event that has none: a series needs an offset for its next reminder.
    """
    for name, value in {"reminder_datetime": at, **NOT_SENT}.items():
        setattr(event, name, value)
    if lead is not None and event.reminder_offset is None and lead >= timedelta():
        event.reminder_offset = int(lead.total_seconds())


async def server_time(session: AsyncSession) -> datetime:
    """Return the present by the server's clock, which all reminders go by."""
    return (await session.execute(select(statement_time()))).scalar_one()


async def next_reminder(session: AsyncSession, event: Event, series: Series, *, after: datetime) -> datetime | None:
    """Return the time of the reminder of the first occurrence after an instant that has no row of its own, or None."""
    replaced = await replaced_starts(session, [event.id], since=after)
    slot = series.after(after, replaced=replaced.get(event.id, ()))
    return None if slot is None else slot.start - reminder_lead(event, series)


async def replaced_starts(
    session: AsyncSession, series_ids: list[UUID], *, since: datetime, until: datetime | None = None
) -> dict[UUID, set[datetime]]:
    """Return the original starts of the occurrences that have a row of their own, by series."""
    statement = select(Event.series_id, Event.recurrence_id).where(
        Event.tenant_id == session.tenant_id, Event.series_id.in_(series_ids), Event.recurrence_id >= since
    )
    if until is not None:
        statement = statement.where(Event.recurrence_id < until)
    found: dict[UUID, set[datetime]] = {}
    for series_id, recurrence_id in await session.execute(statement):
        if series_id is not None and recurrence_id is not None:  # the CHECK says so, its types do not
            found.setdefault(series_id, set()).add(recurrence_id)
    return found


def missed(tenant_id: UUID, user_id: UUID | None, grace: timedelta) -> list[ColumnElement[bool]]:
    """Return the conditions of reminders of live users that no worker holds, and that are due for longer than this.

    Args:
        tenant_id: The tenant.
        user_id: Only this user's reminders; None is all users.
        grace: How long the reminders are due at least.
    """
    of_user = exists().where(User.tenant_id == tenant_id, User.id == Event.user_id, User.deleted_at.is_(None))
    return [
        Event.tenant_id == tenant_id,
        Event.status == "scheduled",
        Event.reminder_sent_at.is_(None),
        Event.reminder_datetime < statement_time() - grace,
        or_(Event.reminder_claimed_until.is_(None), Event.reminder_claimed_until < statement_time()),
        of_user,
        *([] if user_id is None else [Event.user_id == user_id]),
    ]


async def claim_due(
    send: Callable[..., Awaitable[list[ReminderT]]],
    give_up: Callable[[Sequence[ReminderT]], Awaitable[None]],
    worker: str,
    *,
    limit: int,
    lease: timedelta,
    max_attempts: int,
    user_id: UUID | None = None,
) -> list[ReminderT]:
    """Claim due reminders; series whose reminder was tried too often are claimed and given up.

    Args:
        send: Calls the function with these arguments, and returns the claimed events.
        give_up: Moves claimed series on to the reminder of their next occurrence.
        worker: The name of the worker.
        limit: The largest number of reminders, 1 to 1000.
        lease: How long they are claimed.
        max_attempts: After so many claims, a reminder is claimed no more.
        user_id: Only this user's reminders.

    Returns:
        The events, the longest due first.

    Raises:
        ValueError: The limit is not from 1 to 1000, the lease is not positive or longer than a year, or the worker has
            no name.
    """
    check_limit(limit)
    if not timedelta(0) < lease <= LONGEST_LEASE:
        raise ValueError(f"lease must be more than zero, and {LONGEST_LEASE.days} days at most, got {lease}")
    if not worker:
        raise ValueError("worker must say who claims, got an empty name")
    ready: list[ReminderT] = []
    while len(ready) < limit:
        claimed: list[Any] = await send(clean_text(worker), limit - len(ready), lease, uuid7(), max_attempts, user_id)
        given_up = [event for event in claimed if event.reminder_attempts > max_attempts]
        ready += [event for event in claimed if event.reminder_attempts <= max_attempts]
        if not given_up:  # a further round only where those have taken a place
            break
        await give_up(given_up)
    return sorted(ready, key=attrgetter("reminder_datetime", "id"))


async def give_up(session: AsyncSession, events: Sequence[Event], *, lease: timedelta) -> None:
    """Set the reminders of series that were just claimed for so long to those of their next occurrences."""
    for event in events:
        assert event.reminder_claimed_until is not None  # noqa: S101 - the claim has just set it
        await _go_on(session, event, now=event.reminder_claimed_until - lease)


async def acknowledge(session: AsyncSession, event_id: UUID, token: UUID, *, now: datetime | None) -> Event:
    """Record that a claimed reminder was sent, and go on with a series; see `EventRepository.ack_reminder`."""
    # `updated_at` brings the server's clock back with the row: Citus takes no such function in RETURNING.
    sent = {**NOT_CLAIMED, "updated_at": statement_time(), "reminder_sent_at": statement_time()}
    event = await _change(session, event_id, token, **sent)
    if event.rrule is not None and event.reminder_datetime is not None:
        series = Series(event)
        lead = reminder_lead(event, series)
        sent_for = event.reminder_datetime + lead
        upcoming = await next_reminder(session, event, series, after=max(sent_for, now or event.updated_at))
        if upcoming is not None:
            set_reminder(event, upcoming, lead=lead)
            await session.flush()
    return event


async def release(session: AsyncSession, event_id: UUID, token: UUID, *, retry_at: datetime | None = None) -> Event:
    """Release a claimed reminder, or hold it under a new token until a time; its attempts stay counted.

    Raises:
        StaleDataError: The claim is not held under this token.
    """
    if retry_at is not None:
        return await _change(session, event_id, token, reminder_claimed_until=retry_at, reminder_token=uuid7())
    return await _change(session, event_id, token, **NOT_CLAIMED, updated_at=statement_time())


async def skip(session: AsyncSession, event_id: UUID, token: UUID) -> Event:
    """Release a claimed reminder; a series goes on to the reminder of its next occurrence.

    Raises:
        StaleDataError: The claim is not held under this token.
    """
    event = await release(session, event_id, token)
    if event.rrule is not None:
        await _go_on(session, event, now=event.updated_at)
    return event


async def _go_on(session: AsyncSession, event: Event, *, now: datetime) -> None:
    """Set a series' reminder to that of its next occurrence that begins after `now`, or to None if there is none."""
    try:
        series = Series(event)
    except (ValueError, KeyError):  # a rule or a zone from elsewhere: it stays held, and the others are claimed
        return
    lead = reminder_lead(event, series)
    begun = (event.reminder_datetime or event.start_datetime) + lead
    set_reminder(event, await next_reminder(session, event, series, after=max(begun, now)), lead=lead)
    await session.flush()


async def _change(session: AsyncSession, event_id: UUID, token: UUID, **values: Any) -> Event:
    event = await update_one(session, Event, Event.id == event_id, Event.reminder_token == token, **values)
    if event is None:
        raise StaleDataError(
            f"the reminder of event {event_id} is not held under this token",
            hint="another worker has claimed or sent it; a longer lease leaves more time to send",
        )
    return event
