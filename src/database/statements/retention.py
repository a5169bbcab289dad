"""Delete rows permanently, batch by batch, after the retention time of their user or tenant."""

from __future__ import annotations

from datetime import datetime, timedelta
from typing import Final
from uuid import UUID

from sqlalchemy import ColumnElement, Interval, Table, and_, func, literal, select, true

from src.database.base import Base, UtcDateTime, check_time, tenant_tables
from src.database.models import MessageHistory, StateEntry, Tenant, User
from src.database.observability import names_statements
from src.database.session import AsyncSession
from src.database.statements.pagination import check_limit
from src.database.statements.removal import Ids, dependants, nothing_needs, remove
from src.database.statements.rows import statement_time

DELETED_DAYS: Final = 30
"""Days after which soft-deleted rows are purged if there is no retention."""

_MAX_DAYS: Final = 365_000
"""A longer retention would lead to an instant before the year 1."""

_SHORTEST: Final = timedelta(days=1)
"""The shortest retention that the columns allow."""

EXPIRED_STATE: Final = timedelta(hours=1)
"""Time for which an expired entry of state stays. Its version continues meanwhile, so that a late writer is refused."""

_TABLES: Final = Base.metadata.tables
_USERS: Final = _TABLES[User.__tablename__]
_MESSAGES: Final = _TABLES[MessageHistory.__tablename__]
_STATE: Final = _TABLES[StateEntry.__tablename__]
_TENANTS: Final = _TABLES[Tenant.__tablename__]


@names_statements
async def purge_expired(
    session: AsyncSession, *, now: datetime | None = None, limit: int = 1000, dry_run: bool = False
) -> dict[str, int]:
    """Delete the expired rows of the current tenant permanently, one batch of each table.

    The retention is `users.retention_days`, or else `tenants.retention_days`, or else unlimited. Messages expire by
    their age. Soft-deleted rows, those of a service's own tables included, expire by the time since they were deleted;
    if there is no retention, after 30 days. Rows that need a deleted row are deleted with it, and other references to
    it are set to NULL. Entries of state are deleted one hour after their `expires_at`. Live conversations with their
    summaries, events and notes do not expire.

    Call it and commit until all counts are zero. Several workers can do so at the same time, and can stop and continue
    after any batch.

    Args:
        session: The session.
        now: The time by which rows expire; None is the server's time.
        limit: The largest number of rows of each table, 1 to 1000, without the changed occurrences of a series.
        dry_run: Delete nothing, and count the expired rows of all batches.

    Returns:
        The number of rows by table.

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
        # A row that other rows still need stays until a later batch has deleted them.
        unneeded = _without_dependants(table, ids, session.tenant_id)
        counts[table.name] = await remove(session, table, unneeded, limit=limit, skip_locked=True)
    return counts


def _expired(tenant_id: UUID, now: ColumnElement[datetime], *, limit: int | None) -> dict[Table, Ids]:
    """Return selects of the ids of expired rows, by table, referenced tables first."""
    roots: dict[Table, list[Ids]] = {}
    for table in tenant_tables():
        if "deleted_at" in table.columns:
            roots[table] = [_deleted(table, tenant_id, now)]
    roots[_MESSAGES].append(_old_messages(tenant_id, now, limit))
    expired = _STATE.c.expires_at < now - literal(EXPIRED_STATE, Interval())
    roots[_STATE] = [select(_STATE.c.id).where(_STATE.c.tenant_id == tenant_id, expired)]
    return dependants(Base.metadata, tenant_id, roots)


def _without_dependants(table: Table, ids: Ids, tenant_id: UUID) -> Ids:
    conditions = nothing_needs(table, Base.metadata, tenant_id)
    if not conditions:
        return ids
    named = select(ids.subquery().c.id)
    return select(table.c.id).where(table.c.tenant_id == tenant_id, table.c.id.in_(named), *conditions)


def _deleted(table: Table, tenant_id: UUID, now: ColumnElement[datetime]) -> Ids:
    """Return a select of the soft-deleted rows that have expired.

    The comparison with the shortest retention is a constant range of the index on `deleted_at`; that with the user's
    retention is not. A table without a user has the retention of the tenant.
    """
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
    """Return a select of expired messages, user by user, each by the index of a user's messages by age.

    The instants are computed in a MATERIALIZED CTE: a timestamp subtraction is not leakproof, so that under row-level
    security a comparison with it is no index condition. ORDER BY makes the planner use the index. With a limit the
    messages are locked as they are read, so that rows that another transaction has locked do not count toward it.
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
    """Return the retention of a user in days; NULL is unlimited."""
    return func.coalesce(_USERS.c.retention_days, _days_of_tenant(tenant_id))


def _days_of_tenant(tenant_id: UUID) -> ColumnElement[int | None]:
    """Return the retention of a tenant in days; NULL is unlimited."""
    return select(_TENANTS.c.retention_days).where(_TENANTS.c.id == tenant_id).scalar_subquery()


def _since(now: ColumnElement[datetime], days: ColumnElement[int | None]) -> ColumnElement[datetime]:
    return now - func.make_interval(0, 0, 0, func.least(days, _MAX_DAYS))
