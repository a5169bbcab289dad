"""The claim on what is due, as the repository and the store send it."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import timedelta
from typing import Any, Final

from sqlalchemy import ColumnElement, Update, and_, exists, func, or_, select, update

from src.database.models import Event, User
from src.database.pagination import check_limit
from src.database.statements.turn_leases import statement_time

__all__ = ["MAX_ATTEMPTS", "check_claim", "claim_of", "pending"]

MAX_ATTEMPTS: Final = 5
LONGEST_LEASE: Final = timedelta(days=366)


def check_claim(worker: str, limit: int, lease: timedelta) -> None:
    """Refuse a claim that nobody can mean.

    Raises:
        ValueError: The limit is not from 1 to 1000, the lease not positive or longer than a year, or the worker has no
            name.
    """
    check_limit(limit)
    if not timedelta(0) < lease <= LONGEST_LEASE:
        raise ValueError(f"lease must be more than zero, and {LONGEST_LEASE.days} days at most, got {lease}")
    if not worker:
        raise ValueError("worker must say who claims, got an empty name")


def pending(tenant_id: Any) -> list[ColumnElement[bool]]:
    """Want what is to be sent, of users who are still there, and held by nobody."""
    of_user = exists().where(User.tenant_id == tenant_id, User.id == Event.user_id, User.deleted_at.is_(None))
    return [
        Event.tenant_id == tenant_id,
        Event.status == "scheduled",
        Event.reminder_sent_at.is_(None),
        or_(Event.reminder_claimed_until.is_(None), Event.reminder_claimed_until < statement_time()),
        of_user,
    ]


def claim_of(
    where: Sequence[ColumnElement[bool]],
    *,
    tenant_id: Any,
    worker: Any,
    limit: Any,
    lease: Any,
    token: Any,
    max_attempts: Any,
) -> Update:
    """Build the claim of what is due, and of series whose reminder was tried too often and whose occurrence has begun.

    What varies can be values or parameters. Time is the server's as the statement begins: by `now()`, when the
    transaction began, a lease would be shorter.
    """
    begun = Event.reminder_datetime + func.make_interval(0, 0, 0, 0, 0, 0, func.coalesce(Event.reminder_offset, 0))
    due = (
        select(Event.id)
        .where(
            *where,
            Event.reminder_datetime <= statement_time(),
            or_(Event.reminder_attempts < max_attempts, and_(Event.rrule.is_not(None), begun <= statement_time())),
        )
        .order_by(Event.reminder_datetime, Event.id)
        .limit(limit)
        .with_for_update(skip_locked=True)
        # Once: inside `IN (…)` the planner may run it again for each row, and the limit with it.
        .cte("due")
        .prefix_with("MATERIALIZED")
    )
    held = update(Event).where(Event.tenant_id == tenant_id, Event.id == due.c.id)
    return held.values(
        reminder_claimed_by=worker,
        reminder_claimed_until=statement_time() + lease,
        reminder_token=token,
        reminder_attempts=Event.reminder_attempts + 1,
    )
