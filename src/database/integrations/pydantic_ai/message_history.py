"""The message history of a conversation, for services that pass `message_history=` to an agent."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING
from uuid import UUID

from src.database.base import uuid7
from src.database.integrations.pydantic_ai.messages import FORMAT, dump, load, new_message
from src.database.integrations.stored_conversation import StoredConversation
from src.database.statements import whole_pairs

if TYPE_CHECKING:
    from pydantic_ai import ModelMessage


class StoredMessageHistory:
    """The messages of a conversation, as `message_history=` takes them.

    Messages that other SDKs or the service itself have stored are part of the history. Of two concurrent runs, all
    messages are stored, in the order of their commits; `StoredConversations` rejects the second run.

    Args:
        session_id: The id of the session, unique within the tenant. The conversation is opened at the first call.
        user_id: The user whose conversation this is.
        tenant_id: The tenant; by default the current tenant of each call.

    Raises:
        TypeError: An id has the wrong type.
        ValueError: The session id is empty, or an id is not a UUID.
    """

    def __init__(self, session_id: str, user_id: UUID, *, tenant_id: UUID | None = None) -> None:
        self._conversation = StoredConversation(session_id, user_id, tenant_id=tenant_id)

    async def load(self, *, limit: int | None = None) -> list[ModelMessage]:
        """Return the messages, the oldest first.

        Args:
            limit: The largest number of messages. A tool call and a result that the limit separates are both left out.
                By default all messages are returned.

        Raises:
            DuplicateKeyError: The session id belongs to a conversation of another user.
            ForeignKeyError: The tenant has no such user, or the user is deleted.
            ValueError: The limit is negative, or not an integer.
        """
        rows = await self._conversation.last(limit)
        return load(rows if limit is None else whole_pairs(rows))

    async def add(self, messages: Sequence[ModelMessage]) -> None:
        """Append messages, such as `result.new_messages()`: all of them, or none.

        After a lost connection the messages are sent again, and are not stored twice.

        Raises:
            CommitOutcomeUnknown: The server cannot be reached again, and whether the messages are stored is not known.
            DuplicateKeyError: The session id belongs to a conversation of another user.
            ForeignKeyError: The tenant has no such user, or the user is deleted.
            ValueError: A message has a value that is not JSON.
        """
        dumped = zip(messages, dump(messages), strict=True)
        new = [new_message(message, value, message_id=f"{FORMAT}:{uuid7()}") for message, value in dumped]
        await self._conversation.append(new)

    async def clear(self) -> None:
        """Delete all messages softly; retention deletes them permanently.

        Raises:
            CommitOutcomeUnknown: The connection was lost before the server answered: call again.
        """
        await self._conversation.clear()
