"""Keep tool calls and their results together in a window: model providers reject one without the other.

The `parts` are those of several SDKs and providers, so that a call is recognized by the names and types that they use.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any, Final, NamedTuple, Protocol, TypeVar

_CALL_ID_NAMES: Final = ("call_id", "tool_call_id", "toolCallId")
_ID_NAMES: Final = ("id", *_CALL_ID_NAMES)
"""The names of a call's id in an object of an assistant's `parts`, in the formats of all providers."""
_RESULT_ID_NAMES: Final = ("tool_use_id", *_CALL_ID_NAMES)
_CALL_KINDS: Final = frozenset({"custom_tool_call", "function", "function_call", "tool_call", "tool_use", "toolcall"})
"""The types of objects whose `id` is that of a call; messages, reasoning and tools of the provider have an `id` too."""
_ARGUMENT_NAMES: Final = ("args", "arguments", "function", "input")
_RESULT_WORDS: Final = ("output", "response", "result", "retry", "return")


class _Message(Protocol):
    """The attributes of a message that concern tools: of an entity, or of a row."""

    @property
    def role(self) -> str: ...
    @property
    def parts(self) -> list[Any] | None: ...
    @property
    def tool_call_id(self) -> str | None: ...


MessageT = TypeVar("MessageT", bound=_Message)


class _Tools(NamedTuple):
    """The calls and results of a message."""

    ids: frozenset[str] = frozenset()
    """Every id by which a result may refer to the message."""
    calls: tuple[frozenset[str], ...] = ()
    """The calls that need a result in a later message, each as the ids by which the result may refer to it."""
    answered: frozenset[str] = frozenset()
    """The ids of the calls whose results the message has."""
    is_result: bool = False
    """True if the message consists of results only."""


def whole_pairs(messages: Sequence[MessageT], *, is_followed: bool = False) -> list[MessageT]:
    """Return the messages without incomplete pairs of calls and results.

    Left out are a result without its call, and a call with a missing result, together with its other results, if a
    message other than a result follows. A call that is followed by results only is still running, and is kept.

    Args:
        messages: Consecutive messages of a conversation, the oldest first.
        is_followed: True if the conversation has messages after these, so that no call of these is still running.
    """
    if not any(map(_concerns_tools, messages)):
        return list(messages)  # the common case: no tools
    tools = [_tools_of(message) for message in messages]
    left_out = _unanswered(tools, is_followed=is_followed)
    called: set[str] = set()
    whole: list[MessageT] = []
    has_call = False
    for position, (message, own) in enumerate(zip(messages, tools, strict=True)):
        if own.is_result:
            # A result without an id belongs to the message before it.
            is_whole = own.answered <= called if own.answered and not _is_unnamed(message) else has_call
        elif is_whole := position not in left_out:
            called |= own.ids
        else:
            called -= own.ids  # results that follow belong to this call, not to an earlier one with the same id
        if not own.is_result:
            has_call = is_whole
        if is_whole:
            whole.append(message)
    return whole


def _unanswered(tools: Sequence[_Tools], *, is_followed: bool) -> set[int]:
    """Return the positions of messages that have a call without a result and are followed by more than results."""
    waiting: dict[int, list[frozenset[str]]] = {}
    last = -1  # the position of the last message that is not a result
    for position, own in enumerate(tools):
        for call_id in own.answered:
            _settle(waiting, call_id)
        if own.is_result:
            if not own.answered and last in waiting:  # results without an id are in the order of the calls
                _remove(waiting, last, waiting[last][0])
            continue
        last = position
        if own.calls:
            waiting[position] = list(own.calls)
    return {position for position in waiting if is_followed or position < last}


def _settle(waiting: dict[int, list[frozenset[str]]], call_id: str) -> None:
    """Remove the last call with this id; ids repeat, because some models number the calls of each answer from 0."""
    for position in reversed(waiting):
        for call in waiting[position]:
            if call_id in call:
                _remove(waiting, position, call)
                return


def _remove(waiting: dict[int, list[frozenset[str]]], position: int, call: frozenset[str]) -> None:
    waiting[position].remove(call)
    if not waiting[position]:
        del waiting[position]


def _concerns_tools(message: _Message) -> bool:
    return message.role == "tool" or message.parts is not None or message.tool_call_id is not None


def _is_unnamed(message: _Message) -> bool:
    return message.role == "tool" and not message.tool_call_id


def _tools_of(message: _Message) -> _Tools:
    if message.role == "tool" and message.tool_call_id:
        return _Tools(answered=frozenset({message.tool_call_id}), is_result=True)
    parts: list[Any] = message.parts or []
    objects = [part for part in parts if isinstance(part, dict)]
    if message.role == "assistant":
        return _of_assistant(objects, message.tool_call_id)
    results = [_ids(part, _RESULT_ID_NAMES) for part in objects]
    # Anthropic's format has the results in a message of the user.
    is_result = message.role == "tool" or (message.role == "user" and len(parts) == len(objects) > 0 and all(results))
    return _Tools(answered=frozenset().union(*results), is_result=is_result)


def _of_assistant(objects: Sequence[dict[Any, Any]], own_id: str | None) -> _Tools:
    answered = frozenset[str]().union(*(_ids(part, _RESULT_ID_NAMES) for part in objects if _is_result(part)))
    calls = [_call_ids(part) for part in objects if not _is_result(part)]
    if own_id and not any(own_id in call for call in calls):
        calls.append(frozenset({own_id}))
    return _Tools(
        ids=frozenset[str]().union(*(_ids(part, _ID_NAMES) for part in objects), {own_id} if own_id else ()),
        calls=tuple(call for call in calls if call and not call & answered),
        answered=answered,
    )


def _call_ids(part: dict[Any, Any]) -> frozenset[str]:
    """Return the ids of a call, or an empty set if the object is not a call."""
    if not _ids(part, _CALL_ID_NAMES):
        kind = _kind(part)
        if not (any(name in part for name in _ARGUMENT_NAMES) if kind is None else kind in _CALL_KINDS):
            return frozenset()
    return _ids(part, _ID_NAMES)


def _is_result(part: dict[Any, Any]) -> bool:
    """Return True if an object is a result, or a call that contains its result."""
    if any(part.get(name) is not None for name in ("errorText", "output", "result", "tool_use_id")):
        return True
    kind, state = _kind(part) or "", part.get("state")
    return any(word in kind for word in _RESULT_WORDS) or (isinstance(state, str) and state.startswith("output"))


def _kind(part: dict[Any, Any]) -> str | None:
    kind = part.get("type", part.get("part_kind"))
    return kind.lower().replace("-", "_") if isinstance(kind, str) else None


def _ids(part: dict[Any, Any], names: Iterable[str]) -> frozenset[str]:
    return frozenset(one for name in names if isinstance(one := part.get(name), str))
