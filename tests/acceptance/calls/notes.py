"""The calls of NoteRepository."""

from __future__ import annotations

from typing import Any, Final

from src.database.models import Note
from src.database.repositories import NoteRepository
from tests.acceptance.calls.base import making
from tests.acceptance.calls.rows import Call, Rows


async def page_items(repository: NoteRepository, rows: Rows) -> list[Any]:
    return list((await repository.page_for_user(rows.user)).items)


REPOSITORY: Final = NoteRepository
CALLS: Final = {
    **making(
        lambda b: Note(user_id=b.user, content="new"),
        lambda b: {"id": b.note, "user_id": b.user, "content": "new"},
        key=["id"],
    ),
    "search": Call(lambda r, b: r.search(b.user, "secret"), statements=1),
    "page_for_user": Call(page_items, statements=1),
    "tags": Call(lambda r, b: r.tags(b.user), statements=1),
    "pin": Call(lambda r, b: r.pin(b.note), statements=1),
    "archive": Call(lambda r, b: r.archive(b.note), statements=1),
    "unarchive": Call(lambda r, b: r.unarchive(b.note), statements=1),
    "archived": Call(lambda r, b: r.archived(b.user, limit=10), statements=1),
}
