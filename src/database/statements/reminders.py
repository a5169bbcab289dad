"""Claim due reminders for a while; acknowledge, release or hold back the reminders that are claimed."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping, Sequence
from datetime import datetime, timedelta
from operator import attrgetter
from typing import Any, Final, TypeVar
from uuid import UUID

from sqlalchemy import ColumnElement, Executable, bindparam, exists, or_, update

from src.database.base import clean_text, uuid7
from src.database.errors import StaleDataError
from src.database.models import Event, User
from src.database.pagination import check_limit
from src.database.session import AsyncSession
from src.database.statements.call import Call
from src.database.statements.in_session import entity_columns
from src.database.statements.turn_leases import statement_time

__all__ = [
    "CLAIM",
    "CLAIM_FUNCTION",
    "CLAIM_PARAMETERS",
    "MAX_ATTEMPTS",
    "NOT_HELD",
    "acknowledge",
    "claim_due",
    "hold_back",
    "pending",
    "release",
]

ReminderT = TypeVar("ReminderT")

MAX_ATTEMPTS: Final = 5
LONGEST_LEASE: Final = timedelta(days=366)
CLAIM_FUNCTION: Final = "app_claim_reminders"
CLAIM_PARAMETERS: Final = 7
CLAIM: Final[Call[Any]] = Call(CLAIM_FUNCTION, CLAIM_PARAMETERS, columns=entity_columns(Event))
"""The claim in a session, for `InSession.entities`."""

NOT_HELD: Final[Mapping[str, Any]] = {
    "reminder_claimed_by": None,
    "reminder_claimed_until": None,
    "reminder_token": None,
}
"""The attributes of an event whose reminder no worker holds."""

# Built once: a worker sends one of them for each reminder.
_HELD: Final = update(Event).where(
    Event.tenant_id == bindparam("tenant"),
    Event.id == bindparam("event"),
    Event.reminder_token == bindparam("held_under"),
)
# `updated_at` brings the server's clock back with the row: Citus takes no such function in RETURNING.
_RELEASE: Final = (
    _HELD.values({**NOT_HELD, "updated_at": statement_time()})
    .returning(Event)
    .execution_options(populate_existing=True, synchronize_session=False)
)
_ACKNOWLEDGE: Final = _RELEASE.values(reminder_sent_at=statement_time())
_HOLD_BACK: Final = (
    _HELD.values(reminder_claimed_until=bindparam("until"), reminder_token=bindparam("nobodys"))
    .returning(Event)
    .execution_options(populate_existing=True, synchronize_session=False)
)


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
    _check_claim(worker, limit, lease)
    ready: list[ReminderT] = []
    while len(ready) < limit:
        claimed: list[Any] = await send(clean_text(worker), limit - len(ready), lease, uuid7(), max_attempts, user_id)
        given_up = [event for event in claimed if event.reminder_attempts > max_attempts]
        ready += [event for event in claimed if event.reminder_attempts <= max_attempts]
        if not given_up:  # a further round only where those have taken a place
            break
        await give_up(given_up)
    return sorted(ready, key=attrgetter("reminder_datetime", "id"))


def pending(tenant_id: Any) -> list[ColumnElement[bool]]:
    """Return the conditions of reminders that are to be sent, of live users, and that no worker holds."""
    of_user = exists().where(User.tenant_id == tenant_id, User.id == Event.user_id, User.deleted_at.is_(None))
    return [
        Event.tenant_id == tenant_id,
        Event.status == "scheduled",
        Event.reminder_sent_at.is_(None),
        or_(Event.reminder_claimed_until.is_(None), Event.reminder_claimed_until < statement_time()),
        of_user,
    ]


async def acknowledge(session: AsyncSession, event_id: UUID, token: UUID) -> Event:
    """Record that a claimed reminder was sent, and release it.

    Raises:
        StaleDataError: The claim is not held under this token.
    """
    return await _change(session, _ACKNOWLEDGE, event_id, token)


async def release(session: AsyncSession, event_id: UUID, token: UUID) -> Event:
    """Release a claimed reminder; its attempts stay counted.

    Raises:
        StaleDataError: The claim is not held under this token.
    """
    return await _change(session, _RELEASE, event_id, token)


async def hold_back(session: AsyncSession, event_id: UUID, token: UUID, until: datetime) -> Event:
    """Release a claimed reminder that no worker may claim before a time: until then a new token holds it.

    Raises:
        StaleDataError: The claim is not held under this token.
    """
    return await _change(session, _HOLD_BACK, event_id, token, until=until, nobodys=uuid7())


async def _change(session: AsyncSession, statement: Executable, event_id: UUID, token: UUID, **values: Any) -> Event:
    claim = {"tenant": session.tenant_id, "event": event_id, "held_under": token}
    row: Event | None = await session.scalar(statement, {**claim, **values})
    if row is None:
        raise StaleDataError(
            f"the reminder of event {event_id} is not held under this token",
            hint="another worker has claimed or sent it; a longer lease leaves more time to send",
        )
    return row


def _check_claim(worker: str, limit: int, lease: timedelta) -> None:
    check_limit(limit)
    if not timedelta(0) < lease <= LONGEST_LEASE:
        raise ValueError(f"lease must be more than zero, and {LONGEST_LEASE.days} days at most, got {lease}")
    if not worker:
        raise ValueError("worker must say who claims, got an empty name")
