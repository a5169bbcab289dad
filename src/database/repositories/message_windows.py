"""Windows on a conversation: its last messages, those around a number, those that follow one."""

from __future__ import annotations

from itertools import takewhile
from typing import Any, Final
from uuid import UUID

from sqlalchemy import BigInteger, Executable, Select, Text, bindparam, case, cast, func, select, union_all
from sqlalchemy.orm import aliased

from src.database.base import check_id
from src.database.models import MessageHistory
from src.database.pagination import MAX_LIMIT, check_limit
from src.database.repositories.base import Condition
from src.database.repositories.message_rows import MessageRows
from src.database.repositories.tool_pairs import whole_pairs

__all__ = ["TOKENS", "MessageWindows", "checked"]

DEFAULT_LIMIT: Final = 50
CHARACTERS_A_TOKEN: Final = 4

_BIGGEST: Final = 2**63 - 1
_CHARACTERS: Final = func.coalesce(func.length(MessageHistory.content), 0) + func.coalesce(
    func.length(cast(MessageHistory.parts, Text)), 0
)
TOKENS: Final = case(  # not coalesce(): what has its count is not unpacked to be measured
    (MessageHistory.token_count.is_not(None), MessageHistory.token_count),
    else_=func.div(_CHARACTERS + CHARACTERS_A_TOKEN - 1, CHARACTERS_A_TOKEN),
)


class MessageWindows(MessageRows):
    """What is read of a conversation's messages: as lists, in the order of `seq`, the oldest first.

    A `seq` is a position and need not exist: a list goes on where its first or last message says, however deep that
    is. The rows are read anew, also where the session has them already.
    """

    async def recent(
        self,
        conversation_id: UUID,
        *,
        limit: int | None = None,
        token_budget: int | None = None,
        before_seq: int | None = None,
    ) -> list[MessageHistory]:
        """Return the last messages of a conversation, as a model is given them: tools' calls and results kept together.

        A result (role `tool`) whose call was cut off is left out. So is a call without all of its results, with
        the results that it has, where a later message exists: it was never answered, or its result comes after the
        window, and a model's provider rejects either. A call that only results follow is still running, and is kept.
        To read every message, use `before` or `after`.

        A call is an assistant's message whose `parts` hold an object with the result's `tool_call_id` as its `id`,
        `call_id`, `tool_call_id` or `toolCallId`, or whose own `tool_call_id` is that. A result without a
        `tool_call_id` belongs to the message before it. A user's message whose `parts` are all results
        (`tool_use_id`) is one.

        Args:
            conversation_id: Which conversation.
            limit: At most so many, 1 to 1000; by default 50, or with a budget 1000.
            token_budget: At most so many tokens in all: none where the last message alone has more. A message
                without `token_count` counts one token for every four characters, begun ones too, of its content and
                its parts.
            before_seq: What was recent then: only messages with a lower `seq`.

        Raises:
            ValueError: The limit is not from 1 to 1000, or a number is negative.
        """
        limit = _checked_limit(limit, DEFAULT_LIMIT if token_budget is None else MAX_LIMIT)
        if before_seq is None and token_budget is None:
            newest_first = await self._all(
                MessageWindows._newest, refresh=True, **_window(conversation_id, limit=limit)
            )
            return whole_pairs(newest_first[::-1])
        newest = self._in(conversation_id).order_by(MessageHistory.seq.desc()).limit(limit)
        if before_seq is not None:
            newest = newest.where(MessageHistory.seq < checked("before_seq", before_seq))
        if token_budget is not None:
            newest = _within(newest, checked("token_budget", token_budget))
        messages = (await self._read(newest))[::-1]
        whole = whole_pairs(messages)
        if before_seq is None or len(closed := whole_pairs(messages, is_followed=True)) == len(whole):
            return whole
        return closed if await self._has_from(conversation_id, before_seq) else whole

    async def before(self, conversation_id: UUID, seq: int, *, limit: int = DEFAULT_LIMIT) -> list[MessageHistory]:
        """Return the last messages before a number; a page cuts where the limit says, between call and result too.

        Raises:
            ValueError: The limit is not from 1 to 1000, or the number is negative.
        """
        window = _window(conversation_id, seq=checked("seq", seq))
        return (await self._all(MessageWindows._before, refresh=True, **window, limit=_checked_limit(limit)))[::-1]

    async def after(self, conversation_id: UUID, seq: int, *, limit: int = DEFAULT_LIMIT) -> list[MessageHistory]:
        """Return the first messages after a number; as `before` otherwise. To follow a conversation, use `tail`."""
        window = _window(conversation_id, seq=checked("seq", seq))
        return await self._all(MessageWindows._after, refresh=True, **window, limit=_checked_limit(limit))

    async def around(
        self, conversation_id: UUID, seq: int, *, before: int = DEFAULT_LIMIT // 2, after: int = DEFAULT_LIMIT // 2
    ) -> list[MessageHistory]:
        """Return the message of a number, where it is there, with at most so many before and so many after it.

        Raises:
            ValueError: `before` or `after` is not from 0 to 1000, or the number is negative.
        """
        for name, count in (("before", before), ("after", after)):
            if type(count) is not int or not 0 <= count <= MAX_LIMIT:
                raise ValueError(f"{name} must be from 0 to {MAX_LIMIT}, got {count!r}")
        of_conversation, anchor = self._in(conversation_id), checked("seq", seq)
        earlier = of_conversation.where(MessageHistory.seq < anchor).order_by(MessageHistory.seq.desc()).limit(before)
        later = of_conversation.where(MessageHistory.seq > anchor).order_by(MessageHistory.seq).limit(after)
        both = union_all(earlier, of_conversation.where(MessageHistory.seq == anchor), later).order_by("seq")
        return await self._read(select(MessageHistory).from_statement(both))

    async def tail(self, conversation_id: UUID, after_seq: int, *, limit: int = 100) -> list[MessageHistory]:
        """Return the next messages after the last one that a follower has seen; begin with 0.

        No message is skipped: a lower `seq` is never committed after a higher one, and the list ends before the first
        message that is `incomplete`. So a follower gets each message once, when it is whole; the rest waits for
        `mark_complete`, `mark_interrupted` or, where the writer has died, for `interrupt_stale`. What is edited or
        deleted after it was seen is not told, and neither is a deleted one with a lower `seq` than the last that was
        seen, when it is restored. Read in READ COMMITTED, the default.

        Raises:
            ValueError: The limit is not from 1 to 1000, or the number is negative.
        """
        messages = await self.after(conversation_id, after_seq, limit=limit)
        return list(takewhile(lambda message: message.state != "incomplete", messages))

    async def _read(self, statement: Executable) -> list[MessageHistory]:
        return await self._fetch(statement, refresh=True)

    def _newest(self, *where: Condition) -> Select[Any]:
        of_conversation = self._in(bindparam("conversation_id")).where(*where)
        return of_conversation.order_by(MessageHistory.seq.desc()).limit(bindparam("limit"))

    def _before(self) -> Select[Any]:
        return self._newest(MessageHistory.seq < bindparam("seq"))

    def _after(self) -> Select[Any]:
        later = self._in(bindparam("conversation_id")).where(MessageHistory.seq > bindparam("seq"))
        return later.order_by(MessageHistory.seq).limit(bindparam("limit"))

    async def _has_from(self, conversation_id: UUID, seq: int) -> bool:
        """Return True if the conversation has a message with this number or a later one."""
        later = self._in(conversation_id).where(MessageHistory.seq >= seq).limit(1)
        return await self.session.scalar(later.with_only_columns(MessageHistory.seq)) is not None


def _window(conversation_id: UUID, **values: int) -> dict[str, Any]:
    check_id("conversation_id", conversation_id)
    return {"conversation_id": conversation_id, **values}


def _within(newest: Select[Any], token_budget: int) -> Select[Any]:
    """Keep the newest messages for as long as their tokens' sum is within the budget."""
    # By rows: the server then stops with the limit, and does not first add the whole conversation up.
    spent = func.sum(TOKENS, type_=BigInteger).over(order_by=MessageHistory.seq.desc(), rows=(None, 0))
    counted = newest.add_columns(spent.label("spent")).subquery()
    message = aliased(MessageHistory, counted)
    return select(message).where(counted.c.spent <= token_budget).order_by(message.seq.desc())


def _checked_limit(limit: int | None, default: int = DEFAULT_LIMIT) -> int:
    if limit is None:
        return default
    check_limit(limit)
    return limit


def checked(name: str, value: int) -> int:
    """Return a position or a budget.

    Raises:
        ValueError: It is negative, or not whole.
    """
    if type(value) is not int or not 0 <= value <= _BIGGEST:
        raise ValueError(f"{name} must be from 0 to 2^63 - 1, and whole, got {value!r}")
    return value
