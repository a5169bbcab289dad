"""The declarative base of all tables: metadata, naming convention, column types, and the columns of a tenant's rows."""

from __future__ import annotations

import os
import threading
import time
from datetime import MAXYEAR, MINYEAR, UTC, datetime, timedelta
from typing import Any, Final
from uuid import UUID

from sqlalchemy import DateTime, Dialect, Text, TextClause, TypeDecorator, Uuid, event, func, text
from sqlalchemy.dialects.postgresql import ARRAY, JSONB
from sqlalchemy.exc import InvalidRequestError
from sqlalchemy.ext.mutable import MutableDict, MutableList
from sqlalchemy.orm import DeclarativeBase, InstrumentedAttribute, Mapped, mapped_column
from sqlalchemy.orm.exc import DetachedInstanceError
from sqlalchemy.schema import ForeignKeyConstraint, Index, MetaData, Table

from src.database.errors import LazyLoadError
from src.database.json_values import encode_json

NAMING_CONVENTION: Final = {
    "pk": "pk_%(table_name)s",
    "fk": "fk_%(table_name)s_%(column_0_N_name)s",
    "uq": "uq_%(table_name)s_%(column_0_N_name)s",
    "ix": "ix_%(table_name)s_%(column_0_N_name)s",
    "ck": "ck_%(table_name)s_%(constraint_name)s",
}
_UNSTORABLE: Final = {0: "\N{REPLACEMENT CHARACTER}"}

FIRST_INSTANT: Final = datetime.min.replace(tzinfo=UTC)
LAST_INSTANT: Final = datetime.max.replace(tzinfo=UTC)
_ENDS: Final = (MINYEAR, MAXYEAR)

_tick_lock: Final = threading.Lock()
_last_tick = 0


def utc_now() -> datetime:
    """Return the current time as an aware datetime in UTC."""
    return datetime.now(UTC)


def uuid7() -> UUID:
    """Return a version 7 UUID (RFC 9562, section 5.7; method 3 of section 6.2). Those of one process are increasing.

    It has 48 bits of Unix milliseconds, 12 bits of their fraction, and 62 random bits. Python creates the ids, and not
    a server default, so that rows can refer to each other before any of them is sent.
    """
    global _last_tick  # noqa: PLW0603 - two ids of the same instant must differ in their tick to be in order
    with _tick_lock:
        tick = _last_tick = max((time.time_ns() << 12) // 1_000_000, _last_tick + 1)
    value = (tick >> 12) << 80 | 0x7 << 76 | (tick & 0xFFF) << 64 | 0b10 << 62
    return UUID(int=value | int.from_bytes(os.urandom(8)) >> 2)


def clean_text(value: str) -> str:
    """Replace NUL and lone surrogates, which PostgreSQL's text type cannot store, with U+FFFD.

    Two surrogates that form a pair become the character that they encode.
    """
    if "\0" not in value:
        try:
            value.encode()  # fails for a surrogate, and takes a fiftieth of the time of the conversion below
        except UnicodeEncodeError:
            pass
        else:
            return value
    return value.encode("utf-16-le", "surrogatepass").decode("utf-16-le", "replace").translate(_UNSTORABLE)


class CleanText(TypeDecorator[str]):
    """``text`` whose values are cleaned by `clean_text`, so that one bad character does not fail a batch of rows."""

    impl = Text
    cache_ok = True

    def process_bind_param(self, value: str | None, dialect: Dialect) -> str | None:
        """Return the value, cleaned."""
        return clean_text(value) if isinstance(value, str) else value


class Json(TypeDecorator[Any]):
    """``jsonb`` of any JSON value; see `encode_json`.

    Args:
        attribute: The name of the mapped attribute, for errors.
        none_as_null: As of SQLAlchemy's `JSON`: None is SQL NULL, not the JSON null.
    """

    impl = JSONB
    cache_ok = True

    def __init__(self, attribute: str = "JSON", *, none_as_null: bool = False) -> None:
        super().__init__(none_as_null=none_as_null)
        self.attribute = attribute
        self.none_as_null = none_as_null  # part of the cache key

    def process_bind_param(self, value: Any, dialect: Dialect) -> Any:
        """Return the value as it is stored.

        Raises:
            ValueError: The value is not a JSON value.
        """
        return encode_json(value, self.attribute)


class UtcDateTime(TypeDecorator[datetime]):
    """``timestamptz`` that rejects a naive datetime, which the server would read in the time zone of the connection."""

    impl = DateTime(timezone=True)
    cache_ok = True

    def process_bind_param(self, value: datetime | None, dialect: Dialect) -> datetime | None:
        """Return the value.

        Raises:
            ValueError: The value is naive, or outside the years 1 to 9999 in UTC.
        """
        if value is not None:
            check_aware("a datetime", value)
        return value


def check_aware(name: str, value: datetime) -> None:
    """Check that a datetime is aware, and that its time in UTC is within the years 1 to 9999.

    Raises:
        ValueError: The value is not such a datetime.
    """
    if not isinstance(value, datetime):
        kind = type(value).__name__
        raise ValueError(f"{name} must be a datetime with a time zone, got {kind}")  # noqa: TRY004 - bad input
    if value.utcoffset() is None:
        raise ValueError(f"{name} must be aware, got the naive {value!r}; pass a time zone, e.g. tzinfo=UTC")
    if value.year in _ENDS and not FIRST_INSTANT <= value <= LAST_INSTANT:
        raise ValueError(f"{name} must be within the years 1 to 9999 in UTC, got {value}")


def check_time(name: str, value: datetime, *, back: timedelta) -> None:
    """Check that a datetime is aware, and that a duration can be subtracted from it.

    Args:
        name: The name of the argument, for errors.
        value: The datetime.
        back: The duration.

    Raises:
        ValueError: The value is naive, or the result would be before the year 1.
    """
    check_aware(name, value)
    if value < FIRST_INSTANT + back:
        raise ValueError(f"{name} must be at least {back} after the beginning of the year 1, got {value}")


def check_duration(name: str, value: object) -> None:
    """Check that a value is a timedelta.

    Raises:
        ValueError: It is not.
    """
    if not isinstance(value, timedelta):
        raise ValueError(  # noqa: TRY004 - bad input
            f"{name} must be a timedelta, such as timedelta(minutes=5), got {type(value).__name__}"
        )


def check_id(name: str, value: object) -> None:
    """Check that a value is a UUID, or the text of one.

    Raises:
        TypeError: The value is neither a UUID nor a string.
        ValueError: The value is a string that is not a UUID.
    """
    if isinstance(value, UUID):
        return
    if not isinstance(value, str):
        raise TypeError(f"{name} must be a uuid.UUID, got {type(value).__name__}")
    try:
        UUID(value)
    except ValueError:
        raise ValueError(f"{name} must be a uuid.UUID, got a string that is not a UUID") from None


_MUTABLE: Final[dict[tuple[type[Any], str], Any]] = {}
"""The class of a mutable attribute's values, by model and name; filled when the models are mapped."""


class _Registered:
    """Registers the mapped attributes whose values are of this class."""

    @classmethod
    def associate_with_attribute(cls, attribute: Any) -> None:
        super().associate_with_attribute(attribute)  # type: ignore[misc] # a method of the other base class
        _MUTABLE[attribute.class_, attribute.key] = cls


class ChangeableDict(_Registered, MutableDict[str, Any]):
    """A JSON object. Setting and removing a name marks the row as changed."""


class ChangeableList(_Registered, MutableList[Any]):
    """A list. Adding, replacing and removing an item marks the row as changed."""


def changeable(model: type[Any], name: str) -> Any:
    """Return the class of a mapped attribute's mutable values, or None if they are not mutable."""
    return _MUTABLE.get((model, name))


class Base(DeclarativeBase):
    """The declarative base. Its metadata is what Alembic compares with the database.

    A change in place is stored if it is at the top level of a value: `note.tags.append("x")`,
    `user.preferences["tone"] = "dry"`. A nested change, `user.extra["a"]["b"] = 1`, is not noticed: assign the whole
    attribute, or call SQLAlchemy's `flag_modified`.
    """

    metadata = MetaData(naming_convention=NAMING_CONVENTION)
    type_annotation_map = {  # noqa: RUF012 - SQLAlchemy's own spelling
        UUID: Uuid(),
        datetime: UtcDateTime(),
        dict[str, Any]: ChangeableDict.as_mutable(Json()),
        list[datetime]: ChangeableList.as_mutable(ARRAY(UtcDateTime())),
        list[str]: ChangeableList.as_mutable(ARRAY(CleanText())),
        str: CleanText(),
    }
    # RETURNING fetches server defaults with the statement itself. Otherwise SQLAlchemy expires these attributes after
    # an UPDATE, and the next access would be a lazy load, which fails under asyncio.
    __mapper_args__ = {"eager_defaults": True}  # noqa: RUF012 - SQLAlchemy's own spelling

    created_at: Mapped[datetime] = mapped_column(server_default=func.now(), sort_order=900)
    updated_at: Mapped[datetime] = mapped_column(server_default=func.now(), onupdate=func.now(), sort_order=901)
    extra: Mapped[dict[str, Any]] = mapped_column(
        "metadata",
        ChangeableDict.as_mutable(Json("extra")),
        default=dict,
        server_default=text("'{}'::jsonb"),
        sort_order=902,
    )


@event.listens_for(Base, "attribute_instrument", propagate=True)
def _name_loader_in_error(model: type[Base], name: str, attribute: InstrumentedAttribute[Any]) -> None:
    """Replace the error of a lazy load, which `lazy="raise"` causes, by one that names the loader option to use."""
    implementation: Any = attribute.impl
    if (load := implementation.callable_) is None:  # a plain column: there is no lazy load
        return
    loader = "undefer" if hasattr(attribute.property, "columns") else "selectinload"

    def load_or_raise(*arguments: Any) -> Any:
        try:
            return load(*arguments)
        except (InvalidRequestError, DetachedInstanceError) as error:
            option = f"{loader}({model.__name__}.{name})"
            raise LazyLoadError(
                f"{model.__name__}.{name} was not loaded with its row, and is not loaded on access",
                hint=f"load it with the row: `options=[{option}]` of a repository, `.options({option})` of a select",
            ) from error

    implementation.callable_ = load_or_raise


class TenantBase(Base):
    """A table whose rows belong to tenants. Its key is ``(tenant_id, id)``, and row-level security protects it.

    The session sets ``tenant_id`` when it inserts a row.
    """

    __abstract__ = True

    # sort_order also determines the order of the key's columns.
    tenant_id: Mapped[UUID] = mapped_column(primary_key=True, sort_order=-2)
    id: Mapped[UUID] = mapped_column(primary_key=True, default=uuid7, sort_order=-1)


def tenant_tables(metadata: MetaData = Base.metadata) -> list[Table]:
    """Return the tables whose rows belong to tenants, in the order of their foreign keys: parents first."""
    return [table for table in metadata.sorted_tables if "tenant_id" in table.columns]


def tenant_index(name: str, *columns: str | TextClause, where: str | None = None, **options: Any) -> Index:
    """Return an index of a tenant's rows: `tenant_id` comes first, or the index would serve no query of one tenant.

    Args:
        name: The index: `ix_<table>_<what>`, or `uq_<table>_<what>` with `unique=True`.
        columns: Column names, or `text` for expressions.
        where: The predicate of a partial index, as SQL.
        options: As of SQLAlchemy's `Index`: `unique`, `postgresql_nulls_not_distinct`, ...
    """
    return Index(name, "tenant_id", *columns, postgresql_where=None if where is None else text(where), **options)


def tenant_foreign_key(column: str, table: str) -> ForeignKeyConstraint:
    """Return a foreign key to a row of the same tenant.

    PostgreSQL does not apply row-level security when it checks a foreign key: without `tenant_id` in the key, a row
    could refer to a row of another tenant, and the check would reveal that the row exists.
    """
    return ForeignKeyConstraint(["tenant_id", column], [f"{table}.tenant_id", f"{table}.id"])
