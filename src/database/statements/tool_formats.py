"""Find the tool calls and results of a message in the formats of SDKs and providers.

`parts` has the objects of an SDK's message, or the whole message as one object. docs/tool-calls.md lists the formats.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final, NamedTuple, Protocol

from src.database.base import clean_text

_CALL_ID_NAMES: Final = ("call_id", "tool_call_id", "toolCallId")
_ID_NAMES: Final = ("id", *_CALL_ID_NAMES)
_RESULT_ID_NAMES: Final = ("tool_use_id", *_CALL_ID_NAMES)
_TOOL_NAMES: Final = ("name", "tool_name", "toolName")
_CALL_KINDS: Final = frozenset({"custom_tool_call", "function", "function_call", "tool_call", "tool_use", "toolcall"})
"""The types of objects whose `id` is that of a call; messages, reasoning and tools of the provider have an `id` too."""
_ARGUMENT_NAMES: Final = ("args", "arguments", "function", "input")
_RESULT_ENDINGS: Final = ("output", "response", "result", "retry_prompt", "return")
_RESULT_NAMES: Final = ("errorText", "output", "result")
_OF_PROVIDER: Final = ("builtin_", "mcp_", "native_", "server_")
"""The beginnings of types of calls that the provider answers itself, in the same message."""
_ROLES: Final = {
    "ai": "assistant",
    "assistant": "assistant",
    "model": "assistant",
    "function": "tool",
    "tool": "tool",
    "human": "user",
    "user": "user",
}
"""The role of an SDK's message within `parts`, by its `role` or by LangChain's `type`."""
_CONTAINERS: Final = ("content", "data", "invalid_tool_calls", "kwargs", "parts", "tool_calls")
"""The names of further objects in an SDK's message. Arguments and results are values of the service: an id that occurs
in one of them is not that of a call."""
_NESTED_CALLS: Final = ("functionCall", "function_call")  # Gemini, and chat.completions before `tool_calls`
_NESTED_RESULTS: Final = ("functionResponse", "function_response")


class HasTools(Protocol):
    """The attributes of a message that concern tools: of an entity, a row or a new message."""

    @property
    def role(self) -> str:
        """The role of the author."""

    @property
    def parts(self) -> Sequence[Any] | None:
        """The objects of the message, in the format of an SDK."""

    @property
    def tool_call_id(self) -> str | None:
        """The id of the call; of a result, or of an assistant's message that is one call."""

    @property
    def tool_name(self) -> str | None:
        """The name of the tool."""


class ToolCall(NamedTuple):
    """A call that needs a result.

    Args:
        ids: Every id by which the result may refer to the call; empty in formats without ids.
        name: The name of the tool, if the call has it.
        part: The object of `parts` that is the call; empty if the columns of the message are the call.
    """

    ids: frozenset[str]
    name: str | None
    part: Mapping[Any, Any] = {}


class ToolResult(NamedTuple):
    """The result of a call.

    Args:
        ids: The ids of the call; empty in formats without ids.
        name: The name of the tool, if the result has it.
        part: The object of `parts` that is the result; empty if the columns of the message are the result.
    """

    ids: frozenset[str]
    name: str | None
    part: Mapping[Any, Any] = {}


@dataclass(slots=True)
class Tools:
    """The calls and results of a message.

    Args:
        is_assistant: The message is the assistant's.
        items: The calls and results, in their order.
        mentioned: The ids of all objects of the assistant's message: a format that is not known may have calls among
            them.
        has_words: The message has something other than calls and results.
    """

    is_assistant: bool
    items: list[ToolCall | ToolResult] = field(default_factory=list)
    mentioned: set[str] = field(default_factory=set)
    has_words: bool = False

    @property
    def is_result(self) -> bool:
        """True if the message consists of results only."""
        return bool(self.items) and not self.is_assistant and not self.has_words


def tools_of(message: HasTools) -> Tools:
    """Return the calls and results of a message."""
    tools = Tools(message.role == "assistant")
    own_id = frozenset({message.tool_call_id} if message.tool_call_id else ())
    if message.role == "tool" and own_id:  # the parts are the value of the result
        tools.items.append(ToolResult(own_id, message.tool_name))
        return tools
    for part in message.parts or ():
        _read(part, message.role, tools)
    if message.role == "tool":
        tools.has_words = False
        tools.items = tools.items or [ToolResult(own_id, message.tool_name)]
    elif tools.is_assistant and own_id and not any(own_id & item.ids for item in tools.items):
        tools.items.append(ToolCall(own_id, message.tool_name))
    return tools


def _read(part: Any, role: str, tools: Tools) -> None:
    """Add the calls and results of an object of `parts`, and of the objects in it."""
    if not isinstance(part, dict):
        tools.has_words = True
        return
    kind = _kind(part)
    role = _role(part, kind, role)
    if role == "assistant":
        tools.mentioned |= _ids(part, _ID_NAMES)
    item = _of_assistant(part, kind) if role == "assistant" else _of_others(part, kind)
    if item is None:
        children = list(_children(part, kind))
        tools.has_words |= not children
        for child in children:
            _read(child, role, tools)
    elif not any(isinstance(item, ToolCall) and item.ids & known.ids for known in tools.items):
        tools.items.append(item)  # LangChain's messages have a call of Anthropic's in `content` and in `tool_calls`


def _of_assistant(part: dict[Any, Any], kind: str | None) -> ToolCall | ToolResult | None:
    """Return the call or the result that an object of the assistant is; None if the object is neither."""
    if nested := _first_object(part, _NESTED_CALLS):
        return ToolCall(_ids(nested, _ID_NAMES), _name(nested), nested)
    state = part.get("state")
    if kind is not None and (kind.startswith(_OF_PROVIDER) or kind.endswith("_tool_result")):
        return None
    if isinstance(state, str) and state.startswith("output"):  # AI SDK: the call has its result
        return None
    result_ids = _ids(part, _RESULT_ID_NAMES)
    if kind is not None and kind.endswith(_RESULT_ENDINGS) and result_ids:
        return ToolResult(result_ids, _name(part), part)
    if any(part.get(name) is not None for name in _RESULT_NAMES):
        return None
    ids = _call_ids(part, kind)
    return ToolCall(ids, _name(part), part) if ids else None


def _of_others(part: dict[Any, Any], kind: str | None) -> ToolResult | None:
    """Return the result that an object of a user or a tool is; None if the object is no result."""
    if nested := _first_object(part, _NESTED_RESULTS):
        return ToolResult(_ids(nested, _ID_NAMES), _name(nested), nested)
    if kind == "retry_prompt" and _name(part) is None:  # pydantic-ai asks for another answer, not for another call
        return None
    ids = _ids(part, _RESULT_ID_NAMES)
    is_message_of_tool = part.get("role") in ("function", "tool") and _name(part) is not None
    return ToolResult(ids, _name(part), part) if ids or is_message_of_tool else None


def _call_ids(part: dict[Any, Any], kind: str | None) -> frozenset[str]:
    """Return the ids of a call, or an empty set if the object is not a call."""
    is_call = any(name in part for name in _ARGUMENT_NAMES) if kind is None else kind in _CALL_KINDS
    return _ids(part, _ID_NAMES) if is_call or _ids(part, _CALL_ID_NAMES) else frozenset()


def _children(part: dict[Any, Any], kind: str | None) -> Iterator[Any]:
    if kind is not None and kind.startswith("data_"):  # AI SDK: `data` is a value of the service
        return
    for name in _CONTAINERS:
        value = part.get(name)
        if isinstance(value, dict):
            yield value
        elif isinstance(value, list):
            yield from value


def _role(part: dict[Any, Any], kind: str | None, role: str) -> str:
    # The type of a call in chat.completions is "function": the role of a result before `tool_calls`.
    own = part.get("role", None if kind in _CALL_KINDS else kind)
    return _ROLES.get(own, role) if isinstance(own, str) else role


def _kind(part: dict[Any, Any]) -> str | None:
    kind = part.get("type", part.get("part_kind"))
    return kind.lower().replace("-", "_") if isinstance(kind, str) else None


def _name(part: dict[Any, Any]) -> str | None:
    """Return the name of the tool that a call or a result has."""
    function = part.get("function")
    objects = [part, function] if isinstance(function, dict) else [part]
    names = (one.get(name) for one in objects for name in _TOOL_NAMES)
    return next((name for name in names if isinstance(name, str)), None)


def _first_object(part: dict[Any, Any], names: Iterable[str]) -> dict[Any, Any] | None:
    return next((value for name in names if isinstance(value := part.get(name), dict)), None)


def _ids(part: dict[Any, Any], names: Iterable[str]) -> frozenset[str]:
    # Cleaned, as the column `tool_call_id` is.
    return frozenset(clean_text(one) for name in names if isinstance(one := part.get(name), str))
