"""The session of the OpenAI Agents SDK: its items are messages of a conversation."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, Final, cast, get_args
from uuid import UUID

from agents import TResponseInputItem
from agents.memory import SessionABC, SessionSettings

from src.database.base import uuid7
from src.database.integrations.plain_messages import FORMAT_KEY, PlainMessage, convert, stored_call_id
from src.database.integrations.stored_conversation import StoredConversation
from src.database.models import limits
from src.database.statements import NewMessage
from src.database.store import MessageRow

__all__ = ["StoredSession"]

FORMAT: Final = "openai-agents"
_ROLES: Final = get_args(limits.Role)
_TEXTS: Final = ("text", "refusal")


class StoredSession(SessionABC):
    """A session of the SDK, over the store: `Runner.run(agent, "Hello", session=StoredSession("chat-7", user.id))`.

    Each item is one message. The conversation is opened at the first call under the session id. Calls of several
    processes on one session id are safe: `add_items` stores all of its items one after the other, or none, and
    `pop_item` returns each item once. `EncryptedSession` and `OpenAIResponsesCompactionSession` can wrap a session.

    Args:
        session_id: The id of the session, unique within the tenant.
        user_id: The user whose conversation this is.
        tenant_id: The tenant; by default the current tenant of each call.
        session_settings: The default `limit` of `get_items`.

    Raises:
        TypeError: An id has the wrong type.
        ValueError: The session id is empty, or an id is not a UUID.
    """

    def __init__(
        self,
        session_id: str,
        user_id: UUID,
        *,
        tenant_id: UUID | None = None,
        session_settings: SessionSettings | None = None,
    ) -> None:
        self._conversation = StoredConversation(session_id, user_id, tenant_id=tenant_id)
        self.session_id = session_id
        self.session_settings = session_settings or SessionSettings()

    async def get_items(self, limit: int | None = None) -> list[TResponseInputItem]:
        """Return exactly the last items, the oldest first.

        Args:
            limit: The largest number of items; by default that of `session_settings`, and without one all items.

        Raises:
            ValueError: The limit is negative.
        """
        if limit is None and self.session_settings is not None:
            limit = self.session_settings.limit
        return list(_items(await self._conversation.last(limit)))

    async def add_items(self, items: list[TResponseInputItem]) -> None:
        """Append items: all of them, or none. After a lost connection they are sent again, and not stored twice.

        Raises:
            CommitOutcomeUnknown: The server cannot be reached again, and whether the items are stored is not known.
            ValueError: An item is not a dict of JSON values.
        """
        await self._conversation.append([_message(item) for item in items])

    async def pop_item(self) -> TResponseInputItem | None:
        """Remove the last item and return it, or None if the session is empty.

        Raises:
            CommitOutcomeUnknown: The connection was lost before the server answered: read the items again.
        """
        while rows := await self._conversation.pop():
            for item in _items(rows):
                return item
        return None

    async def clear_session(self) -> None:
        """Delete all items softly; retention deletes them permanently.

        Raises:
            CommitOutcomeUnknown: The connection was lost before the server answered: call again.
        """
        await self._conversation.clear()


def _message(item: Any) -> NewMessage:
    if not isinstance(item, dict):
        raise ValueError(f"items must be dicts, as `to_input_list` returns them, got {type(item).__name__}")  # noqa: TRY004 - bad input
    role, call_id, name = _role(item), stored_call_id(item.get("call_id")), item.get("name")
    return NewMessage(
        message_id=f"{FORMAT}:{uuid7()}",
        role=role,
        content=_content(item, role),
        parts=[item],
        tool_call_id=call_id,
        tool_name=name if call_id is not None and isinstance(name, str) else None,
        extra={FORMAT_KEY: FORMAT},
    )


def _role(item: dict[str, Any]) -> limits.Role:
    """Return the role of an item. Items without one are of the model, except for the results of tools."""
    role, kind = item.get("role"), item.get("type")
    if role in _ROLES:
        return cast("limits.Role", role)
    return "tool" if isinstance(kind, str) and kind.endswith("_output") else "assistant"


def _content(item: dict[str, Any], role: limits.Role) -> str | None:
    """Return the text of a message or of the result of a tool, or None if there is no text."""
    value = item.get("content") if "role" in item else item.get("output") if role == "tool" else None
    if isinstance(value, str):
        return value
    parts = [part for part in value if isinstance(part, dict)] if isinstance(value, list) else []
    texts = [text for part in parts for name in _TEXTS if isinstance(text := part.get(name), str)]
    return "\n".join(texts) if texts else None


def _items(rows: Sequence[MessageRow]) -> Iterator[TResponseInputItem]:
    """Yield the items of messages; those of messages in other formats are built."""
    return convert(rows, FORMAT, read=lambda row: row.parts or (), build=_built)


def _built(plain: PlainMessage) -> Iterator[TResponseInputItem]:
    for result in plain.results:
        yield {"type": "function_call_output", "call_id": result.call_id, "output": result.content}
    if plain.text:
        yield cast("TResponseInputItem", {"role": plain.role, "content": plain.text})
    for call in plain.calls:
        yield {
            "type": "function_call", "call_id": call.call_id, "name": call.name, "arguments": call.arguments_text,
        }  # fmt: skip
