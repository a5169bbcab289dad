"""Select a user's conversations by their last activity, and messages by time and by words, in pages."""

from __future__ import annotations

import re
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from functools import partial
from typing import Any, Final, Generic, NamedTuple, TypeVar
from uuid import UUID

from sqlalchemy import Integer, Select, Text, Uuid, bindparam, cast, func, select, true, tuple_
from sqlalchemy.dialects.postgresql import REGCONFIG

from src.database.base import LAST_INSTANT, UtcDateTime, check_aware, check_id, clean_text
from src.database.errors import DatabaseError
from src.database.models import Conversation, MessageHistory, limits
from src.database.statements.pagination import Page, TimeOrder
from src.database.statements.windows import conversation_is_live, last_active, newest, of_conversation

RowT = TypeVar("RowT")

MAX_QUERY: Final = 1000
"""The largest number of characters of a search query."""
SEARCHED_CHARACTERS: Final = 100_000
"""The number of characters of a message that are searched: PostgreSQL rejects a tsvector of more than 1 MB."""

_FIRST_ID: Final = UUID(int=0)
_LAST_ID: Final = UUID(int=2**128 - 1)
_POSITION: Final = (bindparam("at", type_=UtcDateTime()), bindparam("row_id", type_=Uuid()))
_PLACE: Final = (MessageHistory.created_at, MessageHistory.id)
_LIMIT: Final = bindparam("limit", type_=Integer())
_CONFIGURATION: Final = re.compile(r"[a-z_][a-z0-9_]{0,62}")
_NEGATIONS: Final = re.compile(r"-(?:[^\w-]*-)+")
"""Several negations of one word. PostgreSQL's parser has room for 32, and raises an internal error for more."""
_UNDEFINED_OBJECT: Final = "42704"

Build = Callable[[Sequence[Any], Any], Select[Any]]
"""One of the selects of this module, of columns and for a tenant."""
Sends = Callable[[Build], Callable[..., Awaitable[list[RowT]]]]
"""Returns a function that sends a select with the values of its parameters by name."""


class LastMessage(NamedTuple):
    """The last message of a conversation that is not deleted."""

    seq: int
    role: limits.Role
    content: str | None
    created_at: datetime

    def __repr__(self) -> str:
        """Return a text without content."""
        return f"<LastMessage {self.seq}>"


@dataclass(frozen=True, slots=True)
class Latest(Generic[RowT]):
    """A conversation, and its last message; None if it has no message that is not deleted."""

    conversation: RowT
    last_message: LastMessage | None


def latest(columns: Sequence[Any], tenant_id: Any) -> Select[Any]:
    """Return a select of a user's conversations before a position, the last active one first, with the last messages.

    The subquery sorts the user's conversations, which ix_conversations_user_id finds. An index on the time of the last
    message would make each append slower. The last messages are read for the rows of the page alone.

    Args:
        columns: The mapped class, or columns of it.
        tenant_id: The tenant's id, or a parameter.
    """
    of_user = (Conversation.tenant_id == tenant_id, Conversation.user_id == bindparam("user_id"))
    since = last_active()
    page = (
        select(Conversation.id, since.label("since"))
        .where(*of_user, Conversation.deleted_at.is_(None), tuple_(since, Conversation.id) < tuple_(*_POSITION))
        .order_by(since.desc(), Conversation.id.desc())
        .limit(_LIMIT)
        .subquery("page")
    )
    fields = [getattr(MessageHistory, name).label(f"last_{name}") for name in LastMessage._fields]
    last = newest(of_conversation(fields, tenant_id, page.c.id, is_live=True), limit=1).lateral("last")
    return (
        select(*columns, page.c.since, *last.c)
        .select_from(Conversation)
        .join(page, page.c.id == Conversation.id)
        .outerjoin(last, true())
        .where(Conversation.tenant_id == tenant_id)
        .order_by(page.c.since.desc(), Conversation.id.desc())
    )


async def latest_page(
    sends: Sends[tuple[Any, ...]], tenant_id: UUID, user_id: UUID, *, after: str | None, limit: int
) -> Page[Latest[Any]]:
    """Return one page of `latest`; see `ConversationRepository.latest`.

    Args:
        sends: Sends the select. The rows are a conversation, and the further columns of the select.
        tenant_id: The tenant.
        user_id: The user.
        after: The cursor of the previous page, or None.
        limit: The largest number of conversations.
    """
    check_id("user_id", user_id)
    send = partial(sends(latest), user_id=user_id)
    scope = f"latest:{tenant_id}:{user_id}"
    place_of: Callable[[tuple[Any, ...]], tuple[datetime, UUID]] = lambda row: (row[1], row[0].id)  # noqa: E731
    page = await TimeOrder(place_of, scope, (LAST_INSTANT, _LAST_ID)).page(send, after, limit)
    found = [Latest(row[0], None if row[2] is None else LastMessage._make(row[2:])) for row in page.items]
    return Page(found, page.next_cursor)


def since_in_conversation(columns: Sequence[Any], tenant_id: Any) -> Select[Any]:
    """Return a select of the messages of a conversation after a position in time, the oldest first.

    All messages of a conversation are of its user, so that ix_message_history_user_id finds those after an instant.
    """
    conversation_id: Any = bindparam("conversation_id")
    user_id = select(Conversation.user_id).where(
        Conversation.tenant_id == tenant_id, Conversation.id == conversation_id
    )
    messages = of_conversation(columns, tenant_id, conversation_id)
    return _after(messages.where(MessageHistory.user_id == user_id.scalar_subquery()))


def since_of_user(columns: Sequence[Any], tenant_id: Any) -> Select[Any]:
    """Return a select of the messages of a user after a position in time, the oldest first."""
    return _after(_of_user(columns, tenant_id))


async def since_page(
    sends: Sends[RowT],
    tenant_id: UUID,
    since: datetime,
    of: Mapping[str, UUID | None],
    *,
    after: str | None,
    limit: int,
) -> Page[RowT]:
    """Return one page of the messages since an instant; see `MessageHistoryRepository.page_since`."""
    check_aware("since", since)
    ids = {name: row_id for name, row_id in of.items() if row_id is not None}
    if len(ids) != 1:
        raise ValueError(f"page_since must have either {' or '.join(of)}, got {'both' if ids else 'neither'}")
    [(name, row_id)] = ids.items()
    check_id(name, row_id)
    send = partial(sends(since_in_conversation if name == "conversation_id" else since_of_user), **ids)
    order = TimeOrder(_place_of, f"since:{tenant_id}:{name}:{row_id}", (since, _FIRST_ID))
    return await order.page(send, after, limit)


def matches(columns: Sequence[Any], tenant_id: Any) -> Select[Any]:
    """Return a select of the messages of a user that match a query, before a position in time, the newest first.

    The vectors are computed when the query is executed: a stored one, or an index on it, would make each append slower.
    The operator @@ is not leakproof, so that under row-level security the planner could not use that index either.
    """
    # Scalar subqueries, which are executed once and not for each message.
    config = select(cast(cast(bindparam("config"), Text), REGCONFIG)).scalar_subquery()
    query = select(func.websearch_to_tsquery(config, cast(bindparam("query"), Text))).scalar_subquery()
    vector = func.to_tsvector(config, func.left(MessageHistory.content, SEARCHED_CHARACTERS))
    return (
        _of_user(columns, tenant_id)
        # The condition on `query` alone is evaluated even if the user has no messages: a wrong `config` is an error.
        .where(tuple_(*_PLACE) < tuple_(*_POSITION), query.is_not(None), vector.op("@@")(query))
        .order_by(*(column.desc() for column in _PLACE))
        .limit(_LIMIT)
    )


async def search_page(
    sends: Sends[RowT], tenant_id: UUID, user_id: UUID, query: str, *, config: str, after: str | None, limit: int
) -> Page[RowT]:
    """Return one page of the messages that match a query; see `MessageHistoryRepository.search`."""
    check_id("user_id", user_id)
    query = _checked(query)
    if not _CONFIGURATION.fullmatch(str(config)):
        raise _unknown(config)
    send = partial(sends(matches), user_id=user_id, query=query, config=config)
    scope = f"search:{tenant_id}:{user_id}:{config}:{query}"
    try:
        return await TimeOrder(_place_of, scope, (LAST_INSTANT, _LAST_ID)).page(send, after, limit)
    except DatabaseError as error:
        if error.sqlstate != _UNDEFINED_OBJECT:
            raise
        raise _unknown(config) from error


def _place_of(message: Any) -> tuple[datetime, UUID]:
    return message.created_at, message.id


def _of_user(columns: Sequence[Any], tenant_id: Any) -> Select[Any]:
    return select(*columns).where(
        MessageHistory.tenant_id == tenant_id,
        MessageHistory.user_id == bindparam("user_id"),
        MessageHistory.deleted_at.is_(None),
        conversation_is_live(tenant_id),
    )


def _after(messages: Select[Any]) -> Select[Any]:
    return messages.where(tuple_(*_PLACE) > tuple_(*_POSITION)).order_by(*_PLACE).limit(_LIMIT)


def _checked(query: str) -> str:
    """Return a query as PostgreSQL can read it.

    Raises:
        ValueError: The query is not a string, or is too long.
    """
    if not isinstance(query, str):
        raise ValueError(f"query must be a string, got {type(query).__name__}")  # noqa: TRY004 - bad input
    if len(query) > MAX_QUERY:
        raise ValueError(
            f"query must be at most {MAX_QUERY} characters, got {len(query)}; search for a few of its words"
        )
    return _NEGATIONS.sub("-", clean_text(query))


def _unknown(config: object) -> ValueError:
    return ValueError(
        f"config must be a text search configuration of the server, such as simple or english, got {config!r};"
        " pg_ts_config lists their names (cfgname)"
    )
