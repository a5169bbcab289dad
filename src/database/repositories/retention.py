"""Retention: what is older than its user, or the tenant, wants it kept goes for good, batch by batch."""

from __future__ import annotations

from datetime import datetime
from typing import Final
from uuid import UUID

from sqlalchemy import CTE, ColumnElement, Table, func, literal, select, true

from src.database.base import Base, UtcDateTime, check_aware, utc_now
from src.database.models import MessageHistory, Tenant, User
from src.database.pagination import check_limit
from src.database.repositories.removal import Ids, dependants, nothing_needs, remove, tables_of_tenants
from src.database.tenancy import AsyncSession

__all__ = ["DELETED_DAYS", "purge_expired"]

DELETED_DAYS: Final = 30
"""How long a soft-deleted row stays where nobody has said how long anything does."""

_FOR_EVER: Final = 365_000
"""In days; what is longer would lead before the year 1."""

_TABLES: Final = Base.metadata.tables
_USERS: Final = _TABLES[User.__tablename__]
_MESSAGES: Final = _TABLES[MessageHistory.__tablename__]
_TENANTS: Final = _TABLES[Tenant.__tablename__]


async def purge_expired(
    session: AsyncSession, *, now: datetime | None = None, limit: int = 1000, dry_run: bool = False
) -> dict[str, int]:
    """Remove what the acting tenant need not keep any longer, one batch of each table.

    `users.retention_days` says how long, else `tenants.retention_days`, else it is for ever. By it go messages, by
    their age, and soft-deleted users, conversations, messages and notes, by the time since they were deleted: without
    a retention after 30 days. What cannot be without a row goes with it, and what merely refers to it refers to
    nothing. Live conversations, their summaries, events and notes stay, whatever their age.

    Call it, and commit, until all counts are zero; several workers may. It can stop and begin again anywhere.

    Args:
        session: Whose tenant's.
        now: The time to measure by; by default the present.
        limit: Rows of each table a call, 1 to 1000.
        dry_run: Remove nothing, and count all that would go in the end.

    Returns:
        How many rows of each table.

    Raises:
        ValueError: The limit is not from 1 to 1000, or `now` is naive.
    """
    check_limit(limit)
    now = now or utc_now()
    check_aware("now", now)
    expired = _expired(session.tenant_id, now, limit=None if dry_run else limit)
    counts: dict[str, int] = {}
    for table, ids in reversed(expired.items()):
        if dry_run:
            counts[table.name] = await session.scalar(select(func.count(ids.subquery().c.id.distinct()))) or 0
            continue
        # What could not be removed yet keeps what it needs, until the next call.
        free = _without_dependants(table, ids, session.tenant_id)
        counts[table.name] = await remove(session, table, free, limit=limit, skip_locked=True)
    return counts


def _expired(tenant_id: UUID, now: datetime, *, limit: int | None) -> dict[Table, Ids]:
    """Tell what may go, by table, parents first."""
    kept = _kept(tenant_id, now)
    roots: dict[Table, list[Ids]] = {}
    for table in tables_of_tenants(Base.metadata):
        if "deleted_at" in table.columns:
            roots[table] = [_deleted(table, tenant_id, kept)]
    roots[_MESSAGES].append(_old_messages(tenant_id, kept, limit))
    return dependants(Base.metadata, tenant_id, roots)


def _without_dependants(table: Table, ids: Ids, tenant_id: UUID) -> Ids:
    conditions = nothing_needs(table, Base.metadata, tenant_id)
    if not conditions:
        return ids
    named = select(ids.subquery().c.id)
    return select(table.c.id).where(table.c.tenant_id == tenant_id, table.c.id.in_(named), *conditions)


def _kept(tenant_id: UUID, now: datetime) -> CTE:
    """Tell since when each user's messages and deleted rows are kept; null is for ever.

    The instants are computed here, once: in a comparison with the column an index would not serve it, because the
    subtraction is not leakproof.
    """
    of_tenant = select(_TENANTS.c.retention_days).where(_TENANTS.c.id == tenant_id).scalar_subquery()
    days = func.coalesce(_USERS.c.retention_days, of_tenant)

    def before(days: ColumnElement[int]) -> ColumnElement[datetime]:
        return literal(now, UtcDateTime()) - func.make_interval(0, 0, 0, func.least(days, _FOR_EVER))

    return (
        select(
            _USERS.c.id,
            days.is_not(None).label("is_limited"),
            before(days).label("messages_since"),
            before(func.coalesce(days, DELETED_DAYS)).label("deleted_since"),
        )
        .where(_USERS.c.tenant_id == tenant_id)
        .cte("kept")
        .prefix_with("MATERIALIZED")
    )


def _deleted(table: Table, tenant_id: UUID, kept: CTE) -> Ids:
    """Tell the rows that were deleted too long ago; the latest of all limits bounds what is read of the index."""
    owner = table.c.id if table is _USERS else table.c.user_id
    latest = select(func.max(kept.c.deleted_since)).scalar_subquery()
    return (
        select(table.c.id)
        .join(kept, kept.c.id == owner)
        .where(table.c.tenant_id == tenant_id, table.c.deleted_at < latest, table.c.deleted_at < kept.c.deleted_since)
    )


def _old_messages(tenant_id: UUID, kept: CTE, limit: int | None) -> Ids:
    """Tell the messages that are too old: user by user, each by the index of a user's messages by age."""
    old = (
        select(_MESSAGES.c.id)
        .where(
            _MESSAGES.c.tenant_id == tenant_id,
            _MESSAGES.c.user_id == kept.c.id,
            _MESSAGES.c.created_at < kept.c.messages_since,
        )
        .limit(limit)
        .correlate(kept)
        .lateral("old")
    )
    return select(old.c.id).select_from(kept).join(old, true()).where(kept.c.is_limited)
