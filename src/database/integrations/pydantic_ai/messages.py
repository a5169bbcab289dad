"""The messages of pydantic-ai as stored messages: one ModelMessage is one message, and comes back equal."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, Final

from pydantic import ValidationError
from pydantic_ai import ModelMessage, ModelMessagesTypeAdapter, ModelRequest, ModelResponse
from pydantic_ai.messages import SystemPromptPart, TextContent, TextPart, ToolCallPart, ToolReturnPart, UserPromptPart
from pydantic_ai.usage import RequestUsage

from src.database.integrations.plain_messages import (
    FORMAT_KEY,
    PlainMessage,
    StoredMessage,
    convert,
    stored_call_id,
    unreadable,
)
from src.database.models import limits
from src.database.statements import NewMessage

FORMAT: Final = "pydantic-ai"


def dump(messages: Sequence[ModelMessage]) -> list[Any]:
    """Return the JSON values of messages."""
    dumped: list[Any] = ModelMessagesTypeAdapter.dump_python(list(messages), mode="json")
    return dumped


def load(rows: Sequence[StoredMessage]) -> list[ModelMessage]:
    """Return the messages of stored messages, one for each. Messages in other formats are converted.

    Raises:
        ValueError: The parts of a message are no message of the installed release of pydantic-ai.
    """
    read = convert(rows, FORMAT, read=lambda row: (row.parts or [None])[:1], build=lambda plain: [_built(plain)])
    try:
        return ModelMessagesTypeAdapter.validate_python(list(read))
    except ValidationError as error:
        [first, *_] = error.errors(include_input=False, include_url=False, include_context=False)
    # Outside of the except block: the error of pydantic has the content of the message.
    raise unreadable(rows[int(first["loc"][0])], "a message", "pydantic-ai", first["type"])


def _built(plain: PlainMessage) -> ModelMessage:
    row = plain.row
    if plain.role == "assistant":
        return ModelResponse(
            parts=[
                *([TextPart(plain.text)] if plain.text else ()),
                *(ToolCallPart(call.name, call.arguments, tool_call_id=call.call_id) for call in plain.calls),
            ],
            usage=RequestUsage(input_tokens=row.input_tokens or 0, output_tokens=row.output_tokens or 0),
            model_name=row.model,
            timestamp=row.created_at,
        )
    of_text = UserPromptPart if plain.role == "user" else SystemPromptPart
    results = (
        ToolReturnPart(one.name, one.content, tool_call_id=one.call_id, timestamp=row.created_at)
        for one in plain.results
    )
    words = [of_text(plain.text, timestamp=row.created_at)] if plain.text else ()
    return ModelRequest(parts=[*results, *words], timestamp=row.created_at)


def new_message(message: ModelMessage, dumped: Any, *, message_id: str, **extra: Any) -> NewMessage:
    """Return a message as it is stored.

    Args:
        message: The message.
        dumped: Its JSON value.
        message_id: The idempotency key.
        extra: Further keys of `extra`.
    """
    role = _role(message)
    tools = [part for part in message.parts if isinstance(part, ToolCallPart | ToolReturnPart)]
    tool = tools[0] if len(tools) == 1 else None
    usage = message.usage if isinstance(message, ModelResponse) else None
    return NewMessage(
        message_id=message_id,
        role=role,
        content="\n".join(_texts(message, role)) or None,
        parts=[dumped],
        tool_call_id=stored_call_id(tool.tool_call_id) if tool else None,
        tool_name=tool.tool_name if tool else None,
        model=message.model_name if isinstance(message, ModelResponse) else None,
        input_tokens=usage.input_tokens or None if usage else None,
        output_tokens=usage.output_tokens or None if usage else None,
        extra={FORMAT_KEY: FORMAT, **extra},
    )


def _role(message: ModelMessage) -> limits.Role:
    if isinstance(message, ModelResponse):
        return "assistant"
    if all(isinstance(part, SystemPromptPart) for part in message.parts) and message.parts:
        return "system"
    return "tool" if all(isinstance(part, ToolReturnPart) for part in message.parts) and message.parts else "user"


def _texts(message: ModelMessage, role: limits.Role) -> Iterator[str]:
    """Yield the texts of the author: of the user, of the model, of a system's message, or the results of a tool."""
    for part in message.parts:
        if isinstance(part, UserPromptPart) and not isinstance(part.content, str):
            yield from (str(getattr(one, "content", one)) for one in part.content if isinstance(one, str | TextContent))
        elif isinstance(part, TextPart | UserPromptPart) or (role == "system" and isinstance(part, SystemPromptPart)):
            yield str(part.content)
        elif role == "tool" and isinstance(part, ToolReturnPart):
            yield part.model_response_str()
