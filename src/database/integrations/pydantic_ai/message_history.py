"""The message history of a conversation, for services that pass `message_history=` to an agent."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import nullcontext
from hashlib import sha256
from typing import TYPE_CHECKING
from uuid import UUID

from src.database.base import check_id
from src.database.integrations.pydantic_ai.messages import FORMAT, dump, load, new_message
from src.database.json_values import json_text
from src.database.session import tenant_context
from src.database.statements import MAX_LIMIT, conversation_changes
from src.database.store import MessageRow, get_store

if TYPE_CHECKING:
    from contextlib import AbstractContextManager

    from pydantic_ai import ModelMessage


class StoredMessageHistory:
    """The messages of a conversation, in the form that `message_history=` takes.

    Messages that other SDKs or the service itself have stored are part of the history. Messages of concurrent runs are
    all stored, in the order of their commits; `StoredConversations` rejects the second one of two such runs.

    Args:
        session_id: The id of the conversation, unique within the tenant. The conversation is opened at the first use.
        user_id: The user, to whom a new conversation belongs.
        tenant_id: The tenant; by default that of the context.
        channel: The channel of a new conversation.
    """

    def __init__(
        self,
        session_id: str,
        user_id: UUID,
        *,
        tenant_id: UUID | None = None,
        channel: str = conversation_changes.SESSION_CHANNEL,
    ) -> None:
        conversation_changes.stored_session_id(session_id)
        check_id("user_id", user_id)
        self._session_id = session_id
        self._user_id = user_id
        self._tenant_id = tenant_id
        self._channel = channel

    async def load(self, *, limit: int | None = None) -> list[ModelMessage]:
        """Return the messages, the oldest first.

        Args:
            limit: Only the last messages, 1 to 1000. Tool calls stay with their results, as in `Store.recent`. By
                default all messages are returned.

        Raises:
            DuplicateKeyError: The session id belongs to a conversation of another user.
            ForeignKeyError: The tenant has no such user, or the user is deleted.
            ValueError: The limit is out of range.
        """
        with self._tenant():
            conversation_id = await self._open()
            if limit is not None:
                return load(await get_store().recent(conversation_id, limit=limit))
            return load(await _all(conversation_id))

    async def add(self, messages: Sequence[ModelMessage]) -> None:
        """Append messages, such as `result.new_messages()`. A message that is stored already is not stored again.

        Raises:
            CommitOutcomeUnknown: The connection was lost before the server answered: add the messages again.
            DuplicateKeyError: The session id belongs to a conversation of another user.
            ForeignKeyError: The tenant has no such user, or the user is deleted.
            ValueError: There are more than 1000 messages, or a message has a value that is not JSON.
        """
        with self._tenant():
            conversation_id = await self._open()
            new = [
                new_message(message, dumped, message_id=f"{FORMAT}:{conversation_id}:{_digest(dumped)}")
                for message, dumped in zip(messages, dump(messages), strict=True)
            ]
            await get_store().append_many(conversation_id, new)

    async def clear(self) -> None:
        """Delete all messages softly. A message that is added again does not return."""
        with self._tenant():
            await get_store().clear(await self._open())

    def _tenant(self) -> AbstractContextManager[object]:
        return nullcontext() if self._tenant_id is None else tenant_context(self._tenant_id)

    async def _open(self) -> UUID:
        conversation, _ = await get_store().open_conversation(self._session_id, self._user_id, channel=self._channel)
        return conversation.id


async def _all(conversation_id: UUID) -> list[MessageRow]:
    rows: list[MessageRow] = []
    cursor: str | None = None
    while True:
        page = await get_store().page(conversation_id, after=cursor, limit=MAX_LIMIT)
        rows += page.items
        if (cursor := page.next_cursor) is None:
            return rows


def _digest(dumped: object) -> str:
    """Return the digest of a message: its times distinguish it from another one with the same text."""
    return sha256(json_text(dumped, "message").encode()).hexdigest()
