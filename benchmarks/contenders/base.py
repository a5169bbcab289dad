"""What contenders have in common: where they connect to, what they are asked, and the columns that all return."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from typing import Any, Final, NamedTuple
from uuid import UUID

__all__ = ["CONVERSATION", "EVENT", "MESSAGE", "NOTE", "POOL_SIZE", "USER", "Contender", "Place", "Said"]

POOL_SIZE: Final = 16
"""How many connections each contender may have; the most that ask at once are as many."""

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
EVENT: Final = (
    "id, user_id, title, description, location, start_datetime, end_datetime, timezone, all_day, status, rrule,"
    " series_id, recurrence_id, reminder_datetime, created_at"
)


@dataclass(frozen=True, slots=True)
class Place:
    """The database, and whose rows are asked for. The peers' role is not bound by row-level security."""

    host: str
    database: str
    user: str
    tenant_id: UUID


class Said(NamedTuple):
    """A message on its way in."""

    message_id: str
    role: str
    content: str
    token_count: int
    created_at: datetime


class Contender:
    """One way to the database. What a method is not overridden for, a contender does not take part in.

    Each method returns what was read, as its library hands rows out.
    """

    async def open(self, place: Place) -> None:
        """Connect."""
        raise NotImplementedError

    async def close(self) -> None:
        """Leave nothing open."""
        raise NotImplementedError

    async def user_by_telegram_id(self, telegram_id: int) -> Any:
        """Read a user."""
        raise NotImplementedError

    async def get_or_create_user(self, telegram_id: int) -> Any:
        """Read a user, or make one."""
        raise NotImplementedError

    async def append(self, conversation_id: UUID, said: Said) -> Any:
        """Store a message under its conversation's next number, and say in the conversation when it was."""
        raise NotImplementedError

    async def append_locked(self, conversation_id: UUID, said: Said) -> Any:
        """Append with the guarantees that take a lock: no gap, no double."""
        raise NotImplementedError

    async def append_many(self, conversation_id: UUID, said: list[Said]) -> Any:
        """Append a thousand in one transaction."""
        raise NotImplementedError

    async def recent(self, conversation_id: UUID, limit: int) -> Any:
        """Read the last messages, the oldest first."""
        raise NotImplementedError

    async def turn(self, telegram_id: int, chat: str, said: list[Said]) -> Any:
        """Read the user, his active conversation and its last 20 messages, which are returned; append the new ones."""
        raise NotImplementedError

    async def pages(self, conversation_id: UUID, pages: int) -> int:
        """Go through a conversation, 100 a page, and return how many there were."""
        raise NotImplementedError

    async def stream(self, user_id: UUID) -> int:
        """Go through all messages of a user in the order of their time, and return how many there were."""
        raise NotImplementedError

    async def search(self, user_id: UUID, query: str) -> Any:
        """Return the ten notes of a user that fit a query best, each with its rank and a snippet."""
        raise NotImplementedError

    async def user_by_id(self, user_id: UUID) -> Any:
        """Read a user by his key."""
        raise NotImplementedError

    async def conversations_of(self, user_id: UUID) -> Any:
        """Read a user's last 20 conversations."""
        raise NotImplementedError

    async def notes_of(self, user_id: UUID) -> Any:
        """Read a user's last 20 notes."""
        raise NotImplementedError

    async def upcoming(self, user_id: UUID, now: datetime) -> Any:
        """Read a user's next 10 events."""
        raise NotImplementedError

    async def add_note(self, user_id: UUID, title: str, content: str) -> Any:
        """Store a note."""
        raise NotImplementedError

    async def set_timezone(self, user_id: UUID, timezone: str) -> Any:
        """Change a user, and return him as he is then."""
        raise NotImplementedError
