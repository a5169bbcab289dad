"""Every public method of every repository, called once: tests go through them all, and fail for one that is missing."""

from __future__ import annotations

from typing import Any, Final

from src.database.repositories import (
    ConversationRepository,
    EventRepository,
    MessageHistoryRepository,
    NoteRepository,
    Repository,
    UserRepository,
)
from tests.acceptance.calls import base, conversations, events, messages, notes, users
from tests.acceptance.calls.rows import TOKEN, Call, Rows, a_message, fill, listed

__all__ = ["CALLS", "MAKING_ROWS", "TOKEN", "Call", "Rows", "a_message", "fill", "listed"]

CALLS: Final[dict[type[Repository[Any]], dict[str, Call]]] = {
    UserRepository: base.CALLS | users.CALLS,
    ConversationRepository: base.CALLS | conversations.CALLS,
    MessageHistoryRepository: base.CALLS | messages.CALLS,
    EventRepository: base.CALLS | base.WITHOUT_DELETED_ROWS | events.CALLS,
    NoteRepository: base.CALLS | notes.CALLS,
}
MAKING_ROWS: Final = {"add", "add_many", "upsert", "get_or_create_by_telegram_id"}
"""They take no id of a row that is there; those who go through all methods try them by hand."""
