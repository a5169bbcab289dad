"""Set the reminders of events, and let several workers claim the due ones without sending one twice.

A series has one reminder at a time. After it was sent or skipped, it is set for the next occurrence.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping, Sequence
from datetime import datetime, timedelta
from operator import attrgetter
from typing import Any, Final, TypeVar
from uuid import UUID

from sqlalchemy import ColumnElement, exists, or_, select

from src.database.base import check_duration, clean_text, uuid7
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
"""The call that claims reminders in a session, for `InSession.entities`."""

NOT_CLAIMED: Final[Mapping[str, Any]] = dict.fromkeys(
    ("reminder_claimed_by", "reminder_claimed_until", "reminder_token")
)
"""The attributes of an event whose reminder no worker has claimed."""
NOT_SENT: Final[Mapping[str, Any]] = {"reminder_sent_at": None, "reminder_attempts": 0, **NOT_CLAIMED}
"""The attributes of an event whose reminder is neither sent nor claimed, and has no attempts."""


def has_reminder(event: Event) -> bool:
    """Return True if an event has a reminder, whether or not it was sent."""
    return event.reminder_datetime is not None or event.reminder_offset is not None


def reminder_lead(event: Event, series: Series | None = None) -> timedelta:
    """Return the time from an event's reminder to its start: its offset, or else by the time of its reminder.

    Args:
        event: The event.
        series: The event as a series; its reminder may be that of a later occurrence.
    """
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
    """Set an event's reminder as neither claimed nor sent, without attempts.

    Args:
        event: The event.
        at: The time of the reminder, or None for no reminder.
        lead: The offset to store if the event has none: a series needs it to compute its next reminder.
    """
    for name, value in {"reminder_datetime": at, **NOT_SENT}.items():
        setattr(event, name, value)
    if lead is not None and event.reminder_offset is None and lead >= timedelta():
        event.reminder_offset = int(lead.total_seconds())


async def server_time(session: AsyncSession) -> datetime:
    """Return the server's time. All reminders use it: the clocks of several workers differ."""
    return (await session.execute(select(statement_time()))).scalar_one()


async def next_reminder(session: AsyncSession, event: Event, series: Series, *, after: datetime) -> datetime | None:
    """Return the time of the reminder of the first unchanged occurrence after an instant, or None if there is none."""
    replaced = await replaced_starts(session, [event.id], since=after)
    slot = series.after(after, replaced=replaced.get(event.id, ()))
    return None if slot is None else slot.start - reminder_lead(event, series)


async def replaced_starts(
    session: AsyncSession, series_ids: list[UUID], *, since: datetime, until: datetime | None = None
) -> dict[UUID, set[datetime]]:
    """Return the original starts of changed occurrences, by series."""
    statement = select(Event.series_id, Event.recurrence_id).where(
        Event.tenant_id == session.tenant_id, Event.series_id.in_(series_ids), Event.recurrence_id >= since
    )
    if until is not None:
        statement = statement.where(Event.recurrence_id < until)
    found: dict[UUID, set[datetime]] = {}
    for series_id, recurrence_id in await session.execute(statement):
        if series_id is not None and recurrence_id is not None:  # always, by the CHECK; mypy does not know
            found.setdefault(series_id, set()).add(recurrence_id)
    return found


def missed(tenant_id: UUID, user_id: UUID | None, grace: timedelta) -> list[ColumnElement[bool]]:
    """Return the conditions of unsent reminders of live users that no worker has claimed.

    Args:
        tenant_id: The tenant.
        user_id: Only this user's reminders; None is all users.
        grace: Only reminders that have been due for longer than this.
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
    """Claim due reminders, and give up the reminders of series that were claimed too often.

    Args:
        send: Calls `app_claim_reminders` with the arguments after the tenant, and returns the claimed events.
        give_up: Sets the reminders of claimed series to those of their next occurrences.
        worker: The name of the worker.
        limit: The largest number of reminders, 1 to 1000.
        lease: The duration of the claims.
        max_attempts: The largest number of claims of one reminder.
        user_id: Only this user's reminders; None is all users.

    Returns:
        The events, the longest due first.

    Raises:
        ValueError: The limit is not from 1 to 1000, the lease is not positive or longer than a year, or the worker has
            no name.
    """
    check_limit(limit)
    check_duration("lease", lease)
    if not timedelta(0) < lease <= LONGEST_LEASE:
        raise ValueError(f"lease must be more than zero and at most {LONGEST_LEASE.days} days, got {lease}")
    if not worker:
        raise ValueError("worker must be the name of the worker, got an empty string")
    ready: list[ReminderT] = []
    while len(ready) < limit:
        claimed: list[Any] = await send(clean_text(worker), limit - len(ready), lease, uuid7(), max_attempts, user_id)
        given_up = [event for event in claimed if event.reminder_attempts > max_attempts]
        ready += [event for event in claimed if event.reminder_attempts <= max_attempts]
        if not given_up:  # they count toward the limit of the call: claim again to fill their places
            break
        await give_up(given_up)
    return sorted(ready, key=attrgetter("reminder_datetime", "id"))


async def give_up(session: AsyncSession, events: Sequence[Event], *, lease: timedelta) -> None:
    """Set the reminders of series that were just claimed with this lease to those of their next occurrences."""
    for event in events:
        assert event.reminder_claimed_until is not None  # noqa: S101 - the claim has just set it
        await _set_next(session, event, now=event.reminder_claimed_until - lease)


async def acknowledge(session: AsyncSession, event_id: UUID, token: UUID, *, now: datetime | None) -> Event:
    """Record that a claimed reminder was sent; see `EventRepository.ack_reminder`."""
    # `updated_at` returns the server's time with the row: Citus refuses statement_timestamp() in RETURNING.
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
    """Release a claimed reminder, or keep it claimed under a new token until `retry_at`; its attempts stay counted.

    Raises:
        StaleDataError: The claim is not held under this token.
    """
    if retry_at is not None:
        return await _change(session, event_id, token, reminder_claimed_until=retry_at, reminder_token=uuid7())
    return await _change(session, event_id, token, **NOT_CLAIMED, updated_at=statement_time())


async def skip(session: AsyncSession, event_id: UUID, token: UUID) -> Event:
    """Release a claimed reminder, and set that of a series to its next occurrence.

    Raises:
        StaleDataError: The claim is not held under this token.
    """
    event = await release(session, event_id, token)
    if event.rrule is not None:
        await _set_next(session, event, now=event.updated_at)
    return event


async def _set_next(session: AsyncSession, event: Event, *, now: datetime) -> None:
    """Set a series' reminder to that of its next occurrence after `now`, or to None after the last occurrence."""
    try:
        series = Series(event)
    except (ValueError, KeyError):
        # Another program wrote an invalid rule or zone. The reminder stays claimed, so that the next round of
        # `claim_due` claims other reminders.
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
            hint="another worker has claimed or sent the reminder; a longer lease leaves more time to send",
        )
    return event
