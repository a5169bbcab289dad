"""What every repository can be asked."""

from __future__ import annotations

from typing import Any, Final

from src.database.repositories import Repository
from tests.acceptance.calls.rows import Call, listed


async def nothing() -> None:
    """Stand for what is refused before anything is sent."""


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
    "delete": Call(lambda r, b: r.delete(b.of(r.model)), statements=1),
    "restore": Call(lambda r, b: r.restore(b.of(r.model)), statements=1),
    "page": Call(lambda r, _: page_items(r), statements=1),
    "stream": Call(lambda r, _: listed(r.stream()), statements=1, most_rows=ALL),
}
WITHOUT_DELETED_ROWS: Final = {"restore": Call(lambda _r, _b: nothing(), statements=0)}
"""Where the table keeps none."""
