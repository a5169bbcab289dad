"""Change keys of a JSON object within its column, so that concurrent writers of other keys lose nothing."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Any

from sqlalchemy import ARRAY, ColumnElement, Text, case, func, literal
from sqlalchemy.dialects.postgresql import JSONB

from src.database.json_values import encode_json


def with_keys(
    column: Any, values: Mapping[str, Any], merge: Mapping[str, Mapping[str, Any]], remove: Collection[str]
) -> ColumnElement[Any]:
    """Return the object of a column with keys set, merged and removed.

    Args:
        column: The mapped attribute; its type is `Json`.
        values: The keys to set.
        merge: The keys whose objects get further keys. A value that is not an object is replaced.
        remove: The keys to remove.

    Raises:
        ValueError: A value of `merge` is not an object.
    """
    changed: Any = column
    if remove:
        changed = changed.op("-")(literal([encode_json(key) for key in remove], ARRAY(Text())))
    if values:
        changed = changed.op("||")(literal(dict(values), column.type))
    for key, further in merge.items():
        if not isinstance(further, Mapping):
            raise ValueError(f"merge must have an object for each key, got {type(further).__name__}")  # noqa: TRY004 - bad input
        name = literal(encode_json(key), Text())
        before = case((func.jsonb_typeof(column.op("->")(name)) == "object", column.op("->")(name)), else_=_EMPTY)
        merged = func.jsonb_build_object(name, before.op("||")(literal(dict(further), column.type)))
        changed = changed.op("||")(merged)
    return func.coalesce(changed, _EMPTY, type_=column.type)


_EMPTY: ColumnElement[Any] = literal({}, JSONB())
