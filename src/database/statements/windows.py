"""Select messages: the live ones, and windows on a conversation. The selects serve a session's entities and any row."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Final

from sqlalchemy import (
    BigInteger,
    ColumnElement,
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
)

from src.database.models import Conversation, MessageHistory
from src.database.statements.pagination import MAX_LIMIT, check_limit

DEFAULT_LIMIT: Final = 50
MAX_SEQ: Final = 2**63 - 1
CHARACTERS_A_TOKEN: Final = 4

_SEQ: Final = bindparam("seq", type_=BigInteger())
_LIMIT: Final = bindparam("limit", type_=Integer())
_TOKEN_BUDGET: Final = bindparam("token_budget", type_=BigInteger())
_CHARACTERS: Final = func.coalesce(func.length(MessageHistory.content), 0) + func.coalesce(
    func.length(cast(MessageHistory.parts, Text)), 0
)
_TOKENS: Final = case(  # not coalesce(): what has its count is not unpacked to be measured
    (MessageHistory.token_count.is_not(None), MessageHistory.token_count),
    else_=func.div(_CHARACTERS + CHARACTERS_A_TOKEN - 1, CHARACTERS_A_TOKEN),
)


def of_conversation(columns: Sequence[Any], tenant_id: Any, conversation_id: Any) -> Select[Any]:
    """Return a select of a conversation's live messages; whether the conversation is live is checked once.

    Args:
        columns: The mapped class, or columns of it.
        tenant_id: The tenant's id, or the parameter that stands for it.
        conversation_id: The conversation's id, or the parameter that stands for it.
    """
    is_live = exists().where(
        Conversation.tenant_id == tenant_id, Conversation.id == conversation_id, Conversation.deleted_at.is_(None)
    )
    of_tenant = (MessageHistory.tenant_id == tenant_id, MessageHistory.conversation_id == conversation_id)
    return select(*columns).where(*of_tenant, MessageHistory.deleted_at.is_(None), is_live)


def among_many(columns: Sequence[Any], tenant_id: Any) -> Select[Any]:
    """Return a select of live messages of many conversations; the deleted conversations are read once."""
    deleted = select(Conversation.id).where(Conversation.tenant_id == tenant_id, Conversation.deleted_at.is_not(None))
    return select(*columns).where(
        MessageHistory.tenant_id == tenant_id,
        MessageHistory.deleted_at.is_(None),
        MessageHistory.conversation_id.not_in(deleted),
    )


def conversation_is_live(tenant_id: Any) -> ColumnElement[bool]:
    """Return the condition that a message's conversation is live, which is read by its key for each message.

    It is no join, for which the planner has to guess how many conversations are deleted: where many were of late, it
    would go through all of them for each message.
    """
    conversations = Conversation.__table__  # Core's: what the options say of the mapped class is not said of it
    # Its truth, and not the time: of a subquery IS NULL the planner takes hardly any row to be true.
    is_there = select(conversations.c.deleted_at.is_(None)).where(
        conversations.c.tenant_id == tenant_id, conversations.c.id == MessageHistory.conversation_id
    )
    return is_there.scalar_subquery()


def newest(messages: Select[Any], *, limit: Any = _LIMIT) -> Select[Any]:
    """Return the last messages of a conversation, the newest first."""
    return messages.order_by(MessageHistory.seq.desc()).limit(limit)


def before(messages: Select[Any], *, seq: Any = _SEQ, limit: Any = _LIMIT) -> Select[Any]:
    """Return the last messages of a conversation before a number, the newest first."""
    return newest(messages.where(MessageHistory.seq < seq), limit=limit)


def after(messages: Select[Any], *, seq: Any = _SEQ, limit: Any = _LIMIT) -> Select[Any]:
    """Return the first messages of a conversation after a number, the oldest first."""
    return messages.where(MessageHistory.seq > seq).order_by(MessageHistory.seq).limit(limit)


def within_budget(
    newest_first: Select[Any], columns: Callable[[Subquery], Sequence[Any]], *, token_budget: Any = _TOKEN_BUDGET
) -> Select[Any]:
    """Return the newest messages for as long as their tokens' sum is within the budget, the newest first.

    Args:
        newest_first: What `newest` or `before` returned.
        columns: Returns the mapped class, or columns, of the subquery.
        token_budget: The budget, or the parameter that stands for it.
    """
    # By rows: the server then stops with the limit, and does not first add the whole conversation up.
    spent = func.sum(_TOKENS, type_=BigInteger).over(order_by=MessageHistory.seq.desc(), rows=(None, 0))
    counted = newest_first.add_columns(spent.label("spent")).subquery()
    return select(*columns(counted)).where(counted.c.spent <= token_budget).order_by(counted.c.seq.desc())


def window_limit(limit: int | None, *, token_budget: int | None = None) -> int:
    """Return how many messages a window has at most: by default 50, with a budget of tokens 1000.

    Raises:
        ValueError: The limit is not from 1 to 1000.
    """
    if limit is None:
        return DEFAULT_LIMIT if token_budget is None else MAX_LIMIT
    check_limit(limit)
    return limit


def check_number(name: str, value: int) -> int:
    """Return a position or a budget.

    Raises:
        ValueError: It is negative, or not whole.
    """
    if type(value) is not int or not 0 <= value <= MAX_SEQ:
        raise ValueError(f"{name} must be from 0 to 2^63 - 1, and whole, got {value!r}")
    return value
