"""Read stored messages of any format as text, tool calls and results, from which each SDK builds its own messages.

A conversation that began in one SDK, or in the service itself, continues in another one. Images, files and reasoning
are not in this form: only the SDK that has stored them reads them.
"""

from __future__ import annotations

import json
from collections import defaultdict, deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime
from typing import Any, Final, Protocol, TypeVar

from src.database.models import limits
from src.database.statements import HasTools, ToolCall, ToolResult, tools_of

FORMAT_KEY: Final = "format"
"""The key in a message's `extra` of the format of its parts: the name of the adapter's extra."""
BuiltT = TypeVar("BuiltT")
RowT = TypeVar("RowT", bound="StoredMessage")
_PREFERRED_IDS: Final = ("call_id", "tool_call_id", "tool_use_id", "toolCallId", "id")
_ARGUMENTS: Final = ("arguments", "args", "input")
_CONTENTS: Final = ("output", "content", "response", "result", "errorText", "value")
_WITHOUT_WORDS: Final = ("reasoning", "redacted_thinking", "thinking", "system-prompt")


class StoredMessage(HasTools, Protocol):
    """The attributes of a stored message that are read: of an entity or of a row."""

    @property
    def role(self) -> limits.Role:
        """The role of the author."""

    @property
    def message_id(self) -> str:
        """The idempotency key."""

    @property
    def content(self) -> str | None:
        """The text."""

    @property
    def model(self) -> str | None:
        """The name of the model."""

    @property
    def input_tokens(self) -> int | None:
        """The tokens of the prompt."""

    @property
    def output_tokens(self) -> int | None:
        """The tokens of the answer."""

    @property
    def created_at(self) -> datetime:
        """The time of the message."""

    @property
    def extra(self) -> Mapping[str, Any]:
        """The object with the format."""


@dataclass(frozen=True, slots=True)
class PlainCall:
    """A tool call.

    Args:
        call_id: The id of the call, which its result has too.
        name: The name of the tool.
        arguments: The arguments; a text if they are not a JSON object.
    """

    call_id: str
    name: str
    arguments: dict[str, Any] | str

    @property
    def arguments_text(self) -> str:
        """The arguments as JSON text."""
        return self.arguments if isinstance(self.arguments, str) else json.dumps(self.arguments, ensure_ascii=False)


@dataclass(frozen=True, slots=True)
class PlainResult:
    """The result of a tool call, as text."""

    call_id: str
    name: str
    content: str


@dataclass(frozen=True, slots=True)
class PlainMessage:
    """A message as text, tool calls and results.

    Args:
        row: The stored message.
        role: The role of the author.
        text: The text, without that of results.
        calls: The tool calls of an assistant's message.
        results: The results of tools.
    """

    row: StoredMessage
    role: limits.Role
    text: str | None
    calls: list[PlainCall] = field(default_factory=list)
    results: list[PlainResult] = field(default_factory=list)

    def join(self, other: PlainMessage) -> PlainMessage:
        """Return a message with the text and the calls of both, and the row of this one."""
        texts = [text for text in (self.text, other.text) if text]
        return replace(self, text="\n".join(texts) or None, calls=[*self.calls, *other.calls])


def convert(
    rows: Sequence[RowT],
    own_format: str,
    *,
    read: Callable[[RowT], Iterable[BuiltT]],
    build: Callable[[PlainMessage], Iterable[BuiltT]],
    join_answers: bool = False,
) -> Iterator[BuiltT]:
    """Yield the messages of an SDK for stored messages of any format.

    Args:
        rows: Consecutive messages of a conversation, the oldest first.
        own_format: The name of the SDK's format.
        read: Returns the messages of a stored message in this format.
        build: Returns the messages of a plain message, for the other formats.
        join_answers: Build one message for consecutive messages of the assistant: some providers require that one
            message has all parallel calls.
    """
    is_own = [row.extra.get(FORMAT_KEY) == own_format for row in rows]
    if all(is_own):  # the common case
        for row in rows:
            yield from read(row)
        return
    joined: PlainMessage | None = None
    for row, own, plain in zip(rows, is_own, plain_messages(rows), strict=True):
        if joined is not None and (own or plain.role != "assistant"):
            yield from build(joined)
            joined = None
        if own:
            yield from read(row)
        elif join_answers and plain.role == "assistant":
            joined = plain if joined is None else joined.join(plain)
        else:
            yield from build(plain)
    if joined is not None:
        yield from build(joined)


def unreadable(row: StoredMessage, kind: str, sdk: str, error: str) -> ValueError:
    """Return the error for a message in an SDK's own format that the SDK does not read, without its content.

    Args:
        row: The stored message.
        kind: The name of the SDK's object, with its article.
        sdk: The name of the SDK.
        error: The type of the validation error.
    """
    return ValueError(
        f"parts of message {row.message_id!r} must be {kind} of {sdk}, got one with the error {error!r}; "
        f"another release of {sdk} may have stored it: install that release"
    )


def stored_call_id(call_id: object) -> str | None:
    """Return the id of a tool call for the column `tool_call_id`, or None if the column cannot have it.

    A longer id is found in `parts`.
    """
    return call_id if isinstance(call_id, str) and len(call_id) <= limits.TOOL_CALL_ID.maximum else None


def plain_messages(rows: Iterable[StoredMessage]) -> Iterator[PlainMessage]:
    """Yield a plain message for each stored message of a conversation, in their order.

    A call without an id gets one. A result without an id gets that of the first call of its tool without a result.
    """
    names: dict[str, str] = {}
    waiting: defaultdict[str, deque[str]] = defaultdict(deque)
    for row in rows:
        calls: list[PlainCall] = []
        results: list[PlainResult] = []
        for number, item in enumerate(tools_of(row).items):
            call_id = _id(item)
            if isinstance(item, ToolCall):
                name = item.name or row.tool_name or ""
                if call_id is None:
                    call_id = f"{row.message_id}:{number}"
                    waiting[name].append(call_id)
                names[call_id] = name
                calls.append(PlainCall(call_id, name, _arguments(item.part)))
            else:
                if call_id is None:
                    queue = waiting[item.name or ""]
                    call_id = queue.popleft() if queue else f"{row.message_id}:{number}"
                name = item.name or row.tool_name or names.get(call_id, "")
                results.append(PlainResult(call_id, name, _result(item, row)))
        yield PlainMessage(row, row.role, None if row.role == "tool" else _text(row), calls, results)


def _id(item: ToolCall | ToolResult) -> str | None:
    ids = (item.part.get(name) for name in _PREFERRED_IDS)
    return next((one for one in ids if isinstance(one, str)), next(iter(item.ids), None))


def _arguments(part: Mapping[str, Any]) -> dict[str, Any] | str:
    function = part.get("function")
    objects = [part, function] if isinstance(function, dict) else [part]
    value: Any = next((one[name] for one in objects for name in _ARGUMENTS if one.get(name) is not None), {})
    if isinstance(value, str):
        try:
            parsed = json.loads(value or "{}")
        except ValueError:
            return value
        return parsed if isinstance(parsed, dict) else value
    return value if isinstance(value, dict) else json.dumps(value, ensure_ascii=False)


def _result(item: ToolResult, row: StoredMessage) -> str:
    """Return the text of a result. The parts of a tool's message with the id of the call are the value, or have it."""
    if item.part:
        return text_of_result(_value(item.part, ""))
    if row.content is not None:
        return row.content
    return "\n".join(_as_text(_value(part, part)) for part in row.parts or ())


def _value(part: Any, default: Any) -> Any:
    """Return the value of a result within its object, or the default."""
    if not isinstance(part, dict):
        return part
    data = part.get("data", part.get("kwargs"))
    objects = [part, data] if isinstance(data, dict) else [part]
    return next((one[name] for one in objects for name in _CONTENTS if one.get(name) is not None), default)


def text_of_result(value: Any) -> str:
    """Return the text of a tool's result. Gemini's results are objects: ADK puts another value under `result`."""
    is_wrapped = isinstance(value, dict) and value.keys() == {"result"}
    return _as_text(value["result"] if is_wrapped else value)


def _as_text(value: Any) -> str:
    """Return the text of a value: of text blocks their texts, of other values the JSON text."""
    if isinstance(value, str):
        return value
    blocks = value if isinstance(value, list) else [value]
    texts = [text for block in blocks if isinstance(block, dict) and isinstance(text := block.get("text"), str)]
    return "\n".join(texts) if texts and len(texts) == len(blocks) else json.dumps(value, ensure_ascii=False)


def _text(row: StoredMessage) -> str | None:
    """Return the text of a message: its column, or the texts of its parts."""
    if row.content is not None:
        return row.content
    return "\n".join(_words(row.parts or ())) or None


def _words(parts: Sequence[Any]) -> Iterator[str]:
    for part in parts:
        if isinstance(part, str):
            yield part
        elif isinstance(part, dict) and not _is_other(part):
            if isinstance(text := part.get("text"), str):
                yield text
            for name in ("content", "parts", "data", "kwargs"):
                inner = part.get(name)
                yield from _words(inner if isinstance(inner, list) else [inner])


def _is_other(part: Mapping[str, Any]) -> bool:
    """Return True for calls, results and reasoning, whose texts are not words of the author."""
    kind = str(part.get("type", part.get("part_kind", "")))
    is_thought = kind in _WITHOUT_WORDS or part.get("thought") is True  # the latter is Gemini's
    return is_thought or kind.startswith("data-") or any(part.get(name) for name in _PREFERRED_IDS[:-1])
