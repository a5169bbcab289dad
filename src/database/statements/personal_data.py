"""Export and erase the personal data of a user, and the data of a tenant."""

from __future__ import annotations

from collections.abc import AsyncGenerator, AsyncIterator, Mapping
from typing import Any, Final
from uuid import UUID

from sqlalchemy import (
    JSON,
    ColumnElement,
    Integer,
    MetaData,
    Numeric,
    Select,
    Table,
    Text,
    cast,
    column,
    func,
    literal,
    literal_column,
    select,
    true,
    type_coerce,
    union_all,
    values,
)

from src.database.base import Base, TenantBase, tenant_tables
from src.database.errors import DatabaseError, NotFoundError
from src.database.models import Tenant, User
from src.database.observability import names_statements
from src.database.session import AsyncSession
from src.database.statements.removal import PERSON, Ids, dependants, references, remove

EXPORT_BATCH: Final = 500
ERASE_BATCH: Final = 20_000
"""Rows per statement, few enough for DATABASE_STATEMENT_TIMEOUT."""


def export_user(
    session: AsyncSession, user_id: UUID, *, metadata: MetaData = Base.metadata
) -> AsyncIterator[dict[str, Any]]:
    """Yield the personal data of a user; see `UserRepository.export`."""
    tenant_id = session.tenant_id
    ids_by_table = _rows_of_user(metadata, tenant_id, user_id)
    tables = {table: [table.c.tenant_id == tenant_id, table.c.id.in_(ids)] for table, ids in ids_by_table.items()}
    return _export(session, tables, missing=_no_such_user(user_id))


def export_tenant(session: AsyncSession) -> AsyncIterator[dict[str, Any]]:
    """Yield the data of the current tenant, its entry in the registry first; see `UserRepository.export`.

    Raises:
        NotFoundError: The tenant is not registered. Nothing was yielded.
    """
    tenant_id = session.tenant_id
    registry = Tenant.metadata.tables[Tenant.__tablename__]
    tables = {table: [table.c.tenant_id == tenant_id] for table in tenant_tables()}
    missing = NotFoundError(f"there is no tenant with id {tenant_id}")
    return _export(session, {registry: [registry.c.id == tenant_id], **tables}, missing=missing)


@names_statements
async def _export(
    session: AsyncSession, tables: Mapping[Table, list[ColumnElement[bool]]], *, missing: NotFoundError
) -> AsyncGenerator[dict[str, Any], None]:
    """Yield the rows of tables, one table after the other.

    One statement reads one state of the database, in any isolation level. The LATERAL reads the tables one by one in
    their order, so that the server neither sorts nor stores rows.

    Args:
        session: The session.
        tables: The conditions of each table, in the order of the export.
        missing: The error that is raised if the first table has no such row.
    """
    names = [table.name for table in tables]
    numbers = values(column("number", Integer), name="numbers").data([(number,) for number in range(len(names))])
    # Ordered in a subquery before the join: an ORDER BY after the join alone would sort all rows.
    turn = select(numbers.c.number).order_by(numbers.c.number).subquery("turn")
    parts = [
        select(func.row_to_json(literal_column("part")).label("document"))
        .select_from(_columns(table).where(*where).subquery("part"))
        .where(turn.c.number == literal_column(str(number)))
        .correlate(turn)
        for number, (table, where) in enumerate(tables.items())
    ]
    held = union_all(*parts).lateral("held")
    statement = (
        select(turn.c.number, type_coerce(held.c.document, JSON))
        .select_from(turn)
        .join(held, true())
        .order_by(turn.c.number)
    )
    result = await session.stream(statement, execution_options={"yield_per": EXPORT_BATCH})
    has_first = False
    try:
        async for batch in result.partitions():  # iterating over rows costs a greenlet switch for each row
            for number, document in batch:
                has_first = has_first or number == 0
                if not has_first:
                    raise missing
                yield {"table": names[number], "row": document}
    finally:
        await result.close()
    if not has_first:
        raise missing


@names_statements
async def erase_user(session: AsyncSession, user_id: UUID, *, metadata: MetaData = Base.metadata) -> dict[str, int]:
    """Delete the personal data of a user permanently; see `UserRepository.erase`."""
    tenant_id = session.tenant_id
    # The foreign key of a row that is inserted meanwhile waits for this lock, and then fails: the user is deleted.
    person = metadata.tables[PERSON]
    lock = select(person.c.id).where(person.c.tenant_id == tenant_id, person.c.id == user_id).with_for_update()
    if await session.scalar(lock) is None:
        raise _no_such_user(user_id)
    removed: dict[str, int] = {}
    for table, ids in reversed(_rows_of_user(metadata, tenant_id, user_id).items()):
        removed[table.name] = 0
        while count := await remove(session, table, ids, limit=ERASE_BATCH):
            removed[table.name] += count
            if count < ERASE_BATCH:
                break
    left = await _left(session, user_id, metadata)
    if left:
        raise DatabaseError(
            f"the user was not erased: rows are left in {', '.join(left)}",
            hint="roll back, and check these tables for a trigger or a rule that keeps rows",
        )
    _expunge(session, user_id)
    return removed


@names_statements
async def erase_tenant_batch(session: AsyncSession, *, limit: int = ERASE_BATCH) -> dict[str, int]:
    """Delete a batch of rows of the current tenant, rows that no others need first.

    Returns:
        The number of deleted rows by table; empty if the tenant has no rows left.
    """
    for table in reversed(tenant_tables()):
        everything: Ids = select(table.c.id).where(table.c.tenant_id == session.tenant_id)
        if count := await remove(session, table, everything, limit=limit):
            return {table.name: count}
    return {}


async def _left(session: AsyncSession, user_id: UUID, metadata: MetaData) -> list[str]:
    """Return the tables that still have a row of this user.

    The columns are compared one by one: a fault in `dependants` must not hide the rows that it has missed.
    """
    tenant_id = session.tenant_id
    person = metadata.tables[PERSON]
    columns = [person.c.id, *(item.column for item in references(metadata) if item.target is person)]
    queries = [
        select(literal(owner.table.name).label("name"))
        .select_from(owner.table)
        .where(owner.table.c.tenant_id == tenant_id, owner == user_id)
        for owner in columns
    ]
    return sorted(set(await session.scalars(union_all(*queries))))


def _rows_of_user(metadata: MetaData, tenant_id: UUID, user_id: UUID) -> dict[Table, Ids]:
    person = metadata.tables[PERSON]
    root: Ids = select(person.c.id).where(person.c.tenant_id == tenant_id, person.c.id == user_id)
    return dependants(metadata, tenant_id, {person: [root]})


def _columns(table: Table) -> Select[Any]:
    """Return a select of a table's columns without those that the server computes.

    An exact number is exported as text: readers of JSON, Python's too, round a number to about 16 digits.
    """
    stored = (column for column in table.columns if column.computed is None)
    return select(*(cast(one, Text).label(one.name) if isinstance(one.type, Numeric) else one for one in stored))


def _expunge(session: AsyncSession, user_id: UUID) -> None:
    """Remove the user's entities from the session: a flush of a deleted row would fail."""
    for row in list(session):
        known = row.__dict__
        is_person = isinstance(row, User) and known.get("id") == user_id
        if isinstance(row, TenantBase) and (is_person or known.get("user_id") == user_id):
            session.expunge(row)


def _no_such_user(user_id: UUID) -> NotFoundError:
    return NotFoundError(f"this tenant has no User with id {user_id}")
