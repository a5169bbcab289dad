"""The calls of UserRepository."""

from __future__ import annotations

from typing import Final

from src.database.models import User
from src.database.repositories import UserRepository
from tests.acceptance.calls.base import making
from tests.acceptance.calls.rows import Call, Rows, listed


async def _merge(users: UserRepository, rows: Rows) -> User:
    other, _ = await users.get_or_create_by_identity("mail", "other")
    return await users.merge(rows.user, other.id)


REPOSITORY: Final = UserRepository
CALLS: Final = {
    **making(
        lambda _: User(display_name="new"),
        lambda _: {"telegram_id": 1, "display_name": "new"},
        key=["telegram_id"],
        needs_own_rows=False,
    ),
    "get_or_create_by_telegram_id": Call(lambda r, _: r.get_or_create_by_telegram_id(1), statements=1, makes_rows=True),
    "get_by_telegram_id": Call(lambda r, _: r.get_by_telegram_id(1), statements=1),
    "get_by_identity": Call(lambda r, _: r.get_by_identity("google", "same"), statements=1),
    "get_or_create_by_identity": Call(
        lambda r, _: r.get_or_create_by_identity("google", "same"), statements=1, makes_rows=True
    ),
    "link": Call(lambda r, b: r.link(b.user, "google", "new"), statements=1),
    "link, again": Call(lambda r, b: r.link(b.user, "google", "same"), statements=1),
    "unlink": Call(lambda r, b: r.unlink(b.user, "google", "same"), statements=1),
    # The other user; two locks, the identities, the conversations to close, six columns that refer to users, of which
    # one has a row to move; the other user's row twice, and the first one's.
    "merge": Call(_merge, statements=16, makes_rows=True),
    "get_by_username": Call(lambda r, _: r.get_by_username("@SAME"), statements=1),
    "set_timezone": Call(lambda r, b: r.set_timezone(b.user, "Europe/Madrid"), statements=1),
    "touch_seen": Call(lambda r, b: r.touch_seen(b.user), statements=1),
    "export": Call(lambda r, b: listed(r.export(b.user)), statements=1),
    # The lock; for each of the seven tables one that locks its rows and one that deletes them, one more for the changed
    # occurrences of series, and one for each of the two references to messages; and the final check.
    "erase": Call(lambda r, b: r.erase(b.user), statements=19),
}
