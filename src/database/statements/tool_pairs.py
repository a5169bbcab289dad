"""Keep tool calls and their results together in a window: model providers reject one without the other."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Sequence
from typing import Literal, TypeVar

from src.database.statements.tool_formats import HasTools, ToolCall, ToolResult, Tools, tools_of

Unanswered = Literal["drop", "keep"]
MessageT = TypeVar("MessageT", bound=HasTools)


def whole_pairs(
    messages: Sequence[MessageT],
    *,
    following: Sequence[HasTools] = (),
    is_followed: bool = False,
    unanswered: Unanswered = "drop",
) -> list[MessageT]:
    """Return the messages without incomplete pairs of calls and results.

    A message with a result whose call is missing is left out. So is a message with a call whose result is missing, if a
    message other than a result follows; a call that is followed by results only is still running, and is kept. The
    messages with the other halves of the pairs of a left-out message are left out too, and so on.

    Args:
        messages: Consecutive messages of a conversation, the oldest first.
        following: The messages directly after these, which may have results of their calls. They are not returned.
        is_followed: True if the conversation has messages after these and `following`: no call is still running.
        unanswered: "keep" keeps the calls without a result, for a caller that adds the results itself.

    Raises:
        ValueError: `unanswered` is neither "drop" nor "keep".
    """
    if unanswered not in ("drop", "keep"):
        raise ValueError(f'unanswered must be "drop" or "keep", got {unanswered!r}')
    if not any(map(_concerns_tools, messages)):
        return list(messages)  # the common case: no tools
    consecutive: list[HasTools] = [*messages, *following]
    pairs = _Pairs([tools_of(message) for message in consecutive])
    incomplete = set(pairs.orphans)
    if unanswered == "drop":
        incomplete |= {position for position in pairs.waiting if is_followed or position < pairs.last}
    left_out = pairs.connected(incomplete, before=len(messages))
    return [message for position, message in enumerate(messages) if position not in left_out]


class _Pairs:
    """The pairs of calls and results of consecutive messages, by the positions of the messages."""

    def __init__(self, messages: Sequence[Tools]) -> None:
        self.waiting: dict[int, list[ToolCall]] = {}
        """The calls without a result."""
        self.orphans: set[int] = set()
        """The messages with a result without a call."""
        self.last = -1
        """The last message that does not consist of results."""
        self._messages = messages
        self._mentioned: dict[str, int] = {}
        self._links: defaultdict[int, set[int]] = defaultdict(set)
        for position, message in enumerate(messages):
            self._add(position, message)

    def connected(self, positions: set[int], *, before: int) -> set[int]:
        """Return the positions, and those of the messages with the other halves of their pairs, and so on.

        Args:
            positions: The positions to begin with.
            before: The first position that is not returned. A pair is not followed through it or through a later one.
        """
        found: set[int] = set()
        waiting = list(positions)
        while waiting:
            position = waiting.pop()
            if position < before and position not in found:
                found.add(position)
                waiting.extend(self._links[position])
        return found

    def _add(self, position: int, message: Tools) -> None:
        for item in message.items:
            if isinstance(item, ToolCall):
                self.waiting.setdefault(position, []).append(item)
            elif (called_at := self._answer(item)) is None:
                self.orphans.add(position)
            else:
                self._links[called_at].add(position)
                self._links[position].add(called_at)
        self._mentioned.update(dict.fromkeys(message.mentioned, position))
        if not message.is_result:
            self.last = position

    def _answer(self, result: ToolResult) -> int | None:
        """Remove the call that a result answers, and return its position; return None if there is no call."""
        if (answered := next(self._calls(result), None)) is not None:
            position, call = answered
            self.waiting[position].remove(call)
            if not self.waiting[position]:
                del self.waiting[position]
            return position
        if result.ids:
            return max((self._mentioned[one] for one in result.ids if one in self._mentioned), default=None)
        # A format that is not known may have calls in the assistant's message before the result.
        return self.last if self.last >= 0 and self._messages[self.last].is_assistant else None

    def _calls(self, result: ToolResult) -> Iterator[tuple[int, ToolCall]]:
        """Yield the calls that a result may answer, the best first: by id, else by name, else by order.

        The last message comes first: some models number the calls of each answer from 0, so that ids repeat.
        """
        calls = [(position, call) for position in reversed(self.waiting) for call in self.waiting[position]]
        if result.ids:
            yield from (one for one in calls if one[1].ids & result.ids)
            calls = [one for one in calls if not one[1].ids]
        if result.name is not None:
            yield from (one for one in calls if one[1].name == result.name)
        yield from (one for one in calls if one[0] == self.last)


def _concerns_tools(message: HasTools) -> bool:
    return message.role == "tool" or message.parts is not None or message.tool_call_id is not None
