"""Repository: the reads and writes of one table, restricted to the current tenant."""

from __future__ import annotations

from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable, Collection, Mapping, Sequence
from contextlib import aclosing
from functools import cache, partial
from types import MappingProxyType
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

from src.database.base import ChangeableDict, TenantBase, changeable, check_id, utc_now
from src.database.errors import MultipleResultsFoundError, NotFoundError, StaleDataError
from src.database.models import limits
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
    fetch_value,
    lock_one,
    stream_entities,
    tenant_parameter,
    with_keys,
)

ModelT = TypeVar("ModelT", bound=TenantBase)

Build = Callable[[Any], Executable]
"""A method of a repository that builds a statement. It is called once, so each varying value must be a `bindparam`."""

Selects = Callable[[Sequence[Any], Any], Select[Any]]
"""A function that returns a select of columns, for a tenant."""

STREAM_BATCH: Final = 500
_NOTHING: Final[Mapping[str, Any]] = MappingProxyType({})


@names_statements
class Repository(Generic[ModelT]):
    """The rows of one table that belong to the current tenant. Soft-deleted rows are treated as missing.

    A condition (`*where`) is an expression over mapped attributes of this model, e.g. `User.is_active.is_(True)`.
    `options` are loaders of relationships, e.g. `[selectinload(User.events)]`; they load no soft-deleted rows. Anything
    else raises ValueError, also loaders that leave attributes out (`lazyload`, `defer`, `load_only`).

    Methods flush and never commit. Each raises NoTenantError if there is no current tenant.

    Args:
        session: The session, which the caller opens and closes.
    """

    model: ClassVar[type[Any]]
    read_only: ClassVar[Mapping[str, str]] = {}
    """The attributes that callers cannot set, each with the reason or the method to use instead."""
    insert_only: ClassVar[Collection[str]] = ()
    """The attributes that callers set for a new row, and that `update` cannot change."""

    def __init__(self, session: AsyncSession) -> None:
        self.session = session

    @property
    def _tenant(self) -> BindParameter[UUID]:
        """The session's tenant, as a bound parameter."""
        return tenant_parameter(self.session.tenant_id)

    async def get(self, row_id: UUID, *, options: Sequence[Option] = ()) -> ModelT:
        """Return the row with this id.

        Raises:
            NotFoundError: The tenant has no such row.

        Example:
            user = await UserRepository(session).get(user.id, options=[selectinload(User.notes)])
            print(user.display_name, len(user.notes))
        """
        return self._found(await self.get_or_none(row_id, options=options), f"id {row_id}")

    async def get_or_none(self, row_id: UUID, *, options: Sequence[Option] = ()) -> ModelT | None:
        """Return the row with this id, or None."""
        check_id("row_id", row_id)
        if options == ():
            return await self._built(Repository._by_id).first(self.session, row_id=row_id)
        found = await self._rows(self._select(self.model.id == row_id), options)
        return found[0] if found else None

    async def get_one(self, *where: Condition, options: Sequence[Option] = ()) -> ModelT:
        """Return the only row that satisfies the conditions.

        Raises:
            NotFoundError: No row does.
            MultipleResultsFoundError: More than one row does.
        """
        rows = await self._rows(self._select_where(where).limit(2), options)
        if len(rows) > 1:
            raise MultipleResultsFoundError(f"more than one {self.model.__name__} satisfies the conditions")
        return self._found(rows[0] if rows else None, "these conditions")

    async def get_many(self, row_ids: Collection[UUID], *, options: Sequence[Option] = ()) -> list[ModelT]:
        """Return the rows with these ids, without missing ones, in the order of their ids. There may be any number."""
        for row_id in row_ids:
            check_id("row_ids", row_id)
        # An array is one parameter. IN (...) has one for each id, and asyncpg sends at most 32,767.
        wanted = any_(literal(list(row_ids), ARRAY(Uuid())))
        return await self._rows(self._select(self.model.id == wanted).order_by(self.model.id), options)

    async def exists(self, *where: Condition) -> bool:
        """Return True if any row satisfies the conditions."""
        return await fetch_value(self.session, select(exists(self._ids(where))))

    async def count(self, *where: Condition) -> int:
        """Count the rows that satisfy the conditions."""
        return await fetch_value(self.session, select(func.count()).select_from(self._ids(where).subquery()))

    async def add(self, row: ModelT) -> ModelT:
        """Insert a row, with the session's tenant.

        Raises:
            IntegrityError: The row violates a constraint.
            TenantMismatchError: The row has the `tenant_id` of another tenant.

        Example:
            added = await NoteRepository(session).add(Note(user_id=user.id, content="Buy milk"))
            print(added.id, added.created_at)
        """
        return (await self.add_many([row]))[0]

    async def add_many(self, rows: Sequence[ModelT]) -> list[ModelT]:
        """Insert rows in one statement. Errors are those of `add`."""
        rows = list(rows)
        self._check_rows(rows)
        self.session.add_all(rows)
        await self.session.flush()
        return rows

    async def update(self, row_id: UUID, /, *, expected: Mapping[str, Any] | None = None, **values: Any) -> ModelT:
        """Update attributes of the row with this id.

        Args:
            row_id: The id.
            expected: Attributes by name, as the caller has read them. If one of them has changed since, the row is not
                updated. The row is locked for the comparison until the transaction ends.
            values: The new values.

        Raises:
            NotFoundError: The tenant has no such row.
            StaleDataError: An expected attribute has another value. In a table with `version`, also: another
                transaction has changed the row since it was read.
            ValueError: An attribute is unknown or cannot be set.

        Example:
            await UserRepository(session).update(user.id, display_name="Grace", timezone="Europe/Madrid")
        """
        if fixed := sorted(values.keys() & set(self.insert_only)):
            raise ValueError(f"{self.model.__name__}.{fixed[0]} cannot be set: it never changes")
        self._check_attributes(values)
        row = await self._get_expected(row_id, expected)
        for name, value in values.items():
            self._set_attribute(row, name, value)
        await self.session.flush()
        return row

    async def change_json(
        self,
        row_id: UUID,
        attribute: str,
        *,
        values: Mapping[str, Any] = _NOTHING,
        merge: Mapping[str, Mapping[str, Any]] = _NOTHING,
        remove: Collection[str] = (),
    ) -> ModelT:
        """Change keys of a JSON object in one statement. Concurrent changes of other keys are kept.

        Args:
            row_id: The id.
            attribute: The name of the attribute, such as `extra`.
            values: The keys to set.
            merge: The keys whose objects get further keys. A value that is not an object is replaced.
            remove: The keys to remove. A key that is missing is ignored.

        Raises:
            NotFoundError: The tenant has no such row.
            ValueError: The attribute is no JSON object, cannot be set, or has a reserved key; a key is given twice, or
                none is; an argument is not of its type; or a value is not JSON.

        Example:
            users = UserRepository(session)
            await users.change_json(user.id, "preferences", values={"tone": "dry"}, merge={"seen": {"tour": True}})
        """
        _check_mappings(values=values, merge=merge)
        if isinstance(remove, str) or not all(isinstance(key, str) for key in remove):
            raise ValueError('remove must be a collection of keys, e.g. ["tone"], which are strings')
        changed: dict[str, Any] = {**dict.fromkeys(remove), **merge, **values}
        self._check_keys(changed)
        self._check_attributes({attribute: changed})
        if changeable(self.model, attribute) is not ChangeableDict:
            raise ValueError(f"{self.model.__name__}.{attribute} is not a JSON object, whose keys could be changed")
        if len(changed) != len(set(remove)) + len(merge) + len(values) or not changed:
            raise ValueError("values, merge and remove must have at least one key, and each key once")
        version = self.model.__mapper__.version_id_col
        increment = {} if version is None else {version.key: version + 1}
        keys = with_keys(getattr(self.model, attribute), values, merge, remove)
        return await self._set(row_id, **{attribute: keys}, **increment)

    async def upsert(self, values: Mapping[str, Any], *, key: Collection[str]) -> Upserted[ModelT]:
        """Insert a row, or update the row with this key, in one statement (ON CONFLICT DO UPDATE).

        Args:
            values: Attributes by name, including those of the key. An update changes only these.
            key: The names of the attributes of a unique key of the table, without `tenant_id`.

        Returns:
            The row, and whether it was inserted, updated or unchanged.

        Raises:
            ValueError: An attribute is unknown, `key` is not a unique key, or an attribute of the key has no value.
            DuplicateKeyError: A soft-deleted row has the key.

        Example:
            users = UserRepository(session)
            upserted = await users.upsert({"telegram_id": 7, "display_name": "Grace"}, key=["telegram_id"])
            print(upserted.row.display_name, upserted.outcome)
        """
        self._check_attributes({name: value for name, value in values.items() if name != "id"})
        return await upsert(self.session, self.model, values, key=key)

    async def delete(self, row_id: UUID, *, hard: bool = False) -> None:
        """Delete the row with this id.

        Args:
            row_id: The id.
            hard: Delete the row permanently. By default a table with `deleted_at` deletes softly: the row stays, and
                `restore` brings it back.

        Raises:
            NotFoundError: The tenant has no such row. A hard delete finds soft-deleted rows too.
            ForeignKeyError: Other rows refer to a row that is deleted permanently.
        """
        if self._can_soft_delete() and not hard:
            await self._set(row_id, deleted_at=utc_now())
            return
        statement = delete(self.model).where(*self._is(row_id)).returning(self.model.id)
        # "fetch" expunges the deleted row from the session; RETURNING gives its key.
        deleted = await self.session.scalar(statement, execution_options={"synchronize_session": "fetch"})
        self._found(deleted, f"id {row_id}")

    async def restore(self, row_id: UUID) -> ModelT:
        """Restore a soft-deleted row. Restoring a row that is not deleted changes nothing.

        Raises:
            NotFoundError: The tenant has no such row.
            DuplicateKeyError: Another row has taken the unique key since the deletion.
            ValueError: The table has no `deleted_at`.
        """
        if not self._can_soft_delete():
            raise ValueError(f"{self.model.__name__} has no deleted_at: its rows are deleted permanently")
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
        """Return one page of rows, ordered by `order_by` and then by id, which is the order of creation.

        Args:
            where: Conditions; pass the same ones for each page.
            after: The `next_cursor` of the previous page; None for the first page.
            limit: The largest number of rows in the page, 1 to 1000.
            order_by: A mapped attribute of this model that is never NULL: a time, a number, a text, a boolean or an id.
                Without an index that begins with it, PostgreSQL sorts all rows for each page.
            descending: Order from the greatest to the smallest.
            options: Loaders of relationships.

        Raises:
            InvalidCursorError: The cursor is not from this query.
            ValueError: The limit or the attribute is invalid.

        Example:
            cursor = None
            while True:
                page = await NoteRepository(session).page(Note.user_id == user.id, after=cursor, limit=100)
                for note in page.items:
                    print(note.content)
                if (cursor := page.next_cursor) is None:
                    break
        """
        check_limit(limit)
        order = Keyset.of(self.model, order_by, descending=descending, tenant_id=self.session.tenant_id)
        rows = await self._rows(order.begin(self._select_where(where), after).limit(limit + 1), options)
        return order.page(rows, limit)

    async def stream(self, *where: Condition, options: Sequence[Option] = ()) -> AsyncIterator[ModelT]:
        """Yield the rows in the order of their creation, fetching 500 at a time through a server-side cursor.

        Collections can only be loaded by `selectinload`, which runs once for each batch.

        Example:
            async for note in NoteRepository(session).stream(Note.user_id == user.id):
                print(note.content)
        """
        check_options(self.model, options, streamed=True)
        statement = self._select_where(where).order_by(self.model.id)
        if options:
            options = (*options, *within(self.session.tenant_id))
        async with aclosing(self._stream(statement, options)) as rows:
            async for row in rows:
                yield row

    def _select(self, *where: Condition, include_deleted: bool = False) -> Select[Any]:
        """Return a select of the tenant's rows. Each query names the tenant, in addition to row-level security."""
        statement = select(self.model).where(self.model.tenant_id == self._tenant, *where)
        return statement if include_deleted else statement.where(*self._live())

    def _live(self) -> list[Condition]:
        """Return the conditions of rows that are not soft-deleted."""
        return [self.model.deleted_at.is_(None)] if self._can_soft_delete() else []

    def _by_id(self) -> Executable:
        return self._select(self.model.id == bindparam("row_id"))

    def _built(self, build: Build, /) -> CompiledStatement[ModelT]:
        """Return the statement that a method builds: built and compiled once per process, for all tenants."""
        return _built_once(cast("Any", type(self)), build)

    def _select_where(self, where: Sequence[Condition]) -> Select[Any]:
        """Return a select with the conditions of a caller, after checking them."""
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
        """Fetch rows of this model without duplicates. `refresh` overwrites the attributes of rows in the session."""
        if options == ():
            return await fetch_entities(self.session, statement, self.model, refresh=refresh)
        with_options = self._with_options(cast("Select[Any]", statement), options)
        return list((await self.session.scalars(with_options)).unique())  # joinedload of a collection repeats rows

    async def _newest_page(self, build: Build, /, limit: int, **values: Any) -> Page[ModelT]:
        """Fetch the first page, the newest row first, with a statement that is built once."""
        check_limit(limit)
        rows = await self._built(build).rows(self.session, limit=limit + 1, **values)
        return Keyset.of(self.model, descending=True, tenant_id=self.session.tenant_id).page(rows, limit)

    async def _stream(self, statement: Select[Any], options: Sequence[Option] = ()) -> AsyncGenerator[ModelT, None]:
        """Yield the rows of a select through a server-side cursor."""
        stream = stream_entities(self.session, statement, self.model, batch=STREAM_BATCH, options=options)
        async with aclosing(stream) as batches:
            async for batch in batches:
                for row in batch:
                    yield row

    def _sends(self, build: Selects, /) -> Callable[..., Awaitable[list[ModelT]]]:
        """Return a function that sends a select of `statements/` with the values of its parameters."""
        return partial(self._built(_of_model(build)).rows, self.session, refresh=True)

    def _sends_tuples(self, build: Selects, /) -> Callable[..., Awaitable[list[tuple[Any, ...]]]]:
        """Return a function as `_sends` does, for a select of the model and more columns."""
        return partial(self._built(_of_model(build)).tuples, self.session, refresh=True)

    def _with_options(self, statement: Select[Any], options: Sequence[Option]) -> Select[Any]:
        if options == ():
            return statement
        check_options(self.model, options)
        return statement.options(*options, *within(self.session.tenant_id))

    def _set_attribute(self, row: ModelT, name: str, value: Any) -> None:
        setattr(row, name, value)

    def _check_keys(self, keys: Collection[str]) -> None:
        """Check that `change_json` may change these keys: a subclass refuses its own."""

    async def _set(self, row_id: UUID, **values: Any) -> ModelT:
        """Update the row with this id, unless it is soft-deleted, in one statement."""
        return await self._update(row_id, *self._live(), **values)

    async def _restore(self, row_id: UUID, *where: Condition, **values: Any) -> ModelT:
        """Restore a row in one statement. A row that is not deleted keeps its `updated_at`."""
        now = select(func.now()).scalar_subquery()  # Citus rejects now() itself in a CASE of an UPDATE
        changed_at = case((self.model.deleted_at.is_(None), self.model.updated_at), else_=now)
        return await self._update(row_id, *where, deleted_at=None, updated_at=changed_at, **values)

    async def _update(self, row_id: UUID, *where: Condition, **values: Any) -> ModelT:
        statement = update(self.model).where(*self._is(row_id), *where).values(**values).returning(self.model)
        options = {"populate_existing": True, "synchronize_session": False}
        return self._found(await self.session.scalar(statement, execution_options=options), f"id {row_id}")

    async def _get_expected(self, row_id: UUID, expected: Mapping[str, Any] | None) -> ModelT:
        """Return the row; if attributes are expected, lock it and compare them.

        Raises:
            NotFoundError: The tenant has no such row.
            StaleDataError: An attribute has another value.
            ValueError: An attribute is unknown.
        """
        if expected is None:
            return await self.get(row_id)
        _check_mappings(expected=expected)
        if unknown := sorted(expected.keys() - self.model.__mapper__.column_attrs.keys()):
            raise ValueError(f"expected must have attributes of {self.model.__name__}, got {unknown[0]!r}")
        check_id("row_id", row_id)
        locked = await lock_one(self.session, self.model, self.model.id == row_id, *self._live())
        row = self._found(locked, f"id {row_id}")
        if changed := [name for name, value in expected.items() if getattr(row, name) != value]:
            raise StaleDataError(
                f"{self.model.__name__}.{changed[0]} has another value than expected; nothing was updated",
                hint="read the row again, and decide again: another transaction has changed it",
            )
        return row

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
        read_only = read_only_attributes(type(self))
        known = self.model.__mapper__.column_attrs.keys() - read_only.keys()
        limits.check_limits(limits.LIMITS.get(self.model.__tablename__, {}), values)
        for name, value in values.items():
            check_value(self.model, value)
            if name in read_only:
                raise ValueError(f"{self.model.__name__}.{name} cannot be set: {read_only[name]}")
            if name not in known:
                raise ValueError(
                    f"{self.model.__name__} has no attribute {name!r}; known are {', '.join(sorted(known))}"
                )


def _check_mappings(**arguments: Any) -> None:
    for name, value in arguments.items():
        if not isinstance(value, Mapping):
            raise ValueError(f"{name} must be a mapping of names to values, got {type(value).__name__}")  # noqa: TRY004 - bad input


def read_only_attributes(repository: type[Repository[Any]]) -> dict[str, str]:
    """Return the attributes that `update` and `upsert` of a repository refuse, each with the reason."""
    model = repository.model
    version = model.__mapper__.version_id_col
    derived = {column.key for column in model.__table__.columns if column.computed is not None}
    fixed = {"tenant_id", "id", "created_at", "updated_at", *derived, *([] if version is None else [version.key])}
    return {**dict.fromkeys(fixed, "it never changes, or is set automatically"), **repository.read_only}


class _AnyTenant:
    """Takes the place of the session while a statement is built: the tenant is a parameter of each execution."""

    tenant_id = bindparam(TENANT, type_=Uuid())


@cache
def _of_model(build: Selects) -> Build:
    """Return the same function for the same select: `_built_once` compiles each function once."""
    return lambda repository: build((repository.model,), repository.session.tenant_id)


@cache
def _built_once(repository: Any, build: Build) -> CompiledStatement[Any]:
    return CompiledStatement(build(repository(cast("AsyncSession", _AnyTenant))), repository.model)
