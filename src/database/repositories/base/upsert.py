"""INSERT ... ON CONFLICT DO UPDATE for a mapped class, with the outcome."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Any, Generic, Literal, TypeVar, cast

from sqlalchemy import (
    Boolean,
    Column,
    ColumnElement,
    PrimaryKeyConstraint,
    Select,
    Table,
    UniqueConstraint,
    and_,
    literal_column,
    or_,
    select,
)
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.sql.dml import ReturningInsert

from src.database.base import TenantBase, utc_now
from src.database.errors import DuplicateKeyError
from src.database.repositories.base.conditions import check_value
from src.database.session import AsyncSession

ModelT = TypeVar("ModelT", bound=TenantBase)

# xmax is 0 in a row version that no transaction has replaced or locked: the row was inserted. ON CONFLICT DO UPDATE
# locks the existing row first, so an updated row has another xmax.
_WAS_INSERTED = literal_column("xmax = 0", Boolean)


@dataclass(frozen=True, slots=True)
class Upserted(Generic[ModelT]):
    """The row in its new state, and the outcome."""

    row: ModelT
    outcome: Literal["inserted", "updated", "unchanged"]


@dataclass(frozen=True, slots=True)
class _Key:
    """A unique constraint or index, in the form that ON CONFLICT takes."""

    columns: list[Column[Any]]
    predicate: ColumnElement[bool] | None = None
    nulls_are_equal: bool = False


async def upsert(
    session: AsyncSession, model: type[ModelT], values: Mapping[str, Any], *, key: Collection[str]
) -> Upserted[ModelT]:
    """Insert a row, or update the row with this key. A row that has these values already is not written."""
    existing = select_by_key(session, model, values, key=key).execution_options(populate_existing=True)
    statement = _insert_or_update(model, {**values, "tenant_id": session.tenant_id}, _unique_key(model, key))
    while True:  # repeats only if another transaction permanently deletes the row between the two statements
        written = (await session.execute(statement, execution_options={"populate_existing": True})).one_or_none()
        if written is not None:
            return Upserted(row=written[0], outcome="inserted" if written[1] else "updated")
        row = (await session.scalars(existing)).one_or_none()
        if row is not None and getattr(row, "deleted_at", None) is not None:
            raise DuplicateKeyError(f"a deleted {model.__name__} has this key", hint="`restore` that row first")
        if row is not None:
            return Upserted(row=row, outcome="unchanged")


def select_by_key(
    session: AsyncSession, model: type[ModelT], values: Mapping[str, Any], *, key: Collection[str]
) -> Select[Any]:
    """Return a select of the row with this key.

    Raises:
        ValueError: These attributes are not a unique key, one of them has no value, or a value is forbidden SQL.
    """
    for value in values.values():
        check_value(model, value)
    unique = _unique_key(model, key)
    for name in key:
        if values.get(name) is None and not (unique.nulls_are_equal and name in values):
            raise ValueError(f"values must have {name!r}, which is part of the key, and it must not be None")
    return select(model).where(
        model.tenant_id == session.tenant_id,
        *(getattr(model, name) == values[name] for name in key),
        *([] if unique.predicate is None else [unique.predicate]),
    )


async def insert_unless_there(
    session: AsyncSession, model: type[ModelT], values: Mapping[str, Any], *, key: Collection[str]
) -> ModelT | None:
    """Insert a row, or return None if there is a row with this key."""
    unique = _unique_key(model, key)
    statement = insert(model).values({**values, "tenant_id": session.tenant_id})
    statement = statement.on_conflict_do_nothing(index_elements=unique.columns, index_where=unique.predicate)
    inserted: ModelT | None = await session.scalar(statement.returning(model))
    return inserted


def _insert_or_update(model: type[ModelT], values: Mapping[str, Any], unique: _Key) -> ReturningInsert[ModelT, bool]:
    """Return the statement. It returns no row if a row with these values exists, or a deleted row with this key."""
    columns = {name: model.__mapper__.column_attrs[name].columns[0] for name in values}
    fixed = {column.name for column in unique.columns} | {"id"}
    statement = insert(model).values(dict(values))
    changes = {column: statement.excluded[column.name] for column in columns.values() if column.name not in fixed}
    if not changes:
        nothing = statement.on_conflict_do_nothing(index_elements=unique.columns, index_where=unique.predicate)
        return nothing.returning(model, _WAS_INSERTED)
    applies = or_(*(column.is_distinct_from(value) for column, value in changes.items()))
    if (deleted_at := model.__table__.columns.get("deleted_at")) is not None:
        applies = and_(applies, deleted_at.is_(None))
    automatic: dict[Any, Any] = {model.__table__.c.updated_at: utc_now()}  # Citus rejects now() here
    if (version := model.__mapper__.version_id_col) is not None:
        automatic[version] = version + 1
    update = statement.on_conflict_do_update(
        index_elements=unique.columns, index_where=unique.predicate, set_={**changes, **automatic}, where=applies
    )
    return update.returning(model, _WAS_INSERTED)


def _unique_key(model: type[TenantBase], key: Collection[str]) -> _Key:
    """Return the unique key that these attributes and `tenant_id` form.

    Raises:
        ValueError: There is no such key.
    """
    if isinstance(key, str):  # a string is a collection of its characters
        raise ValueError(f"key must be a list of attributes, e.g. [{key!r}], got a str")  # noqa: TRY004 - bad input
    table = cast("Table", model.__table__)
    constraints = [item for item in table.constraints if isinstance(item, UniqueConstraint | PrimaryKeyConstraint)]
    found = {frozenset(item.columns.keys()): _Key(list(item.columns)) for item in constraints}
    for index in table.indexes:
        if index.unique:
            options = index.dialect_options["postgresql"]
            columns = [table.columns[name] for name in index.columns.keys()]  # noqa: SIM118 - not a dict
            found[frozenset(index.columns.keys())] = _Key(
                columns, options["where"], bool(options["nulls_not_distinct"])
            )
    unique = found.get(frozenset({"tenant_id", *key}))
    if unique is None:
        keys = "; ".join(sorted(", ".join(sorted(names - {"tenant_id"})) for names in found))
        raise ValueError(f"key must name a unique key of {model.__name__}, got {', '.join(sorted(key))}; known: {keys}")
    return unique
