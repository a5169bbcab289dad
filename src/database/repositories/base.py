"""Repository: what every table of tenants' rows can be asked, always as one tenant."""

from __future__ import annotations

from collections.abc import AsyncIterator, Collection, Mapping, Sequence
from typing import Any, ClassVar, Generic, TypeVar
from uuid import UUID

from sqlalchemy import ColumnExpressionArgument, Select, exists, func, select, tuple_
from sqlalchemy.orm import InstrumentedAttribute

from src.database.base import TenantBase, utc_now
from src.database.errors import MultipleResultsFoundError, NotFoundError
from src.database.pagination import InvalidCursorError, Page, check_limit, decode_cursor, encode_cursor
from src.database.repositories.upsert import Upserted, upsert
from src.database.tenancy import AsyncSession

__all__ = ["Condition", "Repository", "Upserted"]

ModelT = TypeVar("ModelT", bound=TenantBase)
Condition = ColumnExpressionArgument[bool]

STREAM_BATCH: int = 500


class Repository(Generic[ModelT]):
    """The rows of one table that belong to the acting tenant; a soft-deleted row is not there.

    A condition (`*where`) is an expression over mapped attributes: `User.is_active.is_(True)`.

    Every method raises NoTenantError where no tenant acts.
    """

    model: ClassVar[type[Any]]

    def __init__(self, session: AsyncSession) -> None:
        self.session = session

    async def get(self, row_id: UUID) -> ModelT:
        """Return the row of this id.

        Raises:
            NotFoundError: This tenant has none.
        """
        return self._found(await self.get_or_none(row_id), f"id {row_id}")

    async def get_or_none(self, row_id: UUID) -> ModelT | None:
        """Return the row of this id, or None."""
        found: ModelT | None = await self.session.scalar(self._select(self.model.id == row_id))
        return found

    async def get_one(self, *where: Condition) -> ModelT:
        """Return the one row that satisfies the conditions.

        Raises:
            NotFoundError: None does.
            MultipleResultsFoundError: More than one does.
        """
        rows = (await self.session.scalars(self._select(*where).limit(2))).all()
        if len(rows) > 1:
            raise MultipleResultsFoundError(f"more than one {self.model.__name__} satisfies the conditions")
        return self._found(rows[0] if rows else None, "these conditions")

    async def get_many(self, row_ids: Collection[UUID]) -> list[ModelT]:
        """Return those of these rows that are there, by id."""
        statement = self._select(self.model.id.in_(row_ids)).order_by(self.model.id)
        return list(await self.session.scalars(statement))

    async def exists(self, *where: Condition) -> bool:
        """Say whether any row satisfies the conditions."""
        return bool(await self.session.scalar(select(exists(self._ids(*where)))))

    async def count(self, *where: Condition) -> int:
        """Count the rows that satisfy the conditions."""
        return await self.session.scalar(select(func.count()).select_from(self._ids(*where).subquery())) or 0

    async def add(self, row: ModelT) -> ModelT:
        """Insert a row; the tenant is filled in.

        Raises:
            IntegrityError: A rule of the schema refuses it.
            TenantMismatchError: It says that it is another tenant's.
        """
        return (await self.add_many([row]))[0]

    async def add_many(self, rows: Sequence[ModelT]) -> list[ModelT]:
        """Insert rows in one statement; as `add` does otherwise."""
        self._check_rows(rows)
        self.session.add_all(rows)
        await self.session.flush()
        return list(rows)

    async def update(self, row_id: UUID, /, **values: Any) -> ModelT:
        """Change attributes of the row of this id.

        Raises:
            NotFoundError: This tenant has none.
            StaleDataError: Another writer changed it meanwhile (where the table has `version`).
            ValueError: An attribute is unknown, or is one that never changes.
        """
        self._check_attributes(values)
        row = await self.get(row_id)
        for name, value in values.items():
            setattr(row, name, value)
        await self.session.flush()
        return row

    async def upsert(self, values: Mapping[str, Any], *, key: Collection[str]) -> Upserted[ModelT]:
        """Insert a row, or bring the one with this key up to date, in one statement (ON CONFLICT DO UPDATE).

        Args:
            values: Attributes by name, those of the key among them; those not named stay as they are.
            key: The attributes of a unique key of the table, without `tenant_id`.

        Returns:
            The row, and whether it was inserted, updated or unchanged.

        Raises:
            ValueError: An attribute is unknown, no unique key is made of these, or one of them has no value.
            DuplicateKeyError: A soft-deleted row holds the key.
        """
        self._check_attributes({name: value for name, value in values.items() if name != "id"})
        return await upsert(self.session, self.model, values, key=key)

    async def delete(self, row_id: UUID, *, hard: bool = False) -> None:
        """Delete the row of this id: out of sight where the table has `deleted_at`, else, or if `hard`, for good.

        Raises:
            NotFoundError: This tenant has none; for `hard`, not even a soft-deleted one.
            ForeignKeyError: For good, and other rows still refer to it.
        """
        soft = self._can_soft_delete() and not hard
        statement = self._select(self.model.id == row_id, include_deleted=not soft)
        row = self._found(await self.session.scalar(statement), f"id {row_id}")
        if soft:
            setattr(row, "deleted_at", utc_now())  # noqa: B010 - an attribute of some models
        else:
            await self.session.delete(row)
        await self.session.flush()

    async def restore(self, row_id: UUID) -> ModelT:
        """Bring a soft-deleted row back; one that was not deleted stays as it is.

        Raises:
            NotFoundError: This tenant has none.
            DuplicateKeyError: Another row has taken its key meanwhile.
            ValueError: The table keeps no deleted rows.
        """
        if not self._can_soft_delete():
            raise ValueError(f"{self.model.__name__} has no deleted_at: what is deleted there is gone")
        statement = self._select(self.model.id == row_id, include_deleted=True)
        row: ModelT = self._found(await self.session.scalar(statement), f"id {row_id}")
        setattr(row, "deleted_at", None)  # noqa: B010 - an attribute of some models
        await self.session.flush()
        return row

    async def page(
        self,
        *where: Condition,
        after: str | None = None,
        limit: int = 50,
        order_by: InstrumentedAttribute[Any] | None = None,
        descending: bool = False,
    ) -> Page[ModelT]:
        """Return one page, by `order_by` and then by id (which is the order of creation).

        Args:
            where: Conditions; the same ones for each page.
            after: The cursor of the page before.
            limit: Rows a page, 1 to 1000.
            order_by: A mapped attribute of this model that is never null.
            descending: Last first.

        Raises:
            InvalidCursorError: The cursor is not one of this query's.
            ValueError: The limit or the attribute cannot serve.
        """
        check_limit(limit)
        keys = [self.model.id] if order_by is None else [self._sortable(order_by), self.model.id]
        names = [key.key for key in keys]
        scope = f"{self.model.__tablename__}:{','.join(names)}:{descending}:{self.session.tenant_id}"
        statement = self._select(*where)
        if after is not None:
            values = decode_cursor(after, scope=scope)
            if [type(value) for value in values] != [_python_type(key) for key in keys]:
                raise InvalidCursorError("the cursor cannot be read; begin again without one")
            position = tuple_(*values, types=[key.type for key in keys])
            row = tuple_(*keys)
            statement = statement.where(row < position if descending else row > position)
        statement = statement.order_by(*(key.desc() if descending else key for key in keys)).limit(limit + 1)
        rows = list(await self.session.scalars(statement))
        more = len(rows) > limit
        items = rows[:limit]
        cursor = encode_cursor([getattr(items[-1], name) for name in names], scope=scope) if more else None
        return Page(items=items, next_cursor=cursor)

    async def stream(self, *where: Condition) -> AsyncIterator[ModelT]:
        """Go through the rows in order of creation, some hundred at a time, whatever their number."""
        statement = self._select(*where).order_by(self.model.id).execution_options(yield_per=STREAM_BATCH)
        async for row in await self.session.stream_scalars(statement):
            yield row  # the session refers to an unchanged row weakly: it goes when the caller lets go of it

    def _select(self, *where: Condition, include_deleted: bool = False) -> Select[Any]:
        """Begin a query: the tenant is in every one, beside the policy in the database."""
        statement = select(self.model).where(self.model.tenant_id == self.session.tenant_id, *where)
        if include_deleted or not self._can_soft_delete():
            return statement
        return statement.where(self.model.deleted_at.is_(None))

    def _ids(self, *where: Condition) -> Select[Any]:
        return self._select(*where).with_only_columns(self.model.id)

    def _found(self, row: ModelT | None, what: str) -> ModelT:
        if row is None:
            raise NotFoundError(f"this tenant has no {self.model.__name__} with {what}")
        return row

    def _can_soft_delete(self) -> bool:
        return hasattr(self.model, "deleted_at")

    def _check_rows(self, rows: Sequence[ModelT]) -> None:
        for row in rows:
            if not isinstance(row, self.model):
                raise TypeError(f"{type(self).__name__} adds {self.model.__name__}, got {type(row).__name__}")

    def _check_attributes(self, values: Mapping[str, Any]) -> None:
        fixed = {"tenant_id", "id", "created_at", "updated_at"}
        known = set(self.model.__mapper__.column_attrs.keys()) - fixed
        for name in values:
            if name in fixed:
                raise ValueError(f"{self.model.__name__}.{name} cannot be set: it never changes")
            if name not in known:
                raise ValueError(
                    f"{self.model.__name__} has no attribute {name!r}; known are {', '.join(sorted(known))}"
                )

    def _sortable(self, attribute: InstrumentedAttribute[Any]) -> InstrumentedAttribute[Any]:
        column = self.model.__table__.columns.get(getattr(attribute, "key", ""))
        if getattr(attribute, "class_", None) is not self.model or column is None or column.nullable:
            raise ValueError(f"order_by must be a mapped attribute of {self.model.__name__} that is never null")
        return attribute


def _python_type(attribute: InstrumentedAttribute[Any]) -> type[Any]:
    kind: type[Any] = getattr(attribute.type, "impl_instance", attribute.type).python_type  # what a decorator wraps
    return kind
