"""The base of all tables: the metadata, its naming convention, column types, and the tenant's columns."""

from __future__ import annotations

import os
import threading
import time
from datetime import MAXYEAR, MINYEAR, UTC, datetime, timedelta
from math import isfinite
from typing import Any, Final, TypeAlias
from uuid import UUID

from sqlalchemy import DateTime, Dialect, MetaData, Table, Text, TypeDecorator, Uuid, event, func, text
from sqlalchemy.dialects.postgresql import ARRAY, JSONB
from sqlalchemy.exc import InvalidRequestError
from sqlalchemy.ext.mutable import MutableDict, MutableList
from sqlalchemy.orm import DeclarativeBase, InstrumentedAttribute, Mapped, mapped_column
from sqlalchemy.orm.exc import DetachedInstanceError

from src.database.errors import LazyLoadError

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

DEEPEST_JSON: Final = 100
"""How many lists and dicts a JSON value may have inside each other."""
_LARGEST_NUMBER_BITS: Final = 14_284  # 4,300 digits: Python neither writes nor reads more
_LONGEST_STEP: Final = 40
_LONGEST_PATH: Final = 120
_Where: TypeAlias = "tuple[_Where, str | int] | None"
"""The place in a JSON value: the place around it, and the name or the number there."""

_tick_lock: Final = threading.Lock()
_last_tick = 0


def utc_now() -> datetime:
    """Return the present instant, aware, in UTC."""
    return datetime.now(UTC)


def uuid7() -> UUID:
    """Return a version 7 UUID (RFC 9562, section 5.7, method 3 of 6.2); those of one process are in order.

    48 bits of Unix milliseconds and 12 bits of their fraction, then 62 random bits. Ids are made here and not by the
    server: a server-side default costs one round trip per row.
    """
    global _last_tick  # noqa: PLW0603 - what keeps two ids of the same instant in order
    with _tick_lock:
        tick = _last_tick = max((time.time_ns() << 12) // 1_000_000, _last_tick + 1)
    value = (tick >> 12) << 80 | 0x7 << 76 | (tick & 0xFFF) << 64 | 0b10 << 62
    return UUID(int=value | int.from_bytes(os.urandom(8)) >> 2)


def clean_text(value: str) -> str:
    """Replace what PostgreSQL's text cannot hold, NUL and lone surrogates, by U+FFFD; everything else stays.

    Two surrogates that are a pair become the character that they encode.
    """
    if "\0" not in value and (value.isascii() or _has_no_surrogate(value)):  # what follows takes fifty times as long
        return value
    return value.encode("utf-16-le", "surrogatepass").decode("utf-16-le", "replace").translate(_UNSTORABLE)


def _has_no_surrogate(value: str) -> bool:
    try:
        value.encode()
    except UnicodeEncodeError:
        return False
    return True


class CleanText(TypeDecorator[str]):
    """``text`` that never fails for a NUL byte or a lone surrogate in one message of many."""

    impl = Text
    cache_ok = True

    def process_bind_param(self, value: str | None, dialect: Dialect) -> str | None:
        """Clean the value on its way in."""
        return clean_text(value) if isinstance(value, str) else value


class Json(TypeDecorator[Any]):
    """``jsonb`` whose strings, names included, are cleaned as those of :class:`CleanText` are.

    Args:
        attribute: The mapped attribute's name, for errors.
        none_as_null: As of SQLAlchemy's JSON.
    """

    impl = JSONB
    cache_ok = True

    def __init__(self, attribute: str = "JSON", *, none_as_null: bool = False) -> None:
        super().__init__(none_as_null=none_as_null)
        self.attribute = attribute
        self.none_as_null = none_as_null  # part of the cache key

    def process_bind_param(self, value: Any, dialect: Dialect) -> Any:
        """Clean the value.

        Raises:
            ValueError: jsonb cannot hold the value.
        """
        return clean_json(value, self.attribute)


class UtcDateTime(TypeDecorator[datetime]):
    """``timestamptz`` that refuses a naive datetime before it reaches the server."""

    impl = DateTime(timezone=True)
    cache_ok = True

    def process_bind_param(self, value: datetime | None, dialect: Dialect) -> datetime | None:
        """Check that the value is aware.

        Raises:
            ValueError: The value has no zone, so it names no instant.
        """
        if value is not None:
            check_aware("a datetime", value)
        return value


def check_aware(name: str, value: datetime) -> None:
    """Check that a datetime is an instant that UTC can express.

    Raises:
        ValueError: It has no zone, is no datetime, or is so close to an end of the calendar that UTC has none for it.
    """
    if not isinstance(value, datetime):
        given = type(value).__name__
        raise ValueError(f"{name} must be a datetime with its zone, got {given}")  # noqa: TRY004 - bad input
    if value.utcoffset() is None:
        raise ValueError(f"{name} must be aware, got the naive {value!r}; say its zone, e.g. tzinfo=UTC")
    if value.year in _ENDS and not FIRST_INSTANT <= value <= LAST_INSTANT:
        raise ValueError(f"{name} must be within the years 1 to 9999 in UTC, got {value}")


def check_time(name: str, value: datetime, *, back: timedelta) -> None:
    """Check that a datetime is an instant with so much time before it.

    Raises:
        ValueError: It has no zone, or there is no such time before it.
    """
    check_aware(name, value)
    if value < FIRST_INSTANT + back:
        raise ValueError(f"{name} must be at least {back} after the beginning of the year 1, got {value}")


def check_id(name: str, value: object) -> None:
    """Check that a value can be a row's id; the text of a UUID can.

    Raises:
        TypeError: It is neither a UUID nor a text.
        ValueError: It is a text, and no UUID's.
    """
    if isinstance(value, UUID):
        return
    if not isinstance(value, str):
        raise TypeError(f"{name} must be a uuid.UUID, got {type(value).__name__}")
    try:
        UUID(value)
    except ValueError:
        raise ValueError(f"{name} must be a uuid.UUID, got a text that is none") from None


def clean_json(value: Any, attribute: str = "JSON", *, of: str = "") -> Any:
    """Return a JSON value with its strings, names included, cleaned as `clean_text` does.

    Args:
        value: The value.
        attribute: The attribute's name, for errors.
        of: The owner of the attribute, for errors: `message 'telegram:bot:42:7'`.

    Raises:
        ValueError: jsonb cannot hold the value; the message names the attribute, the rule and the path.
    """
    try:
        return _clean_json(value, None, 0)
    except _NotJson as fault:
        message = f"{attribute} must {fault.rule} at {attribute}{_path(fault.where)}"
    raise ValueError(f"{of}: {message}" if of else message)  # here, so that no context keeps what was said


class _NotJson(Exception):
    def __init__(self, rule: str, where: _Where) -> None:
        self.rule, self.where = rule, where


def _clean_json(value: Any, where: _Where, depth: int) -> Any:
    if isinstance(value, str):
        return clean_text(value)
    if value is None or isinstance(value, bool):
        return value
    if isinstance(value, int):
        if value.bit_length() > _LARGEST_NUMBER_BITS:
            raise _NotJson("have numbers of at most 4300 digits, got more", where)
        return value
    if isinstance(value, float):
        if not isfinite(value):
            raise _NotJson(f"have finite numbers all through, got {value}", where)
        return value
    if depth >= DEEPEST_JSON and isinstance(value, dict | list | tuple):
        raise _NotJson(f"be nested at most {DEEPEST_JSON} deep, got more", where)
    if isinstance(value, dict):
        return {_clean_name(name, where): _clean_json(item, (where, name), depth + 1) for name, item in value.items()}
    if isinstance(value, list | tuple):
        return [_clean_json(item, (where, index), depth + 1) for index, item in enumerate(value)]
    raise _NotJson(
        f"be text, numbers, true, false, null, lists and dicts all through, got {type(value).__name__}", where
    )


def _clean_name(name: Any, where: _Where) -> str:
    if not isinstance(name, str):  # json.dumps would make text of some, and two names could become one
        raise _NotJson(f"have text as names, got {type(name).__name__}", where)
    return clean_text(name)


def _path(where: _Where) -> str:
    """Return the place in a JSON value as Python's own text: `[0].score`; a name that is no identifier is left out."""
    parts: list[str] = []
    while where is not None:
        where, step = where
        if isinstance(step, int):
            parts.append(f"[{step}]")
        else:  # a name that is no identifier can be what somebody wrote
            parts.append(f".{step}" if step.isidentifier() and len(step) <= _LONGEST_STEP else "[…]")
    path = "".join(reversed(parts))
    return path if len(path) <= _LONGEST_PATH else f"{path[:_LONGEST_PATH]}…"


_TYPES: Final[dict[tuple[type[Any], str], Any]] = {}
"""The class of a mapped attribute's values, by model and name."""


class _Registered:
    """Registers the attributes whose values are of this class."""

    @classmethod
    def associate_with_attribute(cls, attribute: Any) -> None:
        super().associate_with_attribute(attribute)  # type: ignore[misc] # of the other base
        _TYPES[attribute.class_, attribute.key] = cls


class ChangeableDict(_Registered, MutableDict[str, Any]):
    """A JSON object; what is set or removed in it is stored."""


class ChangeableList(_Registered, MutableList[Any]):
    """A list; what is added, replaced or removed in it is stored."""


def changeable(model: type[Any], name: str) -> Any:
    """Return the class of a mapped attribute's mutable values, or None if they are not mutable."""
    return _TYPES.get((model, name))


class Base(DeclarativeBase):
    """The declarative base: the metadata that Alembic compares with the database.

    A change in place is stored, `note.tags.append("x")`, `user.preferences["tone"] = "dry"`; one further down,
    `user.extra["a"]["b"] = 1`, is not seen: assign the attribute anew, or call SQLAlchemy's `flag_modified`.
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
    # Values that the server makes come back with the statement: no second trip, and no lazy load later.
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
def _say_how_to_load(model: type[Base], name: str, attribute: InstrumentedAttribute[Any]) -> None:
    """Name the remedy in the error of a lazy load: `lazy="raise"` alone names the attribute."""
    implementation: Any = attribute.impl
    if (load := implementation.callable_) is None:  # loaded with its row
        return
    loader = "undefer" if hasattr(attribute.property, "columns") else "selectinload"

    def load_or_say_how(*arguments: Any) -> Any:
        try:
            return load(*arguments)
        except (InvalidRequestError, DetachedInstanceError) as error:
            option = f"{loader}({model.__name__}.{name})"
            raise LazyLoadError(
                f"{model.__name__}.{name} was not loaded with its row, and is not loaded on access",
                hint=f"ask for it when you read: `options=[{option}]` of a repository, `.options({option})` of select",
            ) from error

    implementation.callable_ = load_or_say_how


class TenantBase(Base):
    """A table whose rows belong to a tenant: ``(tenant_id, id)`` is the key, and row-level security guards it.

    A session fills ``tenant_id`` in; nobody else needs to.
    """

    __abstract__ = True

    # The key in this order: the tenant comes first.
    tenant_id: Mapped[UUID] = mapped_column(primary_key=True, sort_order=-2)
    id: Mapped[UUID] = mapped_column(primary_key=True, default=uuid7, sort_order=-1)


def tenant_tables(metadata: MetaData = Base.metadata) -> list[Table]:
    """Return the tables whose rows belong to tenants, parents first: each has its policy."""
    return [table for table in metadata.sorted_tables if "tenant_id" in table.columns]
