"""The events of ADK as stored messages: one Event is one message, and comes back equal."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from hashlib import sha256
from typing import Any, Final
from uuid import UUID

from google.adk.events import Event
from google.adk.sessions.state import State
from google.genai.types import Content, FunctionCall, FunctionResponse, Part
from pydantic import ValidationError

from src.database.integrations.plain_messages import (
    FORMAT_KEY,
    PlainMessage,
    StoredMessage,
    convert,
    stored_call_id,
    text_of_result,
    unreadable,
)
from src.database.models import limits
from src.database.statements import NewMessage

FORMAT: Final = "google-adk"
_MOST_TOKENS: Final = limits.TOKENS.maximum


def dump(event: Event) -> dict[str, Any]:
    """Return the JSON value of an event, without the temporary state."""
    delta = event.actions.state_delta
    kept = {key: delta[key] for key in delta if not key.startswith(State.TEMP_PREFIX)}
    stored = event.model_copy(update={"actions": event.actions.model_copy(update={"state_delta": kept})})
    dumped: dict[str, Any] = stored.model_dump(mode="json", exclude_none=True, by_alias=True)
    return dumped


def load(rows: Sequence[StoredMessage], app_name: str) -> list[Event]:
    """Return the events of stored messages. Messages in other formats are converted.

    Args:
        rows: Consecutive messages of a conversation, the oldest first.
        app_name: The author of the assistant's messages in other formats.

    Raises:
        ValueError: The parts of a message are no event of the installed release of ADK.
    """

    def build(plain: PlainMessage) -> Iterator[Event]:
        if content := _content(plain):
            row = plain.row
            author = app_name if plain.role in {"assistant", "tool"} else "user"
            yield Event(
                id=row.message_id,
                invocation_id=row.message_id,
                author=author,
                content=content,
                timestamp=row.created_at.timestamp(),
            )

    return list(convert(rows, FORMAT, read=lambda row: [_event(row)], build=build, join_answers=True))


def new_message(event: Event, dumped: dict[str, Any], conversation_id: UUID) -> NewMessage:
    """Return an event as it is stored.

    Args:
        event: The event.
        dumped: Its JSON value.
        conversation_id: The conversation, within which the id of the event is unique.
    """
    parts = (event.content and event.content.parts) or []
    results = [part.function_response for part in parts if part.function_response]
    role: limits.Role = "user" if event.author == "user" else "assistant"
    if parts and len(results) == len(parts):
        role = "tool"
    tools = results if role == "tool" else [part.function_call for part in parts if part.function_call]
    call_id = stored_call_id(tools[0].id) if len(tools) == 1 else None
    usage = event.usage_metadata
    return NewMessage(
        message_id=_key(event, conversation_id),
        role=role,
        content=_text(event, parts, results if role == "tool" else ()),
        parts=[dumped],
        tool_call_id=call_id,
        tool_name=None if call_id is None else tools[0].name,
        model=event.model_version,
        input_tokens=_tokens(usage.prompt_token_count if usage else None),
        output_tokens=_tokens(usage.candidates_token_count if usage else None),
        extra={FORMAT_KEY: FORMAT},
    )


def is_of(row: StoredMessage, event: Event, conversation_id: UUID) -> bool:
    """Return True if a message is this event, or the event was built of the message."""
    return row.message_id in {_key(event, conversation_id), event.id}


def _tokens(number: int | None) -> int | None:
    """Return a number of tokens for its column, or None if the column cannot have it. The event has it in any case."""
    return number if number is not None and 0 <= number <= _MOST_TOKENS else None


def _key(event: Event, conversation_id: UUID) -> str:
    """Return the idempotency key of an event's message."""
    event_id = event.id if len(event.id) <= limits.LONGEST_IDENTITY else sha256(event.id.encode()).hexdigest()
    return f"{FORMAT}:{conversation_id}:{event_id}"


def _text(event: Event, parts: Sequence[Part], results: Sequence[FunctionResponse]) -> str | None:
    """Return the words of the author, the results of tools, or what was spoken."""
    texts = [text_of_result(one.response) for one in results]
    texts += [part.text for part in parts if part.text and not part.thought]
    texts += [one.text for one in (event.input_transcription, event.output_transcription) if one and one.text]
    return "\n".join(texts) or None


def _event(row: StoredMessage) -> Event:
    try:
        [dumped] = row.parts or [None]
        return Event.model_validate(dumped)
    except ValidationError as error:
        [first, *_] = error.errors(include_input=False, include_url=False, include_context=False)
    # Outside of the except block: the error of pydantic has the content of the message.
    raise unreadable(row, "an event", "ADK", first["type"])


def _content(plain: PlainMessage) -> Content | None:
    """Return the content of a message in another format, or None if nothing of it can be converted."""
    parts = [
        Part(function_response=FunctionResponse(id=one.call_id, name=one.name, response={"result": one.content}))
        for one in plain.results
    ]
    if plain.text:
        parts.append(Part(text=plain.text))
    for call in plain.calls:
        arguments = call.arguments if isinstance(call.arguments, dict) else {"arguments": call.arguments}
        parts.append(Part(function_call=FunctionCall(id=call.call_id, name=call.name, args=arguments)))
    return Content(role="model" if plain.role == "assistant" else "user", parts=parts) if parts else None
