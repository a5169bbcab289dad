"""Windows on a conversation: its last messages, those around a number, those that follow one."""

from __future__ import annotations

from itertools import takewhile
from typing import Any
from uuid import UUID

from sqlalchemy import Executable, Select, Subquery, bindparam, select, union_all
from sqlalchemy.orm import aliased

from src.database.base import check_id
from src.database.models import MessageHistory
from src.database.pagination import MAX_LIMIT
from src.database.repositories.message_rows import MessageRows
from src.database.statements import windows
from src.database.statements.tool_pairs import whole_pairs
from src.database.statements.windows import DEFAULT_LIMIT, check_number, window_limit

__all__ = ["MessageWindows"]


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
        limit = window_limit(limit, token_budget=token_budget)
        if before_seq is None and token_budget is None:
            newest_first = await self._all(
                MessageWindows._newest, refresh=True, **_window(conversation_id, limit=limit)
            )
            return whole_pairs(newest_first[::-1])
        messages_of_it = self._in(conversation_id)
        if before_seq is None:
            newest = windows.newest(messages_of_it, limit=limit)
        else:
            newest = windows.before(messages_of_it, seq=check_number("before_seq", before_seq), limit=limit)
        if token_budget is not None:
            budget = check_number("token_budget", token_budget)
            newest = windows.within_budget(newest, _entities, token_budget=budget)
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
        window = _window(conversation_id, seq=check_number("seq", seq))
        return (await self._all(MessageWindows._before, refresh=True, **window, limit=window_limit(limit)))[::-1]

    async def after(self, conversation_id: UUID, seq: int, *, limit: int = DEFAULT_LIMIT) -> list[MessageHistory]:
        """Return the first messages after a number; as `before` otherwise. To follow a conversation, use `tail`."""
        window = _window(conversation_id, seq=check_number("seq", seq))
        return await self._all(MessageWindows._after, refresh=True, **window, limit=window_limit(limit))

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
        of_conversation, anchor = self._in(conversation_id), check_number("seq", seq)
        earlier = windows.before(of_conversation, seq=anchor, limit=before)
        later = windows.after(of_conversation, seq=anchor, limit=after)
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

    def _newest(self) -> Select[Any]:
        return windows.newest(self._in(bindparam("conversation_id")))

    def _before(self) -> Select[Any]:
        return windows.before(self._in(bindparam("conversation_id")))

    def _after(self) -> Select[Any]:
        return windows.after(self._in(bindparam("conversation_id")))

    async def _has_from(self, conversation_id: UUID, seq: int) -> bool:
        """Return True if the conversation has a message with this number or a later one."""
        later = self._in(conversation_id).where(MessageHistory.seq >= seq).limit(1)
        return await self.session.scalar(later.with_only_columns(MessageHistory.seq)) is not None


def _window(conversation_id: UUID, **values: int) -> dict[str, Any]:
    check_id("conversation_id", conversation_id)
    return {"conversation_id": conversation_id, **values}


def _entities(counted: Subquery) -> list[Any]:
    return [aliased(MessageHistory, counted)]
