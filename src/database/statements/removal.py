"""Delete rows permanently, in the order of their foreign keys, which come from the metadata of the models."""

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
"""The table of the persons to whom personal data belongs."""

_OWNER: Final = "user_id"
_UNSYNCHRONIZED: Final = {"synchronize_session": False}

Ids = Select[tuple[UUID]] | CompoundSelect[tuple[UUID]]


@dataclass(frozen=True, slots=True)
class Reference:
    """A column that refers to the rows of a table.

    A row needs the row that it refers to if the column is not nullable, if a CHECK names the column, or if it refers to
    a person. Any other reference can be set to NULL.
    """

    column: Column[Any]
    target: Table
    is_needed: bool

    @property
    def table(self) -> Table:
        """The table of the column."""
        return self.column.table


def references(metadata: MetaData) -> list[Reference]:
    """Return the references between tables of tenants; `user_id` refers to a person also without a foreign key."""
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
    """Return selects of the ids of rows and of all rows that need them, by table, referenced tables first.

    Args:
        metadata: The metadata of the tables.
        tenant_id: The tenant.
        roots: The rows to begin with.

    Returns:
        The selects; an id can occur twice, if the row is a root and needs another row too.
    """
    ids_by_table: dict[Table, Ids] = {}
    needs = [reference for reference in references(metadata) if reference.is_needed]
    for table in tenant_tables(metadata):
        sources: list[Ids] = list(roots.get(table, []))
        named: list[ColumnElement[bool]] = []
        for need in needs:
            if need.table is table and need.target in ids_by_table:
                refers = need.column.in_(ids_by_table[need.target])
                sources.append(_ids(table, tenant_id, refers, *(other.is_not(true()) for other in named)))
                named.append(refers)
        if sources:
            ids_by_table[table] = sources[0] if len(sources) == 1 else union_all(*sources)
    return ids_by_table


def nothing_needs(table: Table, metadata: MetaData, tenant_id: UUID) -> list[ColumnElement[bool]]:
    """Return the conditions that no row of another table needs a row of this table."""
    return [
        ~_ids(need.table, tenant_id, need.column == table.c.id).exists()
        for need in references(metadata)
        if need.is_needed and need.target is table and need.table is not table
    ]


async def remove(session: AsyncSession, table: Table, ids: Ids, *, limit: int, skip_locked: bool = False) -> int:
    """Lock and delete rows of one table, and set references to them to NULL.

    Rows of the same table that need the rows are deleted too. Each step is a statement of its own: only a statement
    that begins after the rows are locked sees every reference to them.

    Args:
        session: The session.
        table: The table.
        ids: The ids of the rows. No row of another table may need them.
        limit: The largest number of rows, without those of the same table that need them.
        skip_locked: Skip rows that another transaction has locked.

    Returns:
        The number of deleted rows.
    """
    tenant_id = session.tenant_id
    locked = await session.scalars(_lock(table, ids, tenant_id, limit=limit, skip_locked=skip_locked))
    row_ids = list(set(locked))
    if not row_ids:
        return 0
    to_table = [reference for reference in references(table.metadata) if reference.target is table]
    for reference in to_table:
        if reference.table is table and reference.is_needed:
            parts: Select[Any] = _ids(table, tenant_id, reference.column == _any_of(row_ids))
            row_ids = list({*row_ids, *await session.scalars(parts.with_for_update())})
    for reference in to_table:
        if not reference.is_needed:
            await session.execute(_set_null(reference, row_ids, tenant_id), execution_options=_UNSYNCHRONIZED)
    statement = delete(table).where(table.c.tenant_id == tenant_id, table.c.id == _any_of(row_ids))
    result = await session.execute(statement, execution_options=_UNSYNCHRONIZED)
    return cast("CursorResult[Any]", result).rowcount


def _lock(table: Table, ids: Ids, tenant_id: UUID, *, limit: int, skip_locked: bool) -> Select[Any]:
    """Return a select that locks rows up to the limit.

    The rows are locked in a LATERAL, one by one, so that a skipped row does not count toward the limit.
    """
    named = ids.subquery("named")
    row = _ids(table, tenant_id, table.c.id == named.c.id).correlate(named)
    locked = row.with_for_update(skip_locked=skip_locked).lateral("locked")
    return select(locked.c.id).select_from(named).join(locked, true()).limit(limit)


def _set_null(reference: Reference, row_ids: list[UUID], tenant_id: UUID) -> Update:
    table = reference.table
    statement = update(table).where(table.c.tenant_id == tenant_id, reference.column == _any_of(row_ids))
    if table is reference.target:  # rows that are deleted next need no update
        statement = statement.where(table.c.id != all_(literal(row_ids, ARRAY(Uuid))))
    return statement.values({reference.column: None})


def _any_of(ids: list[UUID]) -> ColumnElement[Any]:
    """Return the ids as one array parameter: a statement has at most 32,767 parameters."""
    return any_(literal(ids, ARRAY(Uuid)))


def _ids(table: Table, tenant_id: UUID, *where: ColumnElement[bool]) -> Select[tuple[UUID]]:
    return select(table.c.id).where(table.c.tenant_id == tenant_id, *where)
