"""The calls of StateRepository, and of the store's state, which has the same methods."""

from __future__ import annotations

from typing import Any, Final

from src.database.base import uuid7
from src.database.models import StateEntry
from src.database.repositories import StateRepository
from tests.acceptance.calls.base import making
from tests.acceptance.calls.rows import Call, Rows


async def page_items(entries: Any, rows: Rows) -> list[Any]:
    return list((await entries.page_by_prefix("same", "sa", user_id=rows.user)).items)


async def last_items(entries: Any, rows: Rows) -> list[Any]:
    options: Any = {"start": "sa", "stop": "sb", "descending": True, "user_id": rows.user}
    return list((await entries.page_by_prefix("same", "sa", **options)).items)


REPOSITORY: Final = StateRepository
BY_KEY: Final = {
    "get_by_key": Call(lambda r, b: r.get_by_key("same", "same", user_id=b.user), statements=1),
    "get_by_keys": Call(lambda r, b: r.get_by_keys("same", ["same", "none"], user_id=b.user), statements=1),
    "page_by_prefix": Call(page_items, statements=1),
    "page_by_prefix, descending": Call(last_items, statements=1),
    "set, if unchanged": Call(
        lambda r, b: r.set("same", "same", "stolen", user_id=b.user, expected_version=1), statements=1
    ),
    "set": Call(lambda r, b: r.set("same", "same", "stolen", user_id=b.user), statements=1),
    "set_many": Call(lambda r, b: r.set_many("same", {"same": 1, "new": b"2"}, user_id=b.user), statements=1),
    "merge": Call(lambda r, b: r.merge("same", "same", {"stolen": True}, user_id=b.user), statements=1),
    "delete_by_key": Call(lambda r, b: r.delete_by_key("same", "same", user_id=b.user), statements=1),
}
CALLS: Final = {
    **making(
        lambda b: StateEntry(user_id=b.user, namespace="same", key=str(uuid7()), data="new"),
        lambda b: {
            "id": b.of(StateEntry), "user_id": b.user, "namespace": "same", "key": "same", "data": "new"
        },
        key=["id"],
    ),
    **BY_KEY,
    "delete_by_keys": Call(lambda r, b: r.delete_by_keys("same", ["same"], user_id=b.user), statements=1),
    "delete_by_prefix": Call(lambda r, b: r.delete_by_prefix("same", "sa", user_id=b.user), statements=1),
}  # fmt: skip


def new_row(rows: Rows) -> StateEntry:
    """Return the row that each tenant has."""
    return StateEntry(user_id=rows.user, namespace="same", key="same", data="secret")
