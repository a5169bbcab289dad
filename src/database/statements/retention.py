"""Retention: delete permanently, batch by batch, what is older than its user, or the tenant, keeps it."""

from __future__ import annotations

from datetime import datetime, timedelta
from typing import Final
from uuid import UUID

from sqlalchemy import ColumnElement, Interval, Table, and_, func, literal, select, true

from src.database.base import Base, UtcDateTime, check_time, tenant_tables
from src.database.models import MessageHistory, Tenant, User
from src.database.observability import names_statements
from src.database.session import AsyncSession
from src.database.statements.pagination import check_limit
from src.database.statements.removal import Ids, dependants, nothing_needs, remove
from src.database.statements.rows import statement_time

DELETED_DAYS: Final = 30
"""How long a soft-deleted row stays if there is no retention."""

_FOR_EVER: Final = 365_000
"""In days; what is longer would lead before the year 1."""

_SHORTEST: Final = timedelta(days=1)
"""No retention is shorter."""

_TABLES: Final = Base.metadata.tables
_USERS: Final = _TABLES[User.__tablename__]
_MESSAGES: Final = _TABLES[MessageHistory.__tablename__]
_TENANTS: Final = _TABLES[Tenant.__tablename__]


@names_statements
async def purge_expired(
    session: AsyncSession, *, now: datetime | None = None, limit: int = 1000, dry_run: bool = False
) -> dict[str, int]:
    """Delete what the current tenant need not keep any longer, one batch of each table.

    `users.retention_days` says how long, else `tenants.retention_days`, else it is for ever. By it go messages, by
    their age, and soft-deleted users, conversations, messages and notes, by the time since they were deleted: without
    a retention after 30 days. What cannot be without a row goes with it, and what merely refers to it refers to
    nothing. Live conversations, their summaries, events and notes stay, whatever their age.

    Call it, and commit, until all counts are zero; several workers may. It can stop and begin again anywhere.

    Args:
        session: Whose tenant's.
        now: The time to measure by; by default the present, by the server's clock.
        limit: Rows of each table a call, 1 to 1000; the changed occurrences of a series come on top.
        dry_run: Remove nothing, and count all that would go in the end.

    Returns:
        How many rows of each table.

    Raises:
        ValueError: The limit is not from 1 to 1000, or `now` is naive or too early.
    """
    check_limit(limit)
    if now is not None:
        check_time("now", now, back=_SHORTEST)
    at = statement_time() if now is None else literal(now, UtcDateTime())
    expired = _expired(session.tenant_id, at, limit=None if dry_run else limit)
    counts: dict[str, int] = {}
    for table, ids in reversed(expired.items()):
        if dry_run:
            counts[table.name] = await session.scalar(select(func.count(ids.subquery().c.id.distinct()))) or 0
            continue
        # What could not be removed yet keeps what it needs, until the next call.
        free = _without_dependants(table, ids, session.tenant_id)
        counts[table.name] = await remove(session, table, free, limit=limit, skip_locked=True)
    return counts


def _expired(tenant_id: UUID, now: ColumnElement[datetime], *, limit: int | None) -> dict[Table, Ids]:
    """Return the ids of expired rows, by table, parents first."""
    roots: dict[Table, list[Ids]] = {}
    for table in tenant_tables():
        if "deleted_at" in table.columns:
            roots[table] = [_deleted(table, tenant_id, now)]
    roots[_MESSAGES].append(_old_messages(tenant_id, now, limit))
    return dependants(Base.metadata, tenant_id, roots)


def _without_dependants(table: Table, ids: Ids, tenant_id: UUID) -> Ids:
    conditions = nothing_needs(table, Base.metadata, tenant_id)
    if not conditions:
        return ids
    named = select(ids.subquery().c.id)
    return select(table.c.id).where(table.c.tenant_id == tenant_id, table.c.id.in_(named), *conditions)


def _deleted(table: Table, tenant_id: UUID, now: ColumnElement[datetime]) -> Ids:
    """Return the rows that were deleted too long ago; the shortest retention bounds what is read of the index."""
    is_of_user = table is _USERS or "user_id" in table.columns
    days = _days(tenant_id) if is_of_user else _days_of_tenant(tenant_id)
    shortest = now - literal(_SHORTEST, Interval())
    rows = select(table.c.id).where(
        table.c.tenant_id == tenant_id,
        table.c.deleted_at < shortest,
        table.c.deleted_at < _since(now, func.coalesce(days, DELETED_DAYS)),
    )
    if table is _USERS or not is_of_user:
        return rows
    return rows.join(_USERS, and_(_USERS.c.tenant_id == tenant_id, _USERS.c.id == table.c.user_id))


def _old_messages(tenant_id: UUID, now: ColumnElement[datetime], limit: int | None) -> Ids:
    """Return the messages that are too old: user by user, each by the index of a user's messages by age.

    The instants are computed first: in a comparison with the column no index would serve it, because the subtraction
    is not leakproof. And it is the order that has the planner use the index. With a limit they are locked as they are
    read, because those that another transaction has in hand must not use it up.
    """
    days = _days(tenant_id)
    kept = (
        select(_USERS.c.id, _since(now, days).label("since"))
        .where(_USERS.c.tenant_id == tenant_id, days.is_not(None))
        .cte("kept")
        .prefix_with("MATERIALIZED")
    )
    oldest = (
        select(_MESSAGES.c.id)
        .where(
            _MESSAGES.c.tenant_id == tenant_id, _MESSAGES.c.user_id == kept.c.id, _MESSAGES.c.created_at < kept.c.since
        )
        .order_by(_MESSAGES.c.created_at)
        .correlate(kept)
    )
    if limit is not None:
        oldest = oldest.limit(limit).with_for_update(skip_locked=True)
    old = oldest.lateral("old")
    return select(old.c.id).select_from(kept).join(old, true())


def _days(tenant_id: UUID) -> ColumnElement[int | None]:
    """Return the retention of a user; null is forever."""
    return func.coalesce(_USERS.c.retention_days, _days_of_tenant(tenant_id))


def _days_of_tenant(tenant_id: UUID) -> ColumnElement[int | None]:
    """Return the retention of a tenant; null is forever."""
    return select(_TENANTS.c.retention_days).where(_TENANTS.c.id == tenant_id).scalar_subquery()


def _since(now: ColumnElement[datetime], days: ColumnElement[int | None]) -> ColumnElement[datetime]:
    return now - func.make_interval(0, 0, 0, func.least(days, _FOR_EVER))
