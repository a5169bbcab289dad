"""Messages are appended in one statement: the conversation locked, numbers given, rows inserted."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final, NamedTuple, cast

from sqlalchemy import (
    ARRAY,
    CTE,
    ColumnElement,
    FromClause,
    Table,
    any_,
    bindparam,
    column,
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

from src.database.models import Conversation, MessageHistory
from src.database.store.statement import Statement

__all__ = [
    "APPEND",
    "APPEND_NEW",
    "REST",
    "RETURNED",
    "SAID",
    "SHAPES",
    "New",
    "Shape",
    "advanced",
    "all_new",
    "fresh",
    "given",
    "inserted",
    "known",
]

_TABLE: Final = cast("Table", MessageHistory.__table__)
_CHATS: Final = cast("Table", Conversation.__table__)
SAID: Final = ("message_id", "role", "content", "token_count")
REST: Final = (
    "parent_id",
    "tool_call_id",
    "tool_name",
    "model",
    "input_tokens",
    "output_tokens",
    "state",
    "edited_at",
)
_JSON: Final = ("parts", "attachments", "metadata")
RETURNED: Final = ("message_id", "id", "conversation_id", "seq", "created_at")
_COMPARED: Final = ("fingerprint", "role", "tool_call_id", "tool_name")


@dataclass(frozen=True, slots=True)
class Shape:
    """What a call's messages bring: most bring little, and one at a time, and a statement for that costs less."""

    is_plain: bool
    is_one: bool

    @property
    def columns(self) -> tuple[str, ...]:
        """The columns that are sent; what plain messages leave out is the column's default."""
        made = ("id", "fingerprint", "created_at")
        return (*SAID, *made) if self.is_plain else (*SAID, *made, *REST, *_JSON)


SHAPES: Final = tuple(Shape(is_plain, is_one) for is_plain in (True, False) for is_one in (True, False))


def given(shape: Shape) -> FromClause:
    """Make a table of a call's messages, in their order."""
    kinds = {name: _stored_type(name) for name in shape.columns}
    if shape.is_one:
        values = (bindparam(name, type_=kind).label(name) for name, kind in kinds.items())
        return select(*values, literal_column("1").label("place")).subquery("given")
    arrays = [bindparam(name, type_=ARRAY(kind)) for name, kind in kinds.items()]
    columns = [column(name, kind) for name, kind in kinds.items()]
    return func.unnest(*arrays).table_valued(*columns, with_ordinality="place", name="given").render_derived()


def _stored_type(name: str) -> Any:
    kind = _TABLE.c[name].type
    return getattr(kind, "impl_instance", kind)  # what a decorator wraps: the values are clean already


def known(shape: Shape) -> CTE:
    """Find what is stored under the messages' keys, deleted or not."""
    kind = _stored_type("message_id")
    key = bindparam("message_id", type_=kind) if shape.is_one else any_(bindparam("message_id", type_=ARRAY(kind)))
    columns = [_TABLE.c[name] for name in (*RETURNED, *_COMPARED, "deleted_at")]
    stored = select(*columns).where(_TABLE.c.tenant_id == bindparam("tenant_id"), _TABLE.c.message_id == key)
    return stored.cte("known")


class New(NamedTuple):
    """The messages that are to be inserted, with the number of each among them."""

    rows: FromClause
    number: ColumnElement[int]
    how_many: ColumnElement[int]
    last_said: ColumnElement[Any]


def all_new(messages: FromClause, shape: Shape) -> New:
    """Take all of them for new: if one is not, then a unique violation says so, and nothing is written."""
    if shape.is_one:
        return New(messages, messages.c.place, literal_column("1"), messages.c.created_at)
    keys = bindparam("message_id", type_=ARRAY(_stored_type("message_id")))
    last_said = select(func.max(messages.c.created_at)).scalar_subquery()
    return New(messages, messages.c.place, func.cardinality(keys), last_said)


def fresh(messages: FromClause, stored: CTE) -> New:
    """Number what is not stored yet."""
    place = func.row_number().over(order_by=messages.c.place).label("number")
    new = ~exists(select(stored.c.id).where(stored.c.message_id == messages.c.message_id))
    rows = select(*messages.c, place).where(new).cte("fresh")
    count = select(func.count()).select_from(rows).scalar_subquery()
    return New(rows, rows.c.number, count, select(func.max(rows.c.created_at)).scalar_subquery())


def advanced(new: New) -> dict[str, Any]:
    """Say how a conversation goes on with these messages."""
    return {
        "last_seq": _CHATS.c.last_seq + new.how_many,
        "last_message_at": func.greatest(_CHATS.c.last_message_at, new.last_said),
    }


def inserted(new: New, conversation: CTE) -> CTE:
    """Insert them with the numbers that their conversation has kept for them by now."""
    values: dict[str, ColumnElement[Any]] = {
        "tenant_id": bindparam("tenant_id", type_=_TABLE.c.tenant_id.type),
        "conversation_id": conversation.c.id,
        "user_id": conversation.c.user_id,
        "seq": conversation.c.last_seq - new.how_many + new.number,
        **{name: new.rows.c[name] for name in new.rows.c.keys() if name not in {"place", "number"}},  # noqa: SIM118
    }
    source = select(*values.values()).select_from(new.rows.join(conversation, true()))
    into = insert(_TABLE).from_select(list(values), source, include_defaults=False)
    return into.returning(*(_TABLE.c[name] for name in RETURNED)).cte("inserted")


def _is_open() -> tuple[ColumnElement[bool], ...]:
    turn = bindparam("turn", type_=_CHATS.c.turn_token.type)
    return (
        _CHATS.c.tenant_id == bindparam("tenant_id"),
        _CHATS.c.id == bindparam("conversation_id"),
        _CHATS.c.deleted_at.is_(None),
        or_(turn.is_(None), _CHATS.c.turn_token == turn),
    )


def _going_on(new: New, *where: ColumnElement[bool]) -> CTE:
    """Lock the conversation's row by its update: `last_seq` is what it is under that lock."""
    advance = update(_CHATS).where(*_is_open(), *where).values(advanced(new))
    return advance.returning(_CHATS.c.id, _CHATS.c.user_id, _CHATS.c.last_seq).cte("conversation")


def _append_new(shape: Shape) -> Statement[Any]:
    """Lock, number and insert: what is said for the first time, which nearly everything is."""
    new = all_new(given(shape), shape)
    made = inserted(new, _going_on(new))
    whole = select(*made.c, true().label("inserted"), true().label("is_there"))
    return Statement(whole, ("tenant_id", "conversation_id", "turn", *shape.columns))


def _append(shape: Shape) -> Statement[Any]:
    """Lock, look, number and insert at once.

    What is known was looked for before the lock was had: a message that another call has committed meanwhile is a
    unique violation, nothing is written, and the statement is sent again.
    """
    messages, stored = given(shape), known(shape)
    new, other = fresh(messages, stored), _taken_by_another(messages, stored)
    conversation = _going_on(new, exists(select(new.rows.c.id)), ~exists(select(other.c.id)))
    made = inserted(new, conversation)
    there = select(*(stored.c[name] for name in RETURNED), false(), stored.c.deleted_at.is_(None))
    either = union_all(
        select(*made.c, true().label("inserted"), true().label("is_there")),
        there.where(exists(select(_CHATS.c.id).where(*_is_open())), ~exists(select(other.c.id))),
    )
    return Statement(either, ("tenant_id", "conversation_id", "turn", *shape.columns))


def _taken_by_another(messages: FromClause, stored: CTE) -> CTE:
    """Find keys that are not simply sent again: what that means is for the repository to say."""
    of_another = stored.c.conversation_id != bindparam("conversation_id")
    said = {name: messages.c.get(name, null()) for name in _COMPARED}  # a plain one has none of a tool's
    differs = (stored.c[name].is_distinct_from(value) for name, value in said.items())
    both = stored.join(messages, stored.c.message_id == messages.c.message_id)
    return select(stored.c.id).select_from(both).where(or_(of_another, *differs)).cte("other")


APPEND_NEW: Final[Mapping[Shape, Statement[Any]]] = {shape: _append_new(shape) for shape in SHAPES}
APPEND: Final[Mapping[Shape, Statement[Any]]] = {shape: _append(shape) for shape in SHAPES}
