"""Rows for tests: one function for each entity, with a default for each attribute that a test is not about."""

from __future__ import annotations

from datetime import timedelta
from itertools import count
from typing import TYPE_CHECKING, Any, Protocol, Unpack

from src.database.base import utc_now, uuid7
from src.database.models import Conversation, Event, MessageHistory, Note, User
from src.database.repositories import (
    ConversationRepository,
    EventRepository,
    MessageHistoryRepository,
    NewMessage,
    NoteRepository,
    UserRepository,
)
from src.database.session import get_db

if TYPE_CHECKING:
    from src.database.models import attributes


class MakeUser(Protocol):
    """The type of the fixture `make_user`."""

    async def __call__(self, **values: Unpack[attributes.UserAttributes]) -> User:
        """Create a user."""


class MakeConversation(Protocol):
    """The type of the fixture `make_conversation`."""

    async def __call__(
        self, user: User | None = None, /, **values: Unpack[attributes.ConversationAttributes]
    ) -> Conversation:
        """Create a conversation in a chat of its own."""


class MakeMessage(Protocol):
    """The type of the fixture `make_message`."""

    async def __call__(self, conversation: Conversation | None = None, **values: Any) -> MessageHistory:
        """Append a message to a conversation."""


class MakeEvent(Protocol):
    """The type of the fixture `make_event`."""

    async def __call__(self, user: User | None = None, /, **values: Unpack[attributes.EventAttributes]) -> Event:
        """Create an event."""


class MakeNote(Protocol):
    """The type of the fixture `make_note`."""

    async def __call__(self, user: User | None = None, /, **values: Unpack[attributes.NoteAttributes]) -> Note:
        """Create a note."""


class Factories:
    """Functions that create rows of the current tenant with get_db.

    Each takes the attributes of its model by name (`make_message` those of `NewMessage`), and, except `make_user`, the
    parent as an optional positional argument. A missing parent is created.
    """

    def __init__(self) -> None:
        self._numbers = count(1)

    async def make_user(self, **values: Unpack[attributes.UserAttributes]) -> User:
        """Create a user."""
        number = next(self._numbers)
        values.setdefault("telegram_id", number)
        values.setdefault("display_name", f"User {number}")
        async with get_db() as session:
            return await UserRepository(session).add(User(**values))

    async def make_conversation(
        self, user: User | None = None, /, **values: Unpack[attributes.ConversationAttributes]
    ) -> Conversation:
        """Create a conversation in a chat of its own."""
        user = user or values.pop("user", None)
        if "user_id" not in values:
            values["user_id"] = (user or await self.make_user()).id
        values.setdefault("session_id", str(uuid7()))
        values.setdefault("channel", "telegram")
        values.setdefault("external_chat_id", str(next(self._numbers)))
        async with get_db() as session:
            return await ConversationRepository(session).add(Conversation(**values))

    async def make_message(self, conversation: Conversation | None = None, **values: Any) -> MessageHistory:
        """Append a message to a conversation; it takes the attributes of `NewMessage`."""
        conversation = conversation or await self.make_conversation()
        number = next(self._numbers)
        message = {"message_id": f"test:{number}", "role": "user", "content": f"Message {number}", **values}
        async with get_db() as session:
            appended = await MessageHistoryRepository(session).append(conversation.id, NewMessage(**message))
            return appended.message

    async def make_event(self, user: User | None = None, /, **values: Unpack[attributes.EventAttributes]) -> Event:
        """Create an event that starts in a day, without a reminder."""
        user = user or values.pop("user", None)
        if "user_id" not in values:
            values["user_id"] = (user or await self.make_user()).id
        values.setdefault("title", f"Event {next(self._numbers)}")
        values.setdefault("start_datetime", utc_now() + timedelta(days=1))
        async with get_db() as session:
            return await EventRepository(session).add(Event(**values))

    async def make_note(self, user: User | None = None, /, **values: Unpack[attributes.NoteAttributes]) -> Note:
        """Create a note."""
        user = user or values.pop("user", None)
        if "user_id" not in values:
            values["user_id"] = (user or await self.make_user()).id
        values.setdefault("content", f"Note {next(self._numbers)}")
        async with get_db() as session:
            return await NoteRepository(session).add(Note(**values))
