"""Messages, from outside."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

from src.database.limits import MESSAGE_ID, TOKENS, TOOL_CALL_ID, Role, State
from src.database.schemas.base import NOT_GIVEN, CreateInput, UpdateInput
from src.database.schemas.fields import CLEAN, Instant, JsonArray, JsonObject, RowId, Text, number, sized
from src.database.statements.messages import NewMessage

__all__ = ["MessageCreate", "MessageUpdate"]

MessageId = Annotated[str, sized(MESSAGE_ID), CLEAN]
ToolCallId = Annotated[str, sized(TOOL_CALL_ID), CLEAN]
Tokens = Annotated[int, number(TOKENS)]


class MessageCreate(CreateInput):
    """A message to append: `message_id` is its idempotency key, `<channel>:<account>:<chat>:<id>`."""

    message_id: MessageId
    role: Role
    content: Text | None = None
    parts: JsonArray | None = None
    attachments: JsonArray = Field(default_factory=list)
    parent_id: RowId | None = None
    tool_call_id: ToolCallId | None = None
    tool_name: Text | None = None
    model: Text | None = None
    input_tokens: Tokens | None = None
    output_tokens: Tokens | None = None
    token_count: Tokens | None = None
    state: State = "complete"
    created_at: Instant | None = None
    edited_at: Instant | None = None
    extra: JsonObject = Field(default_factory=dict)

    def to_new_message(self) -> NewMessage:
        """Return it as `append` wants it."""
        return NewMessage(**self.to_values())


class MessageUpdate(UpdateInput):
    """What changes of a message. What was said goes through `edit`, which keeps what was there before.

    `extra` is not among it: the versions before are kept there.
    """

    parts: JsonArray | None = NOT_GIVEN
    attachments: JsonArray = NOT_GIVEN
    model: Text | None = NOT_GIVEN
    input_tokens: Tokens | None = NOT_GIVEN
    output_tokens: Tokens | None = NOT_GIVEN
    token_count: Tokens | None = NOT_GIVEN
