"""Remove rows permanently, in the order of their foreign keys, which the metadata has: there is no list to maintain."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final, cast
from uuid import UUID

from sqlalchemy import (
    ARRAY,
    CheckConstraint,
    Column,
    ColumnElement,
    CompoundSelect,
    CursorResult,
    MetaData,
    Select,
    Table,
    Update,
    Uuid,
    all_,
    any_,
    delete,
    literal,
    select,
    true,
    union_all,
    update,
)

from src.database.base import tenant_tables
from src.database.session import AsyncSession

PERSON: Final = "users"
"""The table whose rows are people."""

_OWNER: Final = "user_id"
_UNSYNCHRONIZED: Final = {"synchronize_session": False}

Ids = Select[tuple[UUID]] | CompoundSelect[tuple[UUID]]


@dataclass(frozen=True, slots=True)
class Reference:
    """A column that refers to the rows of a table.

    A row needs what it refers to where the column must not be null, where a CHECK ties the column to others, and
    where what it refers to is a person. Any other reference can be cleared.
    """

    column: Column[Any]
    target: Table
    is_needed: bool

    @property
    def table(self) -> Table:
        """The table that the column is in."""
        return self.column.table


def references(metadata: MetaData) -> list[Reference]:
    """Return how the tables of tenants' rows refer to one another; `user_id` refers to a person, foreign key or not."""
    return [
        Reference(column, target, _is_needed(column, target))
        for table in tenant_tables(metadata)
        for column in table.columns
        for target in _targets(column)
    ]


def _targets(column: Column[Any]) -> list[Table]:
    if column.name == "tenant_id":
        return []
    if column.name == _OWNER:
        return [column.table.metadata.tables[PERSON]]
    return [key.column.table for key in column.foreign_keys]


def _is_needed(column: Column[Any], target: Table) -> bool:
    table = column.table
    checks = (str(item.sqltext) for item in table.constraints if isinstance(item, CheckConstraint))
    return not column.nullable or target.name == PERSON or any(column.name in check for check in checks)


def dependants(metadata: MetaData, tenant_id: UUID, roots: Mapping[Table, list[Ids]]) -> dict[Table, Ids]:
    """Return the ids of these rows and of all rows that need them, by table, parents first.

    A row that several others need is named once for all of them, and once more where it is a root.
    """
    doomed: dict[Table, Ids] = {}
    needs = [reference for reference in references(metadata) if reference.is_needed]
    for table in tenant_tables(metadata):
        sources: list[Ids] = list(roots.get(table, []))
        named: list[ColumnElement[bool]] = []
        for need in needs:
            if need.table is table and need.target in doomed:
                refers = need.column.in_(doomed[need.target])
                sources.append(_ids(table, tenant_id, refers, *(other.is_not(true()) for other in named)))
                named.append(refers)
        if sources:
            doomed[table] = sources[0] if len(sources) == 1 else union_all(*sources)
    return doomed


def nothing_needs(table: Table, metadata: MetaData, tenant_id: UUID) -> list[ColumnElement[bool]]:
    """Return the conditions of a row of a table that no row of another table needs."""
    return [
        ~_ids(need.table, tenant_id, need.column == table.c.id).exists()
        for need in references(metadata)
        if need.is_needed and need.target is table and need.table is not table
    ]


async def remove(session: AsyncSession, table: Table, ids: Ids, *, limit: int, skip_locked: bool = False) -> int:
    """Delete rows of one table, at most so many of those named.

    What refers to them without needing them is cleared, and the rows of the same table that need them go too. Each
    step is a statement of its own: it sees every reference that was made before the lock.

    Args:
        session: Whose tenant's rows.
        table: Where.
        ids: Which; no other table's rows must need them.
        limit: How many a call.
        skip_locked: Pass over those that another transaction has in hand.

    Returns:
        How many there were.
    """
    tenant_id = session.tenant_id
    locked = await session.scalars(_lock(table, ids, tenant_id, limit=limit, skip_locked=skip_locked))
    gone = list(set(locked))
    if not gone:
        return 0
    to_table = [reference for reference in references(table.metadata) if reference.target is table]
    for reference in to_table:
        if reference.table is table and reference.is_needed:
            parts: Select[Any] = _ids(table, tenant_id, reference.column == _any_of(gone))
            gone = list({*gone, *await session.scalars(parts.with_for_update())})
    for reference in to_table:
        if not reference.is_needed:
            await session.execute(_clearing(reference, gone, tenant_id), execution_options=_UNSYNCHRONIZED)
    statement = delete(table).where(table.c.tenant_id == tenant_id, table.c.id == _any_of(gone))
    result = await session.execute(statement, execution_options=_UNSYNCHRONIZED)
    return cast("CursorResult[Any]", result).rowcount


def _lock(table: Table, ids: Ids, tenant_id: UUID, *, limit: int, skip_locked: bool) -> Select[Any]:
    """Lock rows one by one as they are named, until there are enough: what is passed over does not count."""
    named = ids.subquery("named")
    row = _ids(table, tenant_id, table.c.id == named.c.id).correlate(named)
    locked = row.with_for_update(skip_locked=skip_locked).lateral("locked")
    return select(locked.c.id).select_from(named).join(locked, true()).limit(limit)


def _clearing(reference: Reference, gone: list[UUID], tenant_id: UUID) -> Update:
    table = reference.table
    statement = update(table).where(table.c.tenant_id == tenant_id, reference.column == _any_of(gone))
    if table is reference.target:  # no row is changed that is removed in a moment
        statement = statement.where(table.c.id != all_(literal(gone, ARRAY(Uuid))))
    return statement.values({reference.column: None})


def _any_of(ids: list[UUID]) -> ColumnElement[Any]:
    """One parameter, however many there are: the protocol takes no more than 32,767."""
    return any_(literal(ids, ARRAY(Uuid)))


def _ids(table: Table, tenant_id: UUID, *where: ColumnElement[bool]) -> Select[tuple[UUID]]:
    return select(table.c.id).where(table.c.tenant_id == tenant_id, *where)
