"""INSERT … ON CONFLICT DO UPDATE over a mapped class, with its outcome."""

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

# A row version that no transaction has yet replaced or locked has xmax 0: the insert made it.
_WAS_INSERTED = literal_column("xmax = 0", Boolean)


@dataclass(frozen=True, slots=True)
class Upserted(Generic[ModelT]):
    """The row as it is now, and the outcome."""

    row: ModelT
    outcome: Literal["inserted", "updated", "unchanged"]


@dataclass(frozen=True, slots=True)
class _Key:
    """A unique key of a table, as ON CONFLICT wants it."""

    columns: list[Column[Any]]
    predicate: ColumnElement[bool] | None = None
    nulls_are_equal: bool = False


async def upsert(
    session: AsyncSession, model: type[ModelT], values: Mapping[str, Any], *, key: Collection[str]
) -> Upserted[ModelT]:
    """Insert a row, or update the one with this key; a row that has these values already is not written again."""
    there = select_by_key(session, model, values, key=key).execution_options(populate_existing=True)
    statement = _insert_or_update(model, {**values, "tenant_id": session.tenant_id}, _unique_key(model, key))
    while True:  # a further round only where the row is deleted for good between the two statements
        written = (await session.execute(statement, execution_options={"populate_existing": True})).one_or_none()
        if written is not None:
            return Upserted(row=written[0], outcome="inserted" if written[1] else "updated")
        row = (await session.scalars(there)).one_or_none()
        if row is not None and getattr(row, "deleted_at", None) is not None:
            raise DuplicateKeyError(f"a deleted {model.__name__} holds this key", hint="`restore` it first")
        if row is not None:
            return Upserted(row=row, outcome="unchanged")


def select_by_key(
    session: AsyncSession, model: type[ModelT], values: Mapping[str, Any], *, key: Collection[str]
) -> Select[Any]:
    """Return a select of the row with this key.

    Raises:
        ValueError: No unique key is made of these attributes, one of them has no value, or a value is forbidden SQL.
    """
    for value in values.values():
        check_value(model, value)
    unique = _unique_key(model, key)
    for name in key:
        if values.get(name) is None and not (unique.nulls_are_equal and name in values):
            raise ValueError(f"values must hold the key's {name!r}, and it must not be None")
    return select(model).where(
        model.tenant_id == session.tenant_id,
        *(getattr(model, name) == values[name] for name in key),
        *([] if unique.predicate is None else [unique.predicate]),
    )


async def insert_unless_there(
    session: AsyncSession, model: type[ModelT], values: Mapping[str, Any], *, key: Collection[str]
) -> ModelT | None:
    """Insert a row, or return None if another writer has inserted one with this key."""
    unique = _unique_key(model, key)
    statement = insert(model).values({**values, "tenant_id": session.tenant_id})
    statement = statement.on_conflict_do_nothing(index_elements=unique.columns, index_where=unique.predicate)
    made: ModelT | None = await session.scalar(statement.returning(model))
    return made


def _insert_or_update(model: type[ModelT], values: Mapping[str, Any], unique: _Key) -> ReturningInsert[ModelT, bool]:
    """Return the statement; it returns no row if there is one with these values already, or a deleted one."""
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
    by_itself: dict[Any, Any] = {model.__table__.c.updated_at: utc_now()}  # Citus refuses now() here
    if (version := model.__mapper__.version_id_col) is not None:
        by_itself[version] = version + 1
    update = statement.on_conflict_do_update(
        index_elements=unique.columns, index_where=unique.predicate, set_={**changes, **by_itself}, where=applies
    )
    return update.returning(model, _WAS_INSERTED)


def _unique_key(model: type[TenantBase], key: Collection[str]) -> _Key:
    """Return the unique key of the table that these attributes form with the tenant.

    Raises:
        ValueError: There is none.
    """
    if isinstance(key, str):  # it would be taken for a list of letters
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
