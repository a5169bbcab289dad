"""Keyset pages: a Page, and the opaque cursor that says where the next one begins."""

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

__all__ = ["InvalidCursorError", "Page", "check_limit", "decode_cursor", "encode_cursor"]

T = TypeVar("T")

MAX_LIMIT: Final = 1000
_SIGNATURE_BYTES: Final = 8
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
    """The cursor is not one that this very query handed out."""


@dataclass(frozen=True, slots=True)
class Page(Generic[T]):
    """Some rows in order, and the cursor of the next page: None where this one is the last."""

    items: Sequence[T]
    next_cursor: str | None


def check_limit(limit: int) -> None:
    """Refuse a number of rows that no caller can mean.

    Raises:
        ValueError: It is not from 1 to 1000.
    """
    if type(limit) is not int or not 1 <= limit <= MAX_LIMIT:
        raise ValueError(f"limit must be from 1 to {MAX_LIMIT}, got {limit!r}")


def encode_cursor(values: Sequence[object], *, scope: str) -> str:
    """Make a cursor of the last row's sort values; it serves the query of this scope alone."""
    body = json.dumps([_tag(value) for value in values], separators=(",", ":")).encode()
    return base64.urlsafe_b64encode(_signature(body, scope) + body).decode().rstrip("=")


def decode_cursor(cursor: str, *, scope: str) -> list[Any]:
    """Return the sort values of a cursor.

    Raises:
        InvalidCursorError: It was made up, cut short, or handed out for another table, order or tenant.
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
    """Bring an instant to UTC, where the first and the last ones of other zones do not exist; wall-clock time stays."""
    return value if value.tzinfo is None else value.astimezone(UTC)


def _signature(body: bytes, scope: str) -> bytes:
    """Tie a cursor to its query. It catches mistakes and no attack: the tenant's filter is in every query anyway."""
    return hashlib.sha256(scope.encode() + b"\0" + body).digest()[:_SIGNATURE_BYTES]
