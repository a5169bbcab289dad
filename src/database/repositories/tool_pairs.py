"""A tool's call and its results: which message answers which, and a window in which none stands alone."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from operator import attrgetter
from typing import Any, Final, Protocol, TypeVar

__all__ = ["open_calls", "whole_pairs"]

_role: Final = attrgetter("role")
_ID_NAMES: Final = ("id", "call_id", "tool_call_id", "toolCallId")
"""What the providers' formats name a call's id, in an object that stands in `parts`."""


class _Message(Protocol):
    """What a message says of tools; the mapped one, or a row of it."""

    @property
    def role(self) -> str: ...
    @property
    def parts(self) -> list[Any] | None: ...
    @property
    def tool_call_id(self) -> str | None: ...


MessageT = TypeVar("MessageT", bound=_Message)


def open_calls(messages: Sequence[_Message]) -> set[str]:
    """Return the ids of the calls that nothing in these messages, the oldest first, answers."""
    waiting: set[str] = set()
    for message in messages:
        if message.role == "tool":
            waiting.discard(message.tool_call_id or "")
        else:
            waiting |= _call_ids(message)
    return waiting


def whole_pairs(messages: Sequence[MessageT], *, answered_later: Collection[str] = ()) -> list[MessageT]:
    """Leave out what has lost its other half: a result without its call, a call that is answered after these messages.

    Args:
        messages: A part of a conversation without holes, the oldest first.
        answered_later: Which of the `open_calls` have a result that comes after it.
    """
    if not answered_later and "tool" not in map(_role, messages):
        return list(messages)  # as a rule
    cut_short = _last_with(messages, answered_later)
    called: set[str] = set()
    whole: list[MessageT] = []
    for message in messages:
        if message.role == "tool":
            # One without an id belongs to what stands before it.
            if message.tool_call_id in called if message.tool_call_id else whole:
                whole.append(message)
        elif message in cut_short:
            called -= _call_ids(message)  # an id may have been in use before
        else:
            called |= _call_ids(message)
            whole.append(message)
    return whole


def _last_with(messages: Sequence[MessageT], call_ids: Collection[str]) -> list[MessageT]:
    """Find the call of each id; where several have one id, it is the last that waits."""
    last = {call_id: message for message in messages for call_id in _call_ids(message).intersection(call_ids)}
    return list(last.values())


def _call_ids(message: _Message) -> set[str]:
    if message.role != "assistant":
        return set()
    parts: list[Any] = message.parts or []
    named = [part.get(name) for part in parts if isinstance(part, dict) for name in _ID_NAMES]
    return {one for one in (*named, message.tool_call_id) if isinstance(one, str)}
