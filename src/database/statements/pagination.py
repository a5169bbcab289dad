"""Keyset pages: their order, which has no ties, and the opaque cursor of the position after a page."""

from __future__ import annotations

import base64
import binascii
import hashlib
import json
from collections.abc import Callable, Mapping, Sequence
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

_UNREADABLE: Final = (
    AttributeError,  # UUID(1)
    binascii.Error,
    KeyError,
    OverflowError,
    RecursionError,
    TypeError,
    UnicodeError,
    ValueError,
)


class InvalidCursorError(ValueError):
    """The cursor is not one that this query returned."""


@dataclass(frozen=True, slots=True)
class Page(Generic[T]):
    """Some rows in order, and the cursor of the next page, or None after the last page."""

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
    """Return the cursor of the last row's sort values; it is valid for queries of this scope only."""
    body = json.dumps([_tag(value) for value in values], separators=(",", ":")).encode()
    return base64.urlsafe_b64encode(_signature(body, scope) + body).decode().rstrip("=")


def decode_cursor(cursor: str, *, scope: str) -> list[Any]:
    """Return the sort values of a cursor.

    Raises:
        InvalidCursorError: The cursor is forged or cut short, or is of another table, order or tenant.
    """
    try:
        raw = base64.b64decode(cursor + "=" * (-len(cursor) % 4), altchars=b"-_", validate=True)
        signature, body = raw[:_SIGNATURE_BYTES], raw[_SIGNATURE_BYTES:]
        is_own = signature == _signature(body, scope)
        values = [_DECODERS[kind](value) for kind, value in json.loads(body)] if is_own else []
    except _UNREADABLE:
        raise InvalidCursorError("the cursor cannot be read; begin again without one") from None
    if not is_own:
        raise InvalidCursorError(
            "the cursor must be one that this query handed out, got another; begin again without one"
        )
    return values


def _tag(value: object) -> tuple[str, object]:
    if isinstance(value, datetime):
        return "datetime", value.isoformat()
    if isinstance(value, UUID):
        return "uuid", str(value)
    return "plain", value


def _in_utc(value: datetime) -> datetime:
    """Convert an instant to UTC, where the first and last ones of other zones do not exist; local time stays."""
    return value if value.tzinfo is None else value.astimezone(UTC)


def _signature(body: bytes, scope: str) -> bytes:
    """Return what ties a cursor to its query, against mistakes: the tenant's filter is in every query anyway."""
    return hashlib.sha256(scope.encode() + b"\0" + body).digest()[:_SIGNATURE_BYTES]


@dataclass(frozen=True, slots=True)
class Keyset:
    """An order of a table's rows, by an attribute and then by id, and the scope of its cursors."""

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
            ValueError: The attribute is not one of this class, can be null, or is of a type without an order here.
        """
        by_id = order_by is None or order_by is model.id
        keys = [model.id] if by_id else [_checked(model, order_by), model.id]
        names = ",".join(key.key for key in keys)
        return cls(keys, descending, f"{model.__tablename__}:{names}:{descending}:{tenant_id}")

    def begin(self, statement: Select[Any], after: str | None) -> Select[Any]:
        """Return a select in this order, from the cursor on.

        Raises:
            InvalidCursorError: The cursor is not one of this order.
        """
        if after is not None:
            statement = statement.where(self._is_past(after))
        return statement.order_by(*(key.desc() if self.descending else key for key in self.keys))

    def page(self, rows: list[T], limit: int) -> Page[T]:
        """Return a page of rows of which one more than the limit was selected, if there is one."""
        items = rows[:limit]
        if len(rows) <= limit:
            return Page(items=items, next_cursor=None)
        values = [getattr(items[-1], key.key) for key in self.keys]
        return Page(items=items, next_cursor=encode_cursor(values, scope=self.scope))

    def _is_past(self, cursor: str) -> ColumnElement[bool]:
        values = decode_cursor(cursor, scope=self.scope)
        types = [_stored_type(key) for key in self.keys]
        if len(values) != len(types) or not all(map(_can_hold, types, values)):
            raise InvalidCursorError("the cursor cannot be read; begin again without one")
        position = tuple_(*values, types=[key.type for key in self.keys])
        row = tuple_(*self.keys)
        return row < position if self.descending else row > position


def _checked(model: Any, attribute: Any) -> InstrumentedAttribute[Any]:
    column = None
    if isinstance(attribute, InstrumentedAttribute) and attribute.class_ is model:
        column = model.__table__.columns.get(attribute.key)
    if column is None or column.nullable or _python_type(attribute) not in _SORTABLE:
        raise ValueError(
            f"order_by must be a mapped attribute of {model.__name__} that is never null and that has an order, e.g."
            f" {model.__name__}.created_at; the last first is `descending=True`"
        )
    return attribute  # type: ignore[no-any-return] # narrowed above


def _stored_type(attribute: InstrumentedAttribute[Any]) -> TypeEngine[Any]:
    kind: TypeEngine[Any] = getattr(attribute.type, "impl_instance", attribute.type)  # what a decorator wraps
    return kind


def _python_type(attribute: InstrumentedAttribute[Any]) -> type[Any] | None:
    try:
        return _stored_type(attribute).python_type
    except NotImplementedError:
        return None


def _can_hold(kind: TypeEngine[Any], value: Any) -> bool:
    """Return True if a value of a cursor can be one of a column of this type."""
    if type(value) is not kind.python_type:
        return False
    if isinstance(kind, Integer):
        bits = 63 if isinstance(kind, BigInteger) else 31
        return bool(-(1 << bits) <= value < 1 << bits)
    return not isinstance(kind, DateTime) or (value.tzinfo is not None) == kind.timezone
