"""The base of all contenders: where they connect to, the operations, and the columns that all of them return."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from typing import Any, Final, NamedTuple
from uuid import UUID

__all__ = ["CONVERSATION", "MESSAGE", "NOTE", "POOL_SIZE", "USER", "Contender", "Incoming", "Place"]

POOL_SIZE: Final = 16
"""Connections of each contender's pool; at most as many callers call at the same time."""

USER: Final = (
    "id, telegram_id, username, display_name, locale, timezone, is_active, last_seen_at, created_at, preferences"
)
CONVERSATION: Final = (
    "id, user_id, session_id, channel, external_chat_id, title, summary, summary_upto_seq, last_seq, last_message_at,"
    " created_at"
)
MESSAGE: Final = (
    "id, conversation_id, user_id, seq, message_id, role, content, parts, attachments, parent_id, tool_call_id,"
    " tool_name, model, input_tokens, output_tokens, token_count, state, created_at, edited_at, metadata"
)
NOTE: Final = "id, user_id, title, content, tags, pinned, archived_at, source_message_id, created_at, updated_at"


@dataclass(frozen=True, slots=True)
class Place:
    """The database that a contender connects to, and its role there."""

    host: str
    database: str
    user: str


class Incoming(NamedTuple):
    """A message to append."""

    message_id: str
    role: str
    content: str
    token_count: int
    created_at: datetime


class Contender:
    """A way to the database. A contender takes part in the operations whose methods it overrides.

    Each method takes the tenant first and returns what was read, in the form in which the library returns rows.
    """

    async def open(self, place: Place) -> None:
        """Connect."""
        raise NotImplementedError

    async def close(self) -> None:
        """Close all connections."""
        raise NotImplementedError

    async def user_by_telegram_id(self, tenant_id: UUID, telegram_id: int) -> Any:
        """Read a user."""
        raise NotImplementedError

    async def get_or_create_user(self, tenant_id: UUID, telegram_id: int) -> Any:
        """Read a user, or create the user."""
        raise NotImplementedError

    async def get_or_start(self, tenant_id: UUID, user_id: UUID, chat: str) -> Any:
        """Read a user's active conversation in a chat, or create one."""
        raise NotImplementedError

    async def append(self, tenant_id: UUID, conversation_id: UUID, message: Incoming) -> Any:
        """Insert a message under the next number of its conversation, and update the conversation's last message."""
        raise NotImplementedError

    async def append_locked(self, tenant_id: UUID, conversation_id: UUID, message: Incoming) -> Any:
        """Append with the guarantees that take a lock: no gap, no duplicate."""
        raise NotImplementedError

    async def append_many(self, tenant_id: UUID, conversation_id: UUID, messages: list[Incoming]) -> Any:
        """Append many messages in one transaction."""
        raise NotImplementedError

    async def recent(self, tenant_id: UUID, conversation_id: UUID, limit: int) -> Any:
        """Read the last messages, the oldest first."""
        raise NotImplementedError

    async def turn(self, tenant_id: UUID, telegram_id: int, chat: str, messages: list[Incoming]) -> Any:
        """Read a user, the active conversation and its last 20 messages, which are returned; append the new ones."""
        raise NotImplementedError

    async def pages(self, tenant_id: UUID, conversation_id: UUID, pages: int) -> int:
        """Read a conversation, 100 messages a page, and return the number of messages."""
        raise NotImplementedError

    async def stream(self, tenant_id: UUID, user_id: UUID) -> int:
        """Read all messages of a user in the order of their time, and return the number of messages."""
        raise NotImplementedError

    async def search(self, tenant_id: UUID, user_id: UUID, query: str) -> Any:
        """Return the ten notes of a user that match a query best, each with its rank and a snippet."""
        raise NotImplementedError

    async def user_by_id(self, tenant_id: UUID, user_id: UUID) -> Any:
        """Read a user by key."""
        raise NotImplementedError

    async def conversations_of(self, tenant_id: UUID, user_id: UUID) -> Any:
        """Read a user's last 20 conversations."""
        raise NotImplementedError

    async def notes_of(self, tenant_id: UUID, user_id: UUID) -> Any:
        """Read a user's last 20 notes."""
        raise NotImplementedError

    async def upcoming(self, tenant_id: UUID, user_id: UUID, now: datetime) -> Any:
        """Read a user's next 10 events."""
        raise NotImplementedError

    async def add_note(self, tenant_id: UUID, user_id: UUID, title: str, content: str) -> Any:
        """Insert a note."""
        raise NotImplementedError

    async def set_timezone(self, tenant_id: UUID, user_id: UUID, timezone: str) -> Any:
        """Update a user, and return the updated row."""
        raise NotImplementedError

    async def session_add(self, tenant_id: UUID, session_id: UUID, messages: list[Incoming]) -> Any:
        """Append messages to the session of an agent SDK; the id is that of the user whose session this is."""
        raise NotImplementedError

    async def session_get(self, tenant_id: UUID, session_id: UUID, limit: int) -> Any:
        """Read the last messages of the session of an agent SDK, the oldest first."""
        raise NotImplementedError

    async def session_run(self, tenant_id: UUID, session_id: UUID, messages: list[Incoming]) -> Any:
        """Create a session object as a new request does, read the last 20 messages, and append new ones."""
        raise NotImplementedError
