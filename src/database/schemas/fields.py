"""The types of inputs: text that can be stored, instants, ids, whole numbers in their column's range, JSON."""

from __future__ import annotations

import math
from datetime import UTC, datetime
from typing import Annotated, Any, Final
from uuid import UUID

from pydantic import AfterValidator, AwareDatetime, BeforeValidator, Field, Strict

from src.database.base import DEEPEST_JSON, clean_text
from src.database.limits import LOCALE, TIMEZONE, Length, Whole
from src.database.regional import is_locale, is_timezone

__all__ = [
    "CLEAN",
    "Boolean",
    "Instant",
    "Int4",
    "Int8",
    "JsonArray",
    "JsonObject",
    "Locale",
    "RowId",
    "Text",
    "TimeZone",
    "number",
    "sized",
]


def _clean(value: Any) -> Any:
    return clean_text(value) if isinstance(value, str) else value


def _parse_instant(value: Any) -> Any:
    """Take ISO 8601 with a zone. A bare number says neither its unit nor its zone."""
    if isinstance(value, str):
        try:
            value = datetime.fromisoformat(value)
        except ValueError:
            raise ValueError("must be ISO 8601 like 2026-03-01T12:00:00+01:00") from None
    if not isinstance(value, datetime):
        raise ValueError("must be a datetime, or ISO 8601 like 2026-03-01T12:00:00+01:00")  # noqa: TRY004 - pydantic's
    return value


def _check_range(value: datetime) -> datetime:
    try:
        value.astimezone(UTC)
    except OverflowError:
        raise ValueError("must be within the years 1 to 9999 in UTC") from None
    return value


def _parse_id(value: Any) -> Any:
    if isinstance(value, str):
        try:
            return UUID(value)
        except ValueError:
            raise ValueError("must be a UUID") from None
    return value


def _clean_json(value: Any, depth: int = 0) -> Any:
    """Clean strings, names included, all through, and refuse what jsonb cannot hold."""
    if depth > DEEPEST_JSON:
        raise ValueError(f"must be nested at most {DEEPEST_JSON} deep")
    if isinstance(value, str):
        return clean_text(value)
    if isinstance(value, dict):
        if not all(isinstance(name, str) for name in value):
            raise ValueError("must have text as names, all through")
        return {clean_text(name): _clean_json(item, depth + 1) for name, item in value.items()}
    if isinstance(value, list | tuple):
        return [_clean_json(item, depth + 1) for item in value]
    if value is None or isinstance(value, bool | int) or (isinstance(value, float) and math.isfinite(value)):
        return value
    raise ValueError("must be JSON all through: text, finite numbers, true, false, null, arrays, objects")


def _check_zone(value: str) -> str:
    if not is_timezone(value):
        raise ValueError("must be an IANA name like Europe/Madrid")
    return value


def _check_locale(value: str) -> str:
    if not is_locale(value):
        raise ValueError("must have the shape of BCP 47, like es or es-MX")
    return value


def sized(limit: Length) -> Any:
    """Return the field of a text of this length."""
    return Field(strict=True, min_length=limit.minimum or None, max_length=limit.maximum)


def number(limit: Whole) -> Any:
    """Return the field of a whole number."""
    return Field(strict=True, ge=limit.minimum, le=limit.maximum)


CLEAN: Final = BeforeValidator(_clean)
"""Comes last, so it is done first: a lone surrogate would be refused as text; the length is that of what is stored."""

Text = Annotated[str, Strict(), CLEAN]
Boolean = Annotated[bool, Strict()]
Int4 = Annotated[int, Strict(), Field(ge=-(2**31), le=2**31 - 1)]
Int8 = Annotated[int, Strict(), Field(ge=-(2**63), le=2**63 - 1)]
Instant = Annotated[AwareDatetime, BeforeValidator(_parse_instant), AfterValidator(_check_range)]
RowId = Annotated[UUID, BeforeValidator(_parse_id)]
JsonObject = Annotated[dict[str, Any], BeforeValidator(_clean_json)]
JsonArray = Annotated[list[Any], BeforeValidator(_clean_json)]
TimeZone = Annotated[str, sized(TIMEZONE), CLEAN, AfterValidator(_check_zone)]
Locale = Annotated[str, sized(LOCALE), CLEAN, AfterValidator(_check_locale)]
