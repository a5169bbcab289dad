"""Many rows in one statement, as a role under row-level security may: UNNEST, since COPY is refused there."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from datetime import datetime
from functools import cache
from typing import Any, Final, cast

from sqlalchemy import ARRAY, CursorResult, Executable, Table, Text, Uuid, bindparam, column, func, select
from sqlalchemy import cast as sql_cast
from sqlalchemy.dialects.postgresql import JSONB, insert
from sqlalchemy.types import TypeDecorator, TypeEngine

from src.database.base import TenantBase
from src.database.session import AsyncSession

__all__ = ["insert_missing"]

ROWS_A_STATEMENT: Final = 5000
_PACKED: Final = Text()


async def insert_missing(session: AsyncSession, model: type[TenantBase], rows: Sequence[dict[str, Any]]) -> int:
    """Insert the acting tenant's rows, all with the same columns; pass over those that are there already.

    Returns:
        How many were inserted.
    """
    inserted = 0
    table = cast("Table", model.__table__)
    for start in range(0, len(rows), ROWS_A_STATEMENT):
        some = rows[start : start + ROWS_A_STATEMENT]
        names = tuple(some[0])
        columns = {name: _packed(table.c[name].type, (row[name] for row in some)) for name in names}
        done = await session.execute(_statement(table, names), {"tenant": session.tenant_id, **columns})
        inserted += cast("CursorResult[Any]", done).rowcount
    return inserted


@cache
def _statement(table: Table, names: tuple[str, ...]) -> Executable:
    sent = {name: _sent(table.c[name].type) for name in names}
    arrays = [bindparam(name, type_=ARRAY(kind)) for name, kind in sent.items()]
    given = (
        func.unnest(*arrays)
        .table_valued(*(column(name, kind) for name, kind in sent.items()))
        .render_derived(name="given")
    )
    values = [
        given.c[name] if kind is not _PACKED else sql_cast(given.c[name], table.c[name].type)
        for name, kind in sent.items()
    ]
    rows = select(bindparam("tenant", type_=Uuid()), *values)
    return insert(table).from_select(["tenant_id", *names], rows).on_conflict_do_nothing()


def _sent(kind: TypeEngine[Any]) -> TypeEngine[Any]:
    """Say as what a column's values travel: an array of arrays would be taken apart, and JSON be encoded twice.

    What is made up has nothing to be cleaned or refused: the decorators, which look at each value, are left out.
    """
    if isinstance(kind, ARRAY) or _is_json(kind):
        return _PACKED
    return kind.impl_instance if isinstance(kind, TypeDecorator) else kind


def _packed(kind: TypeEngine[Any], values: Iterable[Any]) -> list[Any]:
    if isinstance(kind, ARRAY):
        return [None if value is None else _array(value) for value in values]
    if _is_json(kind):
        return [None if value is None else _json(value) for value in values]
    return list(values)


def _is_json(kind: TypeEngine[Any]) -> bool:
    return isinstance(kind, TypeDecorator) and isinstance(kind.impl, JSONB)


def _json(value: Any) -> str:
    return json.dumps(value, ensure_ascii=False) if value else str(value)  # [] and {}, as most of them are


def _array(items: Iterable[str | datetime]) -> str:
    """Write an array as PostgreSQL reads it; a text in it is quoted as in JSON."""
    texts = (item.isoformat() if isinstance(item, datetime) else item for item in items)
    return f"{{{','.join(json.dumps(text, ensure_ascii=False) for text in texts)}}}"
