"""The rows of a tenant, one of each kind, with the same keys for every tenant."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from datetime import timedelta
from typing import Any, Final
from uuid import UUID

import pytest

from src.database.base import utc_now, uuid7
from src.database.models import Conversation, Event, MessageHistory, Note, User
from src.database.repositories import NewMessage
from src.database.session import AsyncSession

TOKEN: Final = uuid7()
"""The token of the claim on the event's reminder."""
TURN: Final = 7
"""The token of the conversation's turn, whose lease has ended."""


@dataclass(frozen=True)
class Rows:
    """The ids of the rows of a tenant."""

    user: UUID
    conversation: UUID
    message: UUID
    event: UUID
    note: UUID
    tenant: UUID
    others: dict[type, UUID] = field(default_factory=dict, compare=False)
    """By model: of the tables whose module of calls has a `new_row`."""

    def ids(self) -> set[UUID]:
        """Return the ids of all rows, and the tenant's."""
        fixed = {self.user, self.conversation, self.message, self.event, self.note, self.tenant}
        return fixed | set(self.others.values())

    def of(self, model: type) -> UUID:
        by_model: dict[type, UUID] = {
            User: self.user,
            Conversation: self.conversation,
            MessageHistory: self.message,
            Event: self.event,
            Note: self.note,
        }
        return (by_model | self.others).get(model, self.tenant)


@dataclass(frozen=True)
class Call:
    """A call of a public method with existing rows."""

    run: Callable[[Any, Rows], Awaitable[Any]]
    """Takes the repository and the rows."""
    statements: int
    """The number of SQL statements for own rows."""
    most_rows: float = 100
    """The largest number of rows that a statement may read, of the tenant's 50,000 messages and 5,000 events."""
    needs_own_rows: bool = False
    """True if the call inserts a row that refers to the id, and raises ForeignKeyError for an id of another tenant."""
    makes_rows: bool = False
    """True if the call inserts a row of the current tenant, or returns its row with the same key."""


async def fill(session: AsyncSession) -> Rows:
    """Insert one row of each kind, and return the ids."""
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
