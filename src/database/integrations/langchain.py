"""The chat message history of LangChain: its messages are messages of a conversation."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Final, NoReturn, cast
from uuid import UUID

from langchain_core.chat_history import BaseChatMessageHistory
from langchain_core.messages import (
    AIMessage,
    BaseMessage,
    ChatMessage,
    FunctionMessage,
    HumanMessage,
    InvalidToolCall,
    SystemMessage,
    ToolCall,
    ToolMessage,
    message_to_dict,
    messages_from_dict,
)

from src.database.base import uuid7
from src.database.integrations.plain_messages import FORMAT_KEY, PlainMessage, convert, stored_call_id
from src.database.integrations.stored_conversation import StoredConversation
from src.database.models import limits
from src.database.statements import NewMessage
from src.database.store import MessageRow

__all__ = ["StoredChatMessageHistory"]

FORMAT: Final = "langchain"
_ROLES: Final[tuple[tuple[type[BaseMessage], limits.Role], ...]] = (
    (HumanMessage, "user"),
    (AIMessage, "assistant"),
    (SystemMessage, "system"),
    (ToolMessage, "tool"),
    (FunctionMessage, "tool"),
)


class StoredChatMessageHistory(BaseChatMessageHistory):
    """A history of LangChain, over the store: `RunnableWithMessageHistory(chain, lambda session_id: history)`.

    The history is asynchronous: use `ainvoke` and `astream`. The synchronous methods raise RuntimeError, because the
    connections of the store belong to an event loop. The conversation is opened at the first call under the session id.
    Calls of several processes on one session id are safe.

    Args:
        session_id: The id of the session, unique within the tenant.
        user_id: The user whose conversation this is.
        tenant_id: The tenant; by default the current tenant of each call.
        limit: The largest number of messages that `aget_messages` returns; by default all messages.

    Raises:
        TypeError: An id has the wrong type.
        ValueError: The session id is empty, or an id is not a UUID.
    """

    def __init__(
        self, session_id: str, user_id: UUID, *, tenant_id: UUID | None = None, limit: int | None = None
    ) -> None:
        self._conversation = StoredConversation(session_id, user_id, tenant_id=tenant_id)
        self._limit = limit

    async def aget_messages(self) -> list[BaseMessage]:
        """Return the last messages, the oldest first.

        Raises:
            ValueError: The limit is negative.
        """
        return list(_messages(await self._conversation.last(self._limit)))

    async def aadd_messages(self, messages: Sequence[BaseMessage]) -> None:
        """Append messages: all of them, or none. After a lost connection they are sent again, and not stored twice.

        Raises:
            CommitOutcomeUnknown: The server cannot be reached again, and whether the messages are stored is not known.
            ValueError: A message has a type that LangChain cannot read back, or a value that is not JSON.
        """
        await self._conversation.append([_stored(message) for message in messages])

    async def aclear(self) -> None:
        """Delete all messages softly; retention deletes them permanently.

        Raises:
            CommitOutcomeUnknown: The connection was lost before the server answered: call again.
        """
        await self._conversation.clear()

    @property
    def messages(self) -> NoReturn:  # type: ignore[override] # the base class declares a writable attribute
        """Raise RuntimeError: use `aget_messages`."""
        raise _synchronous("messages", "await history.aget_messages()")

    def add_messages(self, messages: Sequence[BaseMessage]) -> NoReturn:
        """Raise RuntimeError: use `aadd_messages`."""
        raise _synchronous("add_messages", "await history.aadd_messages(messages)")

    def clear(self) -> NoReturn:
        """Raise RuntimeError: use `aclear`."""
        raise _synchronous("clear", "await history.aclear()")

    def __str__(self) -> str:
        """Return the class and the session id, without messages."""
        return f"<{type(self).__name__} {self._conversation.session_id!r}>"


def _synchronous(name: str, remedy: str) -> RuntimeError:
    return RuntimeError(
        f"{name} is synchronous, and this history is asynchronous: use `{remedy}`, `ainvoke`, `astream`"
    )


def _stored(message: BaseMessage) -> NewMessage:
    dump = message_to_dict(message)
    messages_from_dict([dump])  # raises for a type that it does not know, before the message is stored
    text = str(message.text)
    call_id, name = _call(message)
    return NewMessage(
        message_id=f"{FORMAT}:{uuid7()}",
        role=_role(message),
        content=text if text or message.content == "" else None,
        parts=[dump],
        tool_call_id=call_id,
        tool_name=name,
        extra={FORMAT_KEY: FORMAT},
    )


def _role(message: BaseMessage) -> limits.Role:
    """Return the role of a message; a chat message with a role of the service's own is the user's."""
    if isinstance(message, ChatMessage):
        return cast("limits.Role", message.role) if message.role in limits.ROLE.words else "user"
    return next((role for kind, role in _ROLES if isinstance(message, kind)), "system")


def _call(message: BaseMessage) -> tuple[str | None, str | None]:
    """Return the id and the name of the call that a message is the result of, or that is its only one."""
    call_id: str | None
    if isinstance(message, ToolMessage):
        call_id, name = message.tool_call_id, message.name
    elif isinstance(message, AIMessage) and len(message.tool_calls) == 1:
        call_id, name = message.tool_calls[0]["id"], message.tool_calls[0]["name"]
    else:
        return None, message.name if isinstance(message, FunctionMessage) else None
    return (None, None) if stored_call_id(call_id) is None else (call_id, name)


def _messages(rows: Sequence[MessageRow]) -> Iterator[BaseMessage]:
    """Yield the messages of rows; those of rows in other formats are built."""
    return convert(rows, FORMAT, read=lambda row: messages_from_dict(row.parts or []), build=_built, join_answers=True)


def _built(plain: PlainMessage) -> Iterator[BaseMessage]:
    for result in plain.results:
        yield ToolMessage(result.content, tool_call_id=result.call_id, name=result.name or None)
    if plain.role == "assistant":
        calls = [
            ToolCall(type="tool_call", id=call.call_id, name=call.name, args=call.arguments)
            for call in plain.calls
            if isinstance(call.arguments, dict)
        ]
        invalid = [
            InvalidToolCall(type="invalid_tool_call", id=call.call_id, name=call.name, args=call.arguments, error=None)
            for call in plain.calls
            if isinstance(call.arguments, str)
        ]
        if plain.text or plain.calls:
            yield AIMessage(plain.text or "", tool_calls=calls, invalid_tool_calls=invalid)
    elif plain.text:
        yield HumanMessage(plain.text) if plain.role == "user" else SystemMessage(plain.text)
