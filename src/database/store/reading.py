"""Messages are read: a conversation's last ones, by number or by tokens, page by page; and all of a person's."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from contextlib import aclosing
from typing import Any, Final
from uuid import UUID

from sqlalchemy import BigInteger, Integer, Select, bindparam, func, select

from src.database.models import Conversation, MessageHistory
from src.database.pagination import MAX_LIMIT, InvalidCursorError, Page, check_limit, decode_cursor, encode_cursor
from src.database.repositories.message_windows import DEFAULT_LIMIT, TOKENS, checked
from src.database.repositories.tool_pairs import whole_pairs
from src.database.store.calls import Calls
from src.database.store.rows import MessageRow, columns_of
from src.database.store.statement import Statement

__all__ = ["StoreReading"]

PAGE_LIMIT: Final = 100
_LAST: Final = 2**63 - 1
_LIMIT: Final = bindparam("limit", type_=Integer())


class StoreReading(Calls):
    """What is read of messages."""

    async def recent(
        self, conversation_id: UUID, *, limit: int | None = None, token_budget: int | None = None
    ) -> list[MessageRow]:
        """Return the last messages, the oldest first, tools' calls and results kept together, unanswered ones left out.

        See `MessageHistoryRepository.recent`.

        Raises:
            ValueError: The limit is not from 1 to 1000, or the budget is negative.
        """
        if token_budget is None:
            rows = await self._before(conversation_id, _LAST, DEFAULT_LIMIT if limit is None else limit)
        else:
            check_limit(limit := MAX_LIMIT if limit is None else limit)
            budget = checked("token_budget", token_budget)
            rows = (await self._read(_WITHIN_BUDGET, conversation_id, limit, budget))[::-1]
        return whole_pairs(rows)

    async def page(
        self, conversation_id: UUID, *, after: str | None = None, limit: int = PAGE_LIMIT
    ) -> Page[MessageRow]:
        """Return one page of a conversation's messages, in their order, from a cursor on.

        Raises:
            InvalidCursorError: The cursor is not one of this conversation's.
            ValueError: The limit is not from 1 to 1000.
        """
        check_limit(limit)
        scope = f"store:{self._tenant()}:{conversation_id}"
        seq = 0 if after is None else _position(after, scope)
        rows = await self._read(_AFTER, conversation_id, seq, limit + 1)
        if len(rows) <= limit:
            return Page(rows, None)
        del rows[limit:]
        return Page(rows, encode_cursor([rows[-1].seq], scope=scope))

    async def stream_messages(self, user_id: UUID) -> AsyncGenerator[MessageRow, None]:
        """Go through all messages of a user in the order of their time, of one state, a thousand in memory at a time.

        It keeps a connection until it ends: `contextlib.aclosing` ends it early.
        """
        async with aclosing(self._stream(_OF_USER, user_id)) as batches:
            async for rows in batches:
                for row in rows:
                    yield row

    async def _before(self, conversation_id: UUID, seq: int, limit: int) -> list[MessageRow]:
        check_limit(limit)
        return (await self._read(_BEFORE, conversation_id, seq, limit))[::-1]


def _position(cursor: str, scope: str) -> int:
    values = decode_cursor(cursor, scope=scope)
    if len(values) != 1 or type(values[0]) is not int or not 0 <= values[0] <= _LAST:
        raise InvalidCursorError("the cursor cannot be read; begin again without one")
    return values[0]


def _of_conversation() -> Select[Any]:
    is_there = select(Conversation.id).where(
        Conversation.tenant_id == bindparam("tenant_id"),
        Conversation.id == bindparam("conversation_id"),
        Conversation.deleted_at.is_(None),
    )
    return select(*columns_of(MessageRow)).where(
        MessageHistory.tenant_id == bindparam("tenant_id"),
        MessageHistory.conversation_id == bindparam("conversation_id"),
        MessageHistory.deleted_at.is_(None),
        is_there.exists(),
    )


def _window(*, later: bool) -> Statement[MessageRow]:
    seq = MessageHistory.seq
    position = bindparam("seq", type_=BigInteger())
    rows = _of_conversation().where(seq > position if later else seq < position)
    ordered = rows.order_by(seq.asc() if later else seq.desc()).limit(_LIMIT)
    return Statement(ordered, ("tenant_id", "conversation_id", "seq", "limit"), row=MessageRow)


def _within_budget() -> Statement[MessageRow]:
    """The newest for as long as their tokens' sum is within the budget; by rows, so that the limit ends it."""
    spent = func.sum(TOKENS, type_=BigInteger).over(order_by=MessageHistory.seq.desc(), rows=(None, 0))
    newest = _of_conversation().order_by(MessageHistory.seq.desc()).limit(_LIMIT)
    counted = newest.add_columns(spent.label("spent")).subquery()
    columns = [counted.c[column.name] for column in columns_of(MessageRow)]
    within = select(*columns).where(counted.c.spent <= bindparam("token_budget", type_=BigInteger()))
    parameters = ("tenant_id", "conversation_id", "limit", "token_budget")
    return Statement(within.order_by(counted.c.seq.desc()), parameters, row=MessageRow)


def _of_user() -> Statement[MessageRow]:
    deleted = select(Conversation.id).where(
        Conversation.tenant_id == bindparam("tenant_id"), Conversation.deleted_at.is_not(None)
    )
    rows = select(*columns_of(MessageRow)).where(
        MessageHistory.tenant_id == bindparam("tenant_id"),
        MessageHistory.user_id == bindparam("user_id"),
        MessageHistory.deleted_at.is_(None),
        MessageHistory.conversation_id.not_in(deleted),
    )
    return Statement(rows.order_by(MessageHistory.created_at), ("tenant_id", "user_id"), row=MessageRow)


_AFTER: Final = _window(later=True)
_BEFORE: Final = _window(later=False)
_WITHIN_BUDGET: Final = _within_budget()
_OF_USER: Final = _of_user()
