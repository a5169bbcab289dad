"""One tenant's rows, a row of each kind, under keys that every tenant has."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from datetime import timedelta
from typing import Any, Final
from uuid import UUID

import pytest

from src.database.base import utc_now, uuid7
from src.database.models import Conversation, Event, MessageHistory, Note, User
from src.database.repositories import NewMessage
from src.database.session import AsyncSession

TOKEN: Final = uuid7()
"""Of the claim on the event's reminder."""
TURN: Final = 7
"""The token of the conversation's turn, which has run out and nobody else has taken."""


@dataclass(frozen=True)
class Rows:
    """The ids of one tenant's rows."""

    user: UUID
    conversation: UUID
    message: UUID
    event: UUID
    note: UUID
    tenant: UUID

    def of(self, model: type) -> UUID:
        by_model: dict[type, UUID] = {
            User: self.user,
            Conversation: self.conversation,
            MessageHistory: self.message,
            Event: self.event,
            Note: self.note,
        }
        return by_model[model]


@dataclass(frozen=True)
class Call:
    """A public method, called on rows that are there."""

    run: Callable[[Any, Rows], Awaitable[Any]]
    """Gets the repository and the rows."""
    statements: int
    """How many SQL statements it sends where the rows are its own tenant's."""
    most_rows: float = 100
    """How many rows one statement may read, of its tenant's 50,000 messages and 5,000 events."""
    needs_own_rows: bool = False
    """It refuses another tenant's id with ForeignKeyError, since it makes a row beside it."""
    makes_rows: bool = False
    """It inserts a row of the current tenant, or returns the current tenant's row of a key that each tenant has."""


async def fill(session: AsyncSession) -> Rows:
    """Give a tenant one row of each kind."""
    user = User(telegram_id=1, username="same")
    session.add(user)
    await session.flush()
    conversation = Conversation(
        user_id=user.id,
        channel="telegram",
        external_chat_id="1",
        session_id="same",
        turn_token=TURN,
        turn_claimed_by="w",
        turn_claimed_until=utc_now(),
    )
    session.add(conversation)
    await session.flush()
    message = MessageHistory(
        conversation_id=conversation.id, user_id=user.id, seq=1, message_id="same", role="user", content="secret"
    )
    unfinished = MessageHistory(
        conversation_id=conversation.id, user_id=user.id, seq=2, message_id="unfinished", role="assistant",
        content="secret", state="incomplete",
    )  # fmt: skip
    conversation.last_seq = 2
    now = utc_now() - timedelta(hours=1)
    due = Event(user_id=user.id, title="secret", start_datetime=now, reminder_datetime=now)
    held = Event(
        user_id=user.id,
        title="secret",
        start_datetime=now,
        reminder_token=TOKEN,
        reminder_claimed_by="w",
        reminder_claimed_until=now,
    )
    note = Note(user_id=user.id, content="secret", tags=["secret"])
    put_away = Note(user_id=user.id, content="secret", archived_at=now)
    session.add_all([message, unfinished, due, held, note, put_away])
    await session.commit()
    return Rows(user.id, conversation.id, message.id, held.id, note.id, session.tenant_id)


def a_message(key: str) -> NewMessage:
    return NewMessage(message_id=key, role="user", content="x")


async def refused(call: Awaitable[Any]) -> None:
    """Check that a method raises ValueError and sends nothing."""
    with pytest.raises(ValueError, match=r"cannot be written by|has no deleted_at"):
        await call


async def listed(rows: Any) -> list[Any]:
    """Exhaust an asynchronous iterator."""
    return [row async for row in rows]
