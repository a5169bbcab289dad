"""A call of each public method of each repository. Tests use all of them, and fail if a method has no call."""

from __future__ import annotations

from typing import Any, Final

from src.database.repositories import (
    ConversationRepository,
    EventRepository,
    MessageHistoryRepository,
    NoteRepository,
    Repository,
    TenantRepository,
    UserRepository,
)
from src.database.store import Store
from tests.acceptance.calls import base, conversations, discovery, events, messages, notes, store, tenants, users
from tests.acceptance.calls.rows import TOKEN, Call, Rows, a_message, fill, listed

__all__ = [
    "CALLS",
    "REGISTRY_CALLS",
    "STORE_CALLS",
    "TOKEN",
    "Call",
    "Rows",
    "a_message",
    "fill",
    "listed",
    "missing_calls",
]

CALLS: Final[dict[type[Repository[Any]], dict[str, Call]]] = {
    UserRepository: base.CALLS | users.CALLS,
    ConversationRepository: base.CALLS | conversations.CALLS,
    MessageHistoryRepository: base.CALLS | messages.CALLS,
    EventRepository: base.CALLS | base.WITHOUT_DELETED_ROWS | events.CALLS,
    NoteRepository: base.CALLS | notes.CALLS,
}
REGISTRY_CALLS: Final[dict[str, Call]] = tenants.CALLS
STORE_CALLS: Final[dict[str, Call]] = store.CALLS


def missing_calls() -> list[str]:
    """Return `Class.method` for each public method that has no call here; each suite checks that there is none."""
    return discovery.missing_calls({**CALLS, TenantRepository: REGISTRY_CALLS, Store: STORE_CALLS})
