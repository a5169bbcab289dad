"""The calls of every repository."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Final

from src.database.repositories import Repository
from tests.acceptance.calls.rows import Call, Rows, listed, refused


async def page_items(repository: Repository[Any]) -> list[Any]:
    return list((await repository.page()).items)


ALL: Final = float("inf")

CALLS: Final = {
    "get": Call(lambda r, b: r.get(b.of(r.model)), statements=1),
    "get_or_none": Call(lambda r, b: r.get_or_none(b.of(r.model)), statements=1),
    "get_one": Call(lambda r, b: r.get_one(r.model.id == b.of(r.model)), statements=1),
    "get_many": Call(lambda r, b: r.get_many([b.of(r.model)]), statements=1),
    "exists": Call(lambda r, b: r.exists(r.model.id == b.of(r.model)), statements=1),
    "count": Call(lambda r, _: r.count(), statements=1, most_rows=ALL),
    "update": Call(lambda r, b: r.update(b.of(r.model), extra={"stolen": True}), statements=2),
    "update, if a value is as expected": Call(
        lambda r, b: r.update(b.of(r.model), expected={"id": b.of(r.model)}, extra={"stolen": True}), statements=2
    ),
    "change_json": Call(lambda r, b: r.change_json(b.of(r.model), "extra", values={"stolen": True}), statements=1),
    "delete": Call(lambda r, b: r.delete(b.of(r.model)), statements=1),
    "restore": Call(lambda r, b: r.restore(b.of(r.model)), statements=1),
    "page": Call(lambda r, _: page_items(r), statements=1),
    "stream": Call(lambda r, _: listed(r.stream()), statements=1, most_rows=ALL),
}


def calls_of(repository: type[Repository[Any]]) -> dict[str, Call]:
    """Return the calls of the methods that every repository has; `restore` fails without soft deletion."""
    if hasattr(repository.model, "deleted_at"):
        return CALLS
    return CALLS | {"restore": Call(lambda r, b: refused(r.restore(b.of(r.model))), statements=0)}


def making(
    new: Callable[[Rows], Any],
    values: Callable[[Rows], dict[str, Any]],
    *,
    key: Sequence[str],
    needs_own_rows: bool = True,
    upsert_statements: int = 1,
) -> dict[str, Call]:
    """Return the calls that insert rows.

    Args:
        new: Returns a row to insert, for the user of the rows.
        values: Returns the values of an upsert with the key of the row that `fill` inserted.
        key: The key's attributes.
        needs_own_rows: The row refers to another row, as all but users do.
        upsert_statements: The number of statements of an upsert of an own row.
    """
    made: dict[str, Any] = {"needs_own_rows": needs_own_rows, "makes_rows": True}
    return {
        "add": Call(lambda r, b: r.add(new(b)), statements=1, **made),
        "add_many": Call(lambda r, b: r.add_many([new(b), new(b)]), statements=1, **made),
        "upsert": Call(lambda r, b: r.upsert(values(b), key=key), statements=upsert_statements, **made),
    }
