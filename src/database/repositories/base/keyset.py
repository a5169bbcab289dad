"""The order of a page, by an attribute and then by id, and the cursor that says where in it the next one begins."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Final
from uuid import UUID

from sqlalchemy import BigInteger, ColumnElement, DateTime, Integer, Select, tuple_
from sqlalchemy.orm import InstrumentedAttribute
from sqlalchemy.types import TypeEngine

from src.database.base import TenantBase
from src.database.pagination import InvalidCursorError, decode_cursor, encode_cursor

__all__ = ["Keyset"]

_SORTABLE: Final = (datetime, bool, int, str, UUID)


@dataclass(frozen=True, slots=True)
class Keyset:
    """An order of a table's rows without ties, and the scope of its cursors."""

    keys: Sequence[InstrumentedAttribute[Any]]
    descending: bool
    scope: str

    @classmethod
    def of(
        cls,
        model: type[TenantBase],
        order_by: InstrumentedAttribute[Any] | None,
        *,
        descending: bool,
        tenant_id: UUID,
    ) -> Keyset:
        """Make the order of a model's rows by an attribute, or by id alone.

        Raises:
            ValueError: It is no attribute of this model, can be null, or is of a kind that has no order here.
        """
        by_id = order_by is None or order_by is model.id
        keys = [model.id] if by_id else [_checked(model, order_by), model.id]
        names = ",".join(key.key for key in keys)
        return cls(keys, descending, f"{model.__tablename__}:{names}:{descending}:{tenant_id}")

    def begin(self, statement: Select[Any], after: str | None) -> Select[Any]:
        """Put a query in order, from the cursor on.

        Raises:
            InvalidCursorError: The cursor is not one of this order's.
        """
        if after is not None:
            statement = statement.where(self._is_past(after))
        return statement.order_by(*(key.desc() if self.descending else key for key in self.keys))

    def cursor_of(self, row: object) -> str:
        """Make the cursor of what comes after this row."""
        return encode_cursor([getattr(row, key.key) for key in self.keys], scope=self.scope)

    def _is_past(self, cursor: str) -> ColumnElement[bool]:
        values = decode_cursor(cursor, scope=self.scope)
        types = [_stored_type(key) for key in self.keys]
        if len(values) != len(types) or not all(map(_can_hold, types, values)):
            raise InvalidCursorError("the cursor cannot be read; begin again without one")
        position = tuple_(*values, types=[key.type for key in self.keys])
        row = tuple_(*self.keys)
        return row < position if self.descending else row > position


def _checked(model: type[TenantBase], attribute: Any) -> InstrumentedAttribute[Any]:
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
    """Say whether a column of this type could have given this value to a cursor."""
    if type(value) is not kind.python_type:
        return False
    if isinstance(kind, Integer):
        bits = 63 if isinstance(kind, BigInteger) else 31
        return bool(-(1 << bits) <= value < 1 << bits)
    return not isinstance(kind, DateTime) or (value.tzinfo is not None) == kind.timezone
