"""Keyset pages: an order of rows without ties, and opaque cursors."""

from __future__ import annotations

import base64
import hashlib
import json
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, Final, Generic, TypeVar
from uuid import UUID

from sqlalchemy import BigInteger, ColumnElement, DateTime, Integer, Select, tuple_
from sqlalchemy.orm import InstrumentedAttribute
from sqlalchemy.types import TypeEngine

T = TypeVar("T")

MAX_LIMIT: Final = 1000
_SIGNATURE_BYTES: Final = 8
_SORTABLE: Final = (datetime, bool, int, str, UUID)
_DECODERS: Final[Mapping[str, Callable[[Any], Any]]] = {
    "datetime": lambda value: _in_utc(datetime.fromisoformat(value)),
    "uuid": UUID,
    "plain": lambda value: value,
}

_UNREADABLE: Final = (AttributeError, KeyError, OverflowError, RecursionError, TypeError, ValueError)
"""The errors of decoding a changed cursor; UUID(1) raises AttributeError."""


class InvalidCursorError(ValueError):
    """The cursor was not returned by this query."""


@dataclass(frozen=True, slots=True)
class Page(Generic[T]):
    """The rows of one page in order, and the cursor of the next page; None after the last page."""

    items: Sequence[T]
    next_cursor: str | None


def check_limit(limit: int) -> None:
    """Check a number of rows.

    Raises:
        ValueError: The number is not from 1 to 1000.
    """
    if type(limit) is not int or not 1 <= limit <= MAX_LIMIT:
        raise ValueError(f"limit must be from 1 to {MAX_LIMIT}, got {limit!r}")


def encode_cursor(values: Sequence[object], *, scope: str) -> str:
    """Return a cursor of sort values; it is valid only for queries with the same scope.

    Args:
        values: The sort values of the last row of a page: datetimes, UUIDs, strings, integers or booleans.
        scope: The table, the order and the tenant of the query.
    """
    body = json.dumps([_tag(value) for value in values], separators=(",", ":")).encode()
    return base64.urlsafe_b64encode(_signature(body, scope) + body).decode().rstrip("=")


def decode_cursor(cursor: str, *, scope: str) -> list[Any]:
    """Return the sort values of a cursor.

    Raises:
        InvalidCursorError: The cursor is truncated or changed, or belongs to another table, order or tenant.
    """
    try:
        raw = base64.b64decode(cursor + "=" * (-len(cursor) % 4), altchars=b"-_", validate=True)
        signature, body = raw[:_SIGNATURE_BYTES], raw[_SIGNATURE_BYTES:]
        values = [_DECODERS[kind](value) for kind, value in json.loads(body)]
    except _UNREADABLE:
        raise InvalidCursorError(
            "the cursor must be one that this query returned, got a text that is none; begin again without a cursor"
        ) from None
    if signature != _signature(body, scope):
        raise InvalidCursorError(
            "the cursor must be one that this query returned, got a changed one or that of another query; begin again"
            " without a cursor"
        )
    return values


def _tag(value: object) -> tuple[str, object]:
    if isinstance(value, datetime):
        return "datetime", value.isoformat()
    if isinstance(value, UUID):
        return "uuid", str(value)
    return "plain", value


def _in_utc(value: datetime) -> datetime:
    """Convert an instant to UTC; a naive time stays.

    An instant at an end of the calendar raises OverflowError, which `decode_cursor` reports: asyncpg would fail later.
    """
    return value if value.tzinfo is None else value.astimezone(UTC)


def _signature(body: bytes, scope: str) -> bytes:
    """Return the signature that ties a cursor to its query.

    It has no key: it protects from mistakes, not from forgery. A forged cursor only moves the position within the rows
    of the tenant.
    """
    return hashlib.sha256(scope.encode() + b"\0" + body).digest()[:_SIGNATURE_BYTES]


@dataclass(frozen=True, slots=True)
class TimeOrder(Generic[T]):
    """An order of rows by a time and an id, for a statement that is compiled once.

    Attributes:
        place_of: Returns the position of a row.
        scope: The query and the tenant, for the cursors.
        start: The position before the first row.
    """

    place_of: Callable[[T], tuple[datetime, UUID]]
    scope: str
    start: tuple[datetime, UUID]

    async def page(self, send: Callable[..., Awaitable[list[T]]], after: str | None, limit: int) -> Page[T]:
        """Return one page of rows.

        Args:
            send: Sends the statement with the parameters `at` and `row_id`, a position, and `limit`.
            after: The cursor of the previous page, or None.
            limit: The largest number of rows in the page, 1 to 1000.

        Raises:
            InvalidCursorError: The cursor belongs to another query.
            ValueError: The limit is out of range.
        """
        check_limit(limit)
        at, row_id = self.start if after is None else _place(decode_cursor(after, scope=self.scope))
        rows = await send(at=at, row_id=row_id, limit=limit + 1)
        if len(rows) <= limit:
            return Page(rows, None)
        del rows[limit:]
        return Page(rows, encode_cursor(self.place_of(rows[-1]), scope=self.scope))


def _place(values: Sequence[Any]) -> tuple[datetime, UUID]:
    if [type(value) for value in values] != [datetime, UUID] or values[0].tzinfo is None:
        raise InvalidCursorError("the cursor cannot be read; begin again without a cursor")
    return values[0], values[1]


@dataclass(frozen=True, slots=True)
class Keyset:
    """The order of a table's rows by an attribute and then by id, with the scope of its cursors."""

    keys: Sequence[InstrumentedAttribute[Any]]
    descending: bool
    scope: str

    @classmethod
    def of(
        cls,
        model: Any,
        order_by: InstrumentedAttribute[Any] | None = None,
        *,
        descending: bool = False,
        tenant_id: UUID | None = None,
    ) -> Keyset:
        """Return the order of a mapped class's rows by an attribute, or by id alone.

        Raises:
            ValueError: The attribute is not one of this class, is nullable, or has a type that cursors do not support.
        """
        by_id = order_by is None or order_by is model.id
        keys = [model.id] if by_id else [_checked(model, order_by), model.id]
        names = ",".join(key.key for key in keys)
        return cls(keys, descending, f"{model.__tablename__}:{names}:{descending}:{tenant_id}")

    def begin(self, statement: Select[Any], after: str | None) -> Select[Any]:
        """Return a select in this order, from the cursor on.

        Raises:
            InvalidCursorError: The cursor belongs to another query.
        """
        if after is not None:
            statement = statement.where(self._is_past(after))
        return statement.order_by(*(key.desc() if self.descending else key for key in self.keys))

    def page(self, rows: list[T], limit: int) -> Page[T]:
        """Return a page of rows that were selected with a limit of one more than `limit`."""
        items = rows[:limit]
        if len(rows) <= limit:
            return Page(items=items, next_cursor=None)
        values = [getattr(items[-1], key.key) for key in self.keys]
        return Page(items=items, next_cursor=encode_cursor(values, scope=self.scope))

    def _is_past(self, cursor: str) -> ColumnElement[bool]:
        values = decode_cursor(cursor, scope=self.scope)
        types = [_stored_type(key) for key in self.keys]
        if len(values) != len(types) or not all(map(_can_hold, types, values)):
            raise InvalidCursorError("the cursor cannot be read; begin again without a cursor")
        position = tuple_(*values, types=[key.type for key in self.keys])
        row = tuple_(*self.keys)
        return row < position if self.descending else row > position


def _checked(model: Any, attribute: Any) -> InstrumentedAttribute[Any]:
    column = None
    if isinstance(attribute, InstrumentedAttribute) and attribute.class_ is model:
        column = model.__table__.columns.get(attribute.key)
    if column is None or column.nullable or _python_type(attribute) not in _SORTABLE:
        raise ValueError(
            f"order_by must be a mapped attribute of {model.__name__} that is not nullable and that cursors support,"
            f" for example {model.__name__}.created_at; for the reverse order, pass `descending=True`"
        )
    return attribute  # type: ignore[no-any-return] # narrowed above


def _stored_type(attribute: InstrumentedAttribute[Any]) -> TypeEngine[Any]:
    kind: TypeEngine[Any] = getattr(attribute.type, "impl_instance", attribute.type)  # of a TypeDecorator
    return kind


def _python_type(attribute: InstrumentedAttribute[Any]) -> type[Any] | None:
    try:
        return _stored_type(attribute).python_type
    except NotImplementedError:
        return None


def _can_hold(kind: TypeEngine[Any], value: Any) -> bool:
    """Return True if a column of this type can hold a value of a cursor."""
    if type(value) is not kind.python_type:
        return False
    if isinstance(kind, Integer):
        bits = 63 if isinstance(kind, BigInteger) else 31
        return bool(-(1 << bits) <= value < 1 << bits)
    return not isinstance(kind, DateTime) or (value.tzinfo is not None) == kind.timezone
