"""INSERT … ON CONFLICT DO UPDATE over a mapped class, and what it did."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Any, Generic, Literal, TypeVar, cast

from sqlalchemy import Boolean, ColumnElement, Table, UniqueConstraint, func, literal_column, or_, select
from sqlalchemy.dialects.postgresql import insert

from src.database.base import TenantBase
from src.database.tenancy import AsyncSession

__all__ = ["Upserted", "upsert"]

ModelT = TypeVar("ModelT", bound=TenantBase)

# A row version that no transaction has yet replaced or locked has xmax 0: the insert made it.
_WAS_INSERTED = literal_column("xmax = 0", Boolean)


@dataclass(frozen=True, slots=True)
class Upserted(Generic[ModelT]):
    """The row as it is now, and what became of it."""

    row: ModelT
    outcome: Literal["inserted", "updated", "unchanged"]


async def upsert(
    session: AsyncSession, model: type[ModelT], values: Mapping[str, Any], *, key: Collection[str]
) -> Upserted[ModelT]:
    """Insert a row, or bring the one with this key up to date; a row that is so already is not written again."""
    tenant_id = session.tenant_id
    target, predicate = _unique_key(model, key)
    columns = {**{name: getattr(model, name) for name in values}, "tenant_id": model.tenant_id}
    statement = insert(model).values({**values, "tenant_id": tenant_id})
    incoming = {name: statement.excluded[columns[name].property.columns[0].name] for name in values}
    changes = {name: value for name, value in incoming.items() if name not in key and name != "id"}
    if changes:
        differs = or_(*(columns[name].is_distinct_from(value) for name, value in changes.items()))
        statement = statement.on_conflict_do_update(
            index_elements=target,
            index_where=predicate,
            set_={columns[name].property.columns[0]: value for name, value in changes.items()}
            | {model.__table__.c.updated_at: func.now()},
            where=differs,
        )
    else:
        statement = statement.on_conflict_do_nothing(index_elements=target, index_where=predicate)
    written = (
        await session.execute(statement.returning(model, _WAS_INSERTED), execution_options={"populate_existing": True})
    ).one_or_none()
    if written is not None:
        return Upserted(row=written[0], outcome="inserted" if written[1] else "updated")
    conditions = [model.tenant_id == tenant_id, *(getattr(model, name) == values[name] for name in key)]
    if predicate is not None:
        conditions.append(predicate)
    row = (await session.scalars(select(model).where(*conditions))).one()
    return Upserted(row=row, outcome="unchanged")


def _unique_key(model: type[TenantBase], key: Collection[str]) -> tuple[list[Any], ColumnElement[bool] | None]:
    """Find the unique key of the table that these attributes, with the tenant, make."""
    wanted = {"tenant_id", *key}
    table = cast("Table", model.__table__)
    found: dict[frozenset[str], ColumnElement[bool] | None] = {
        frozenset(constraint.columns.keys()): None
        for constraint in (table.primary_key, *table.constraints)
        if isinstance(constraint, UniqueConstraint) or constraint is table.primary_key
    }
    for index in table.indexes:
        if index.unique:
            found[frozenset(index.columns.keys())] = index.dialect_options["postgresql"]["where"]
    if frozenset(wanted) not in found:
        keys = "; ".join(sorted(", ".join(sorted(names - {"tenant_id"})) for names in found))
        raise ValueError(f"key must name a unique key of {model.__name__}, got {', '.join(sorted(key))}; known: {keys}")
    return [table.columns[name] for name in sorted(wanted)], found[frozenset(wanted)]
