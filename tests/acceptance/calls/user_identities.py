"""The calls of UserIdentityRepository."""

from __future__ import annotations

from typing import Final

from src.database.base import uuid7
from src.database.models import UserIdentity
from src.database.repositories import UserIdentityRepository
from tests.acceptance.calls.base import making
from tests.acceptance.calls.rows import Rows

REPOSITORY: Final = UserIdentityRepository
CALLS: Final = {
    **making(
        lambda b: UserIdentity(user_id=b.user, provider="google", subject=str(uuid7())),
        lambda b: {"provider": "google", "subject": "same", "user_id": b.user},
        key=["provider", "subject"],
        upsert_statements=2,
    ),
}


def new_row(rows: Rows) -> UserIdentity:
    """Return the row that each tenant has."""
    return UserIdentity(user_id=rows.user, provider="google", subject="same")
