"""The turn: a user and his conversation, found or made, what was said last, and the new messages, in one statement."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final, cast

from sqlalchemy import (
    CTE,
    ColumnElement,
    Integer,
    Interval,
    Select,
    Subquery,
    Table,
    and_,
    bindparam,
    exists,
    false,
    func,
    insert,
    literal_column,
    null,
    or_,
    select,
    true,
    union_all,
    update,
)
from sqlalchemy import cast as as_type
from sqlalchemy.types import NULLTYPE, UserDefinedType

from src.database.models import Conversation, MessageHistory
from src.database.repositories.turns import statement_time
from src.database.store.append_statement import SHAPES, New, Shape, advanced, all_new, fresh, given, inserted, known
from src.database.store.rows import ConversationRow, MessageRow, columns_of
from src.database.store.statement import Statement
from src.database.store.users import NEW_USER, found_user, made_user

__all__ = ["ABOUT", "ABOUT_CONVERSATION", "ABOUT_USER", "KIND", "NEW", "RECENT", "TURN", "TURN_GOES_ON"]

KIND, ABOUT_USER, ABOUT_CONVERSATION = "kind", "about_user", "about_conversation"
"""The columns of the result that are none of a message's."""
ABOUT, RECENT, NEW = range(3)
"""What a row of the result is: about the user and the conversation, a message said before, or a new one."""
_PARAMETERS: Final = (
    "tenant_id",
    "telegram_id",
    *NEW_USER,
    "channel",
    "external_chat_id",
    "new_conversation_id",
    "new_session_id",
    "idle_timeout",
    "limit",
)
IDLE: Final = "idle"

_CHATS: Final = cast("Table", Conversation.__table__)
_TABLE: Final = cast("Table", MessageHistory.__table__)
_LAST_ACTIVE: Final = func.coalesce(_CHATS.c.last_message_at, _CHATS.c.created_at)
_IDLE_TIMEOUT: Final = bindparam("idle_timeout", type_=Interval())
_SINCE: Final = statement_time() - _IDLE_TIMEOUT
"""By the server's clock, whatever the caller's is."""


class _Record(UserDefinedType[Any]):
    """A row of columns in a column."""

    cache_ok = True

    def get_col_spec(self, **_options: Any) -> str:
        return "record"


def _turn(shape: Shape) -> Statement[MessageRow]:
    messages, stored = given(shape), known(shape)
    new = fresh(messages, stored)
    found = found_user()
    made = made_user(found, stored)
    user = union_all(select(*found.c, false().label("created")), select(*made.c, true())).cte("the_user")
    is_new = ~exists(select(stored.c.id))  # what was sent before is for the repositories to look at
    kept = _kept(user, new, is_new)
    started = _started(user, new, kept, _closed(user, is_new), is_new)
    either = union_all(select(*kept.c, false().label("started")), select(*started.c, true()))
    return _whole(shape, user, either.cte("the_conversation"), kept, new)


def _turn_goes_on(shape: Shape) -> Statement[MessageRow]:
    """What nearly every turn is: user and conversation are there, and what is said was not sent before."""
    new = all_new(given(shape), shape)
    user = select(*found_user().c, false().label("created")).cte("the_user")
    kept = _kept(user, new)
    return _whole(shape, user, select(*kept.c, false().label("started")).cte("the_conversation"), kept, new)


def _whole(shape: Shape, user: CTE, conversation: CTE, kept: CTE, new: New) -> Statement[MessageRow]:
    about = _about(user, conversation, kept)
    return Statement(
        union_all(about, _said_before(kept), _as_messages(NEW, inserted(new, conversation))),
        (*_PARAMETERS, *shape.columns),
        row=MessageRow,
    )


def _of_chat(user: CTE) -> tuple[ColumnElement[bool], ...]:
    chat = bindparam("external_chat_id", type_=_CHATS.c.external_chat_id.type)
    return (
        _CHATS.c.tenant_id == bindparam("tenant_id"),
        _CHATS.c.user_id == user.c.id,
        _CHATS.c.channel == bindparam("channel"),
        or_(_CHATS.c.external_chat_id == chat, and_(chat.is_(None), _CHATS.c.external_chat_id.is_(None))),
        _CHATS.c.is_active,
        _CHATS.c.deleted_at.is_(None),
    )


def _kept(user: CTE, new: New, *where: ColumnElement[bool]) -> CTE:
    """Lock the active conversation, unless it has been silent for too long, and go on with it."""
    spoken_lately = or_(_IDLE_TIMEOUT.is_(None), _LAST_ACTIVE >= _SINCE)
    kept = update(_CHATS).where(*_of_chat(user), spoken_lately, *where).values(advanced(new))
    return kept.returning(*columns_of(ConversationRow)).cte("kept")


def _closed(user: CTE, is_new: ColumnElement[bool]) -> CTE:
    """Close the one that has been silent; under its lock it is one or the other."""
    closed = (
        update(_CHATS)
        .where(*_of_chat(user), _LAST_ACTIVE < _SINCE, is_new)
        .values(is_active=false(), closed_at=statement_time(), close_reason=IDLE)
    )
    return closed.returning(_CHATS.c.id).cte("closed")


def _started(user: CTE, new: New, kept: CTE, closed: CTE, is_new: ColumnElement[bool]) -> CTE:
    """Start one where none goes on; a unique violation says that another call was faster."""
    values: dict[str, ColumnElement[Any]] = {
        "tenant_id": bindparam("tenant_id", type_=_CHATS.c.tenant_id.type),
        "id": bindparam("new_conversation_id", type_=_CHATS.c.id.type),
        "user_id": user.c.id,
        "session_id": bindparam("new_session_id", type_=_CHATS.c.session_id.type),
        "channel": bindparam("channel", type_=_CHATS.c.channel.type),
        "external_chat_id": bindparam("external_chat_id", type_=_CHATS.c.external_chat_id.type),
        "last_seq": new.how_many,
        "last_message_at": new.last_said,
    }
    # The count is what has the old one closed first: two may not be active at a time.
    after_closing = select(func.count()).select_from(closed).scalar_subquery() >= 0
    source = select(*values.values()).where(~exists(select(kept.c.id)), after_closing, is_new)
    started = insert(_CHATS).from_select(list(values), source, include_defaults=False)
    return started.returning(*columns_of(ConversationRow)).cte("started")


def _about(user: CTE, conversation: CTE, kept: CTE) -> Select[Any]:
    """One row on both. With them what `last_seq` was when the statement began: an append may have come in between."""
    began_with = (
        select(_CHATS.c.last_seq)
        .where(_CHATS.c.tenant_id == bindparam("tenant_id"), _CHATS.c.id == select(kept.c.id).scalar_subquery())
        .scalar_subquery()
    )
    both = [_row(*user.c).label(ABOUT_USER), _row(*conversation.c, began_with).label(ABOUT_CONVERSATION)]
    about = select(literal_column(str(ABOUT), Integer).label(KIND), *_columns(), *both)
    return about.select_from(user.join(conversation, true()))


def _said_before(kept: CTE) -> Select[Any]:
    newest = (
        select(*columns_of(MessageRow))
        .where(
            MessageHistory.tenant_id == bindparam("tenant_id"),
            MessageHistory.conversation_id == select(kept.c.id).scalar_subquery(),
            MessageHistory.deleted_at.is_(None),
        )
        .order_by(MessageHistory.seq.desc())
        .limit(bindparam("limit", type_=_TABLE.c.token_count.type))
        .subquery("newest")
    )
    return _as_messages(RECENT, newest)


def _as_messages(kind: int, rows: CTE | Subquery) -> Select[Any]:
    no_record = as_type(null(), _Record())
    nothing = [no_record.label("no_user"), no_record.label("no_conversation")]
    return select(literal_column(str(kind)), *_columns(rows), *nothing).select_from(rows)


def _columns(rows: CTE | Subquery | None = None) -> Sequence[ColumnElement[Any]]:
    """Return the columns of a message, null where these rows do not have them."""
    there = {} if rows is None else dict(rows.c)
    return [
        there.get(column.name, as_type(null(), _TABLE.c[column.element.name].type).label(column.name))
        for column in columns_of(MessageRow)
    ]


def _row(*columns: ColumnElement[Any]) -> ColumnElement[Any]:
    return func.row(*columns, type_=NULLTYPE)


TURN_GOES_ON: Final = {shape: _turn_goes_on(shape) for shape in SHAPES}
TURN: Final = {shape: _turn(shape) for shape in SHAPES}
