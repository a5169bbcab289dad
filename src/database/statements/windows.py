"""Select live messages and windows of a conversation.

The selects take the columns, and the tenant and the other values as parameters or values: repositories select entities,
the store selects columns.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from datetime import datetime
from functools import cache
from typing import Any, Final

from sqlalchemy import (
    BigInteger,
    ColumnElement,
    CompoundSelect,
    Integer,
    Select,
    Subquery,
    Text,
    bindparam,
    case,
    cast,
    exists,
    func,
    select,
    union_all,
)

from src.database.models import Conversation, MessageHistory
from src.database.statements.pagination import MAX_LIMIT, check_limit

DEFAULT_LIMIT: Final = 50
MAX_SEQ: Final = 2**63 - 1
CHARACTERS_PER_TOKEN: Final = 4

_SEQ: Final = bindparam("seq", type_=BigInteger())
_LIMIT: Final = bindparam("limit", type_=Integer())
_TOKEN_BUDGET: Final = bindparam("token_budget", type_=BigInteger())
_CHARACTERS: Final = func.coalesce(func.length(MessageHistory.content), 0) + func.coalesce(
    func.length(cast(MessageHistory.parts, Text)), 0
)
# Not coalesce(): the content of a message that has its count is not detoasted to be measured.
_TOKENS: Final = case(
    (MessageHistory.token_count.is_not(None), MessageHistory.token_count),
    else_=func.div(_CHARACTERS + CHARACTERS_PER_TOKEN - 1, CHARACTERS_PER_TOKEN),
)


def of_conversation(
    columns: Sequence[Any], tenant_id: Any, conversation_id: Any, *, is_live: bool = False
) -> Select[Any]:
    """Return a select of a conversation's live messages; the conversation is read once, not for each message.

    Args:
        columns: The mapped class, or columns of it.
        tenant_id: The tenant's id, or a parameter.
        conversation_id: The conversation's id, or a parameter.
        is_live: True if the caller's select has the condition that the conversation is live.
    """
    of_tenant = (MessageHistory.tenant_id == tenant_id, MessageHistory.conversation_id == conversation_id)
    messages = select(*columns).where(*of_tenant, MessageHistory.deleted_at.is_(None))
    if is_live:
        return messages
    return messages.where(
        exists().where(
            Conversation.tenant_id == tenant_id, Conversation.id == conversation_id, Conversation.deleted_at.is_(None)
        )
    )


def last_active() -> ColumnElement[datetime]:
    """Return the time of a conversation's last message, or of its creation, as in ix_conversations_idle."""
    return func.coalesce(Conversation.last_message_at, Conversation.created_at)


def among_many(columns: Sequence[Any], tenant_id: Any) -> Select[Any]:
    """Return a select of a tenant's live messages; the deleted conversations are read once."""
    deleted = select(Conversation.id).where(Conversation.tenant_id == tenant_id, Conversation.deleted_at.is_not(None))
    return select(*columns).where(
        MessageHistory.tenant_id == tenant_id,
        MessageHistory.deleted_at.is_(None),
        MessageHistory.conversation_id.not_in(deleted),
    )


def conversation_is_live(tenant_id: Any) -> ColumnElement[bool]:
    """Return the condition that a message's conversation is live: a subquery that reads it by key for each message.

    For a join, the planner estimates the number of deleted conversations. After many deletions the statistics are out
    of date, and it chooses a nested loop over all deleted conversations for each message.
    """
    conversations = Conversation.__table__  # not the class: `with_loader_criteria` options would add their conditions
    # The subquery returns the truth value. For `(subquery) IS NULL` the planner estimates hardly any row.
    is_live = select(conversations.c.deleted_at.is_(None)).where(
        conversations.c.tenant_id == tenant_id, conversations.c.id == MessageHistory.conversation_id
    )
    return is_live.scalar_subquery()


def newest(messages: Select[Any], *, limit: Any = _LIMIT) -> Select[Any]:
    """Return the last messages of a conversation, the newest first."""
    return messages.order_by(MessageHistory.seq.desc()).limit(limit)


def before(messages: Select[Any], *, seq: Any = _SEQ, limit: Any = _LIMIT) -> Select[Any]:
    """Return the last messages of a conversation before a `seq`, the newest first."""
    return newest(messages.where(MessageHistory.seq < seq), limit=limit)


def after(messages: Select[Any], *, seq: Any = _SEQ, limit: Any = _LIMIT) -> Select[Any]:
    """Return the first messages of a conversation after a `seq`, the oldest first."""
    return messages.where(MessageHistory.seq > seq).order_by(MessageHistory.seq).limit(limit)


Window = Callable[[Select[Any]], Select[Any]]
"""`newest`, `before` or `after`."""


@cache
def of_one(window: Window) -> Callable[[Sequence[Any], Any], Select[Any]]:
    """Return the function that builds a window of the conversation with the parameter `conversation_id`."""
    return lambda columns, tenant_id: window(of_conversation(columns, tenant_id, bindparam("conversation_id")))


def around(messages: Select[Any], seq: int, *, before: int, after: int) -> CompoundSelect[Any]:
    """Return the message of a conversation at a `seq`, if it exists, with messages before and after it.

    Raises:
        ValueError: A number of messages is not from 0 to 1000, or `seq` is negative.
    """
    for name, count in (("before", before), ("after", after)):
        if type(count) is not int or not 0 <= count <= MAX_LIMIT:
            raise ValueError(f"{name} must be from 0 to {MAX_LIMIT}, got {count!r}")
    anchor = check_number("seq", seq)
    earlier = newest(messages.where(MessageHistory.seq < anchor), limit=before)
    later = messages.where(MessageHistory.seq > anchor).order_by(MessageHistory.seq).limit(after)
    return union_all(earlier, messages.where(MessageHistory.seq == anchor), later).order_by("seq")


def within_budget(
    newest_first: Select[Any], columns: Callable[[Subquery], Sequence[Any]], *, token_budget: Any = _TOKEN_BUDGET
) -> Select[Any]:
    """Return the newest messages whose tokens add up to no more than the budget, the newest first.

    Args:
        newest_first: A select of `newest` or `before`.
        columns: Returns the mapped class, or columns, of the subquery.
        token_budget: The budget in tokens, or a parameter.
    """
    # With a frame of ROWS the server stops at the limit, and does not sum the whole conversation first.
    spent = func.sum(_TOKENS, type_=BigInteger).over(order_by=MessageHistory.seq.desc(), rows=(None, 0))
    counted = newest_first.add_columns(spent.label("spent")).subquery()
    return select(*columns(counted)).where(counted.c.spent <= token_budget).order_by(counted.c.seq.desc())


def window_limit(limit: int | None, *, token_budget: int | None = None) -> int:
    """Return the largest number of messages of a window: by default 50, or 1000 with a token budget.

    Raises:
        ValueError: The limit is not from 1 to 1000.
    """
    if limit is None:
        return DEFAULT_LIMIT if token_budget is None else MAX_LIMIT
    check_limit(limit)
    return limit


def check_number(name: str, value: int) -> int:
    """Return a `seq` or a token budget after checking it.

    Raises:
        ValueError: The number is negative, too large, or not an integer.
    """
    if type(value) is not int or not 0 <= value <= MAX_SEQ:
        raise ValueError(f"{name} must be an integer from 0 to 2^63 - 1, got {value!r}")
    return value
