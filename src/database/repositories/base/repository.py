"""Repository: the reads and writes of any table of tenants' rows, always within the current tenant."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Collection, Mapping, Sequence
from functools import cache
from typing import Any, ClassVar, Final, Generic, TypeVar, cast
from uuid import UUID

from sqlalchemy import (
    ARRAY,
    BindParameter,
    Executable,
    Select,
    Uuid,
    any_,
    bindparam,
    case,
    delete,
    exists,
    func,
    literal,
    select,
    update,
)
from sqlalchemy.orm import InstrumentedAttribute

from src.database.base import TenantBase, check_id, utc_now
from src.database.errors import MultipleResultsFoundError, NotFoundError
from src.database.models.limits import LIMITS, check_limits
from src.database.observability import names_statements
from src.database.repositories.base.conditions import (
    Condition,
    Option,
    check_conditions,
    check_options,
    check_value,
    within,
)
from src.database.repositories.base.upsert import Upserted, upsert
from src.database.session import AsyncSession
from src.database.statements import (
    TENANT,
    CompiledStatement,
    Keyset,
    Page,
    check_limit,
    fetch_entities,
    tenant_parameter,
)

ModelT = TypeVar("ModelT", bound=TenantBase)

Build = Callable[[Any], Executable]
"""A method of a repository that builds a statement; what varies in the statement is a `bindparam`."""

STREAM_BATCH: Final = 500


@names_statements
class Repository(Generic[ModelT]):
    """The rows of one table that belong to the current tenant; a soft-deleted row is not there.

    A condition (`*where`) is an expression over mapped attributes of this model: `User.is_active.is_(True)`; anything
    else is a ValueError. Relationships are loaded where `options` ask for it, `options=[selectinload(User.events)]`,
    and without what is deleted; what leaves an attribute out (`lazyload`, `defer`, `load_only`) is a ValueError too.

    Every method raises NoTenantError if there is no current tenant.
    """

    model: ClassVar[type[Any]]

    def __init__(self, session: AsyncSession) -> None:
        self.session = session

    @property
    def _tenant(self) -> BindParameter[UUID]:
        """The session's tenant, as a parameter of the repository's statements."""
        return tenant_parameter(self.session.tenant_id)

    async def get(self, row_id: UUID, *, options: Sequence[Option] = ()) -> ModelT:
        """Return the row of this id.

        Raises:
            NotFoundError: This tenant has none.
        """
        return self._found(await self.get_or_none(row_id, options=options), f"id {row_id}")

    async def get_or_none(self, row_id: UUID, *, options: Sequence[Option] = ()) -> ModelT | None:
        """Return the row of this id, or None."""
        check_id("row_id", row_id)
        if options == ():
            return await self._built(Repository._by_id).first(self.session, row_id=row_id)
        found = await self._rows(self._select(self.model.id == row_id), options)
        return found[0] if found else None

    async def get_one(self, *where: Condition, options: Sequence[Option] = ()) -> ModelT:
        """Return the one row that satisfies the conditions.

        Raises:
            NotFoundError: None does.
            MultipleResultsFoundError: More than one does.
        """
        rows = await self._rows(self._select_where(where).limit(2), options)
        if len(rows) > 1:
            raise MultipleResultsFoundError(f"more than one {self.model.__name__} satisfies the conditions")
        return self._found(rows[0] if rows else None, "these conditions")

    async def get_many(self, row_ids: Collection[UUID], *, options: Sequence[Option] = ()) -> list[ModelT]:
        """Return those of these rows that are there, by id; any number of them."""
        for row_id in row_ids:
            check_id("row_ids", row_id)
        wanted = any_(literal(list(row_ids), ARRAY(Uuid())))  # one parameter: a list of them ends at 32,767
        return await self._rows(self._select(self.model.id == wanted).order_by(self.model.id), options)

    async def exists(self, *where: Condition) -> bool:
        """Return True if any row satisfies the conditions."""
        return bool(await self.session.scalar(select(exists(self._ids(where)))))

    async def count(self, *where: Condition) -> int:
        """Count the rows that satisfy the conditions."""
        return await self.session.scalar(select(func.count()).select_from(self._ids(where).subquery())) or 0

    async def add(self, row: ModelT) -> ModelT:
        """Insert a row; the tenant is filled in.

        Raises:
            IntegrityError: A rule of the schema refuses it.
            TenantMismatchError: It says that it is another tenant's.
        """
        return (await self.add_many([row]))[0]

    async def add_many(self, rows: Sequence[ModelT]) -> list[ModelT]:
        """Insert rows in one statement; as `add` does otherwise."""
        rows = list(rows)
        self._check_rows(rows)
        self.session.add_all(rows)
        await self.session.flush()
        return rows

    async def update(self, row_id: UUID, /, **values: Any) -> ModelT:
        """Update attributes of the row of this id.

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
        """Insert a row, or update the one with this key, in one statement (ON CONFLICT DO UPDATE).

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
        """Delete the row of this id: softly if the table has `deleted_at`, else, or if `hard`, permanently.

        Raises:
            NotFoundError: This tenant has none; for `hard`, not even a soft-deleted one.
            ForeignKeyError: It is deleted permanently, and other rows still refer to it.
        """
        if self._can_soft_delete() and not hard:
            await self._set(row_id, deleted_at=utc_now())
            return
        statement = delete(self.model).where(*self._is(row_id)).returning(self.model.id)
        # "fetch": the session forgets the row.
        deleted = await self.session.scalar(statement, execution_options={"synchronize_session": "fetch"})
        self._found(deleted, f"id {row_id}")

    async def restore(self, row_id: UUID) -> ModelT:
        """Restore a soft-deleted row; one that was not deleted stays as it is.

        Raises:
            NotFoundError: This tenant has none.
            DuplicateKeyError: Another row has taken its key meanwhile.
            ValueError: The table keeps no deleted rows.
        """
        if not self._can_soft_delete():
            raise ValueError(f"{self.model.__name__} has no deleted_at: what is deleted there is gone")
        return await self._restore(row_id)

    async def page(
        self,
        *where: Condition,
        after: str | None = None,
        limit: int = 50,
        order_by: InstrumentedAttribute[Any] | None = None,
        descending: bool = False,
        options: Sequence[Option] = (),
    ) -> Page[ModelT]:
        """Return one page, by `order_by` and then by id (which is the order of creation).

        Args:
            where: Conditions; the same ones for each page.
            after: The cursor of the page before.
            limit: Rows a page, 1 to 1000.
            order_by: A mapped attribute of this model that is never null: a time, a number, a text, a yes or no, an
                id. Without an index that begins with it, each page costs a sort of all the rows.
            descending: Last first.
            options: Which relationships to load.

        Raises:
            InvalidCursorError: The cursor is not one of this query's.
            ValueError: The limit or the attribute cannot serve.
        """
        check_limit(limit)
        order = Keyset.of(self.model, order_by, descending=descending, tenant_id=self.session.tenant_id)
        rows = await self._rows(order.begin(self._select_where(where), after).limit(limit + 1), options)
        return order.page(rows, limit)

    async def stream(self, *where: Condition, options: Sequence[Option] = ()) -> AsyncIterator[ModelT]:
        """Yield the rows in order of creation; some hundred are fetched at a time.

        Of the loaders of collections `selectinload` can do this: once for each batch.
        """
        check_options(self.model, options, streamed=True)
        statement = self._with_options(self._select_where(where).order_by(self.model.id), options)
        rows = await self.session.stream_scalars(statement.execution_options(yield_per=STREAM_BATCH))
        async for batch in rows.partitions():  # row by row, each would cost a switch of its own
            for row in batch:
                yield row

    def _select(self, *where: Condition, include_deleted: bool = False) -> Select[Any]:
        """Return a select of the tenant's rows: each query names the tenant, beside the policy in the database."""
        statement = select(self.model).where(self.model.tenant_id == self._tenant, *where)
        return statement if include_deleted else statement.where(*self._live())

    def _live(self) -> list[Condition]:
        """Return the conditions of a row that is not soft-deleted."""
        return [self.model.deleted_at.is_(None)] if self._can_soft_delete() else []

    def _by_id(self) -> Executable:
        return self._select(self.model.id == bindparam("row_id"))

    def _built(self, build: Build, /) -> CompiledStatement[ModelT]:
        """Return the statement that a method builds. It is built and compiled once, for the session of any tenant."""
        return _built_once(cast("Any", type(self)), build)

    def _select_where(self, where: Sequence[Condition]) -> Select[Any]:
        """Return a select with conditions that came from a caller."""
        check_conditions(self.model, where)
        return self._select(*where)

    def _ids(self, where: Sequence[Condition]) -> Select[Any]:
        return self._select_where(where).with_only_columns(self.model.id)

    def _is(self, row_id: UUID) -> tuple[Condition, Condition]:
        check_id("row_id", row_id)
        return self.model.tenant_id == self._tenant, self.model.id == row_id

    async def _rows(
        self, statement: Executable, options: Sequence[Option] = (), *, refresh: bool = False
    ) -> list[ModelT]:
        """Fetch rows of this model, each once; `refresh` sets the attributes of rows that the session has already."""
        if options == ():
            return await fetch_entities(self.session, statement, self.model, refresh=refresh)
        with_options = self._with_options(cast("Select[Any]", statement), options)
        return list((await self.session.scalars(with_options)).unique())  # a collection loaded by a join repeats rows

    async def _newest_page(self, build: Build, /, limit: int, **values: Any) -> Page[ModelT]:
        """Fetch the first page, the newest first, with a statement that is built once."""
        check_limit(limit)
        found = await self._built(build).rows(self.session, limit=limit + 1, **values)
        return Keyset.of(self.model, descending=True, tenant_id=self.session.tenant_id).page(found, limit)

    def _with_options(self, statement: Select[Any], options: Sequence[Option]) -> Select[Any]:
        if options == ():
            return statement
        check_options(self.model, options)
        return statement.options(*options, *within(self.session.tenant_id))

    async def _set(self, row_id: UUID, **values: Any) -> ModelT:
        """Update the row of this id, unless it is soft-deleted, in one statement."""
        return await self._update(row_id, *self._live(), **values)

    async def _restore(self, row_id: UUID, *where: Condition, **values: Any) -> ModelT:
        """Restore a row in one statement; a row that was not deleted keeps its time too."""
        now = select(func.now()).scalar_subquery()  # Citus refuses now() itself in a CASE of an UPDATE
        changed_at = case((self.model.deleted_at.is_(None), self.model.updated_at), else_=now)
        return await self._update(row_id, *where, deleted_at=None, updated_at=changed_at, **values)

    async def _update(self, row_id: UUID, *where: Condition, **values: Any) -> ModelT:
        statement = update(self.model).where(*self._is(row_id), *where).values(**values).returning(self.model)
        options = {"populate_existing": True, "synchronize_session": False}
        return self._found(await self.session.scalar(statement, execution_options=options), f"id {row_id}")

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
            for value in vars(row).values():
                check_value(self.model, value)

    def _check_attributes(self, values: Mapping[str, Any]) -> None:
        version = self.model.__mapper__.version_id_col
        derived = {column.key for column in self.model.__table__.columns if column.computed is not None}
        fixed = {"tenant_id", "id", "created_at", "updated_at", *derived, *([] if version is None else [version.key])}
        known = set(self.model.__mapper__.column_attrs.keys()) - fixed
        check_limits(LIMITS.get(self.model.__tablename__, {}), values)
        for name, value in values.items():
            check_value(self.model, value)
            if name in fixed:
                raise ValueError(f"{self.model.__name__}.{name} cannot be set: it never changes, or by itself")
            if name not in known:
                raise ValueError(
                    f"{self.model.__name__} has no attribute {name!r}; known are {', '.join(sorted(known))}"
                )


class _AnyTenant:
    """Stands in for a session where a statement is built once, for the sessions of all tenants."""

    tenant_id = bindparam(TENANT, type_=Uuid())


@cache
def _built_once(repository: Any, build: Build) -> CompiledStatement[Any]:
    return CompiledStatement(build(repository(cast("AsyncSession", _AnyTenant))), repository.model)
