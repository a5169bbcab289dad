"""Messages are appended in one statement: the conversation locked, keys looked for, numbers given, rows inserted."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from operator import attrgetter
from typing import Any, Final, cast
from uuid import UUID

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

from src.database.base import check_aware, clean_json, utc_now, uuid7
from src.database.errors import DuplicateKeyError
from src.database.models import Conversation, MessageHistory
from src.database.repositories import Appended, MessageHistoryRepository, NewMessage
from src.database.repositories.message_appending import KEY, check_batch, first_of_each_key
from src.database.repositories.turns import check_token
from src.database.session import get_db
from src.database.store.calls import Calls
from src.database.store.rows import AppendedRow
from src.database.store.statement import Statement

__all__ = [
    "ROUNDS",
    "SHAPES",
    "Shape",
    "StoreAppending",
    "advanced",
    "appended_row",
    "fresh",
    "given",
    "inserted",
    "known",
    "packed",
]

ROUNDS: Final = 10
"""How often a statement is sent again after another call was faster, before the repository takes its locks."""

_TABLE: Final = cast("Table", MessageHistory.__table__)
_CHATS: Final = cast("Table", Conversation.__table__)
_SAID: Final = ("message_id", "role", "content")
_REST: Final = (
    "parent_id",
    "tool_call_id",
    "tool_name",
    "model",
    "input_tokens",
    "output_tokens",
    "token_count",
    "state",
    "edited_at",
)
_JSON: Final = ("parts", "attachments", "metadata")
_RETURNED: Final = ("message_id", "id", "conversation_id", "seq", "created_at")
_COMPARED: Final = ("fingerprint", "role", "tool_call_id", "tool_name")

_said: Final = attrgetter(*_SAID)
_rest: Final = attrgetter(*_REST)
_PLAIN_REST: Final = _rest(NewMessage(message_id="-", role="user"))


@dataclass(frozen=True, slots=True)
class Shape:
    """What a call's messages bring: most bring little, and one at a time, and a statement for that costs less."""

    is_plain: bool
    is_one: bool

    @property
    def columns(self) -> tuple[str, ...]:
        """The columns that are sent; what plain messages leave out is the column's default."""
        made = ("id", "fingerprint", "created_at")
        return (*_SAID, *made) if self.is_plain else (*_SAID, *made, *_REST, *_JSON)


SHAPES: Final = tuple(Shape(is_plain, is_one) for is_plain in (True, False) for is_one in (True, False))


class StoreAppending(Calls):
    """How messages come in."""

    async def append(self, conversation_id: UUID, message: NewMessage, *, turn: int | None = None) -> AppendedRow:
        """Append a message to a conversation; as `append_many` does with one."""
        return (await self.append_many(conversation_id, [message], turn=turn))[0]

    async def append_many(
        self, conversation_id: UUID, messages: Sequence[NewMessage], *, turn: int | None = None
    ) -> list[AppendedRow]:
        """Append messages in this order, each one once, without gaps; as `MessageHistoryRepository.append_many` does.

        Raises:
            CommitOutcomeUnknown: The connection was lost before the server answered: send them again.
            IdempotencyConflictError: A key is taken by a message with other content, or by another chat's.
            NotFoundError: This tenant has no such conversation.
            StaleDataError: Another worker has claimed the turn since.
            ValueError: There are more than 1000, or `turn` is no token.
        """
        check_batch(messages)
        check_token(turn)
        first = first_of_each_key(messages)
        if not first:
            return []
        shape, sent = packed(list(first.values()))
        for _ in range(ROUNDS):
            try:
                rows = await self._write(_APPEND[shape], conversation_id, turn, *sent)
            except DuplicateKeyError as error:
                if error.constraint != KEY:
                    raise
                continue
            if len(rows) < len(first):
                break  # the conversation is not there, or a key is another's: the repository says which
            return _in_order(messages, {row[0]: AppendedRow._make(row) for row in rows})
        async with get_db() as session:
            stored = await MessageHistoryRepository(session).append_many(conversation_id, messages, turn=turn)
        return [appended_row(one) for one in stored]


def appended_row(appended: Appended) -> AppendedRow:
    """Say of what the repository has stored what the store says."""
    places = [getattr(appended.message, name) for name in _RETURNED]
    return AppendedRow._make((*places, appended.inserted, appended.is_there))


def _in_order(messages: Sequence[NewMessage], rows: dict[str, AppendedRow]) -> list[AppendedRow]:
    """Return a row for each message; a second one of the same key is a duplicate of the first."""
    if len(messages) == len(rows):
        return [rows[message.message_id] for message in messages]
    ordered = []
    for message in messages:
        row = rows[message.message_id]
        ordered.append(row)
        rows[message.message_id] = row._replace(inserted=False)
    return ordered


def packed(messages: Sequence[NewMessage]) -> tuple[Shape, list[Any]]:
    """Return the shape of some messages, and what its statement is given of them, in the order of its columns."""
    shape = Shape(is_plain=all(map(_is_plain, messages)), is_one=len(messages) == 1)
    now = utc_now()
    rows = [
        (
            *_said(message),
            uuid7(),
            message.fingerprint(),
            _instant("created_at", message.created_at) or now,
            *(() if shape.is_plain else (*_rest(message), *_json(message))),
        )
        for message in messages
    ]
    return shape, list(rows[0]) if shape.is_one else [list(values) for values in zip(*rows, strict=True)]


def _instant(name: str, value: datetime | None) -> datetime | None:
    if value is not None:
        check_aware(name, value)
    return value


def _is_plain(message: NewMessage) -> bool:
    _instant("edited_at", message.edited_at)
    has_json = message.parts is not None or message.attachments or message.extra
    return not has_json and _rest(message) == _PLAIN_REST


def _json(message: NewMessage) -> tuple[str | None, str, str]:
    parts = None if message.parts is None else _dumps(message.parts)
    return parts, _dumps(message.attachments), _dumps(message.extra)


def _dumps(value: Any) -> str:
    return json.dumps(clean_json(value), ensure_ascii=False)


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
    columns = [_TABLE.c[name] for name in (*_RETURNED, *_COMPARED, "deleted_at")]
    stored = select(*columns).where(_TABLE.c.tenant_id == bindparam("tenant_id"), _TABLE.c.message_id == key)
    return stored.cte("known")


def fresh(messages: FromClause, stored: CTE) -> CTE:
    """Number what is not stored yet."""
    place = func.row_number().over(order_by=messages.c.place).label("number")
    new = ~exists(select(stored.c.id).where(stored.c.message_id == messages.c.message_id))
    return select(*messages.c, place).where(new).cte("fresh")


def _count_of(rows: CTE) -> ColumnElement[int]:
    return select(func.count()).select_from(rows).scalar_subquery()


def advanced(rows: CTE) -> dict[str, Any]:
    """Say how a conversation goes on with these messages."""
    last_said = select(func.max(rows.c.created_at)).scalar_subquery()
    return {
        "last_seq": _CHATS.c.last_seq + _count_of(rows),
        "last_message_at": func.greatest(_CHATS.c.last_message_at, last_said),
    }


def inserted(rows: CTE, conversation: CTE) -> CTE:
    """Insert them with the numbers that their conversation has kept for them by now."""
    values: dict[str, ColumnElement[Any]] = {
        "tenant_id": bindparam("tenant_id", type_=_TABLE.c.tenant_id.type),
        "conversation_id": conversation.c.id,
        "user_id": conversation.c.user_id,
        "seq": conversation.c.last_seq - _count_of(rows) + rows.c.number,
        **{name: rows.c[name] for name in rows.c.keys() if name not in {"place", "number"}},  # noqa: SIM118
    }
    source = select(*values.values()).select_from(rows.join(conversation, true()))
    into = insert(_TABLE).from_select(list(values), source, include_defaults=False)
    return into.returning(*(_TABLE.c[name] for name in _RETURNED)).cte("inserted")


def _append(shape: Shape) -> Statement[Any]:
    """Lock, look, number and insert at once.

    The conversation's row is locked by the update, and `last_seq` is what it is under that lock. What is known was
    looked for before: a message that another call has committed meanwhile is a unique violation, nothing is written,
    and the statement is sent again.
    """
    messages, stored = given(shape), known(shape)
    new, other = fresh(messages, stored), _taken_by_another(messages, stored)
    turn = bindparam("turn", type_=_CHATS.c.turn_token.type)
    is_open = (
        _CHATS.c.tenant_id == bindparam("tenant_id"),
        _CHATS.c.id == bindparam("conversation_id"),
        _CHATS.c.deleted_at.is_(None),
        or_(turn.is_(None), _CHATS.c.turn_token == turn),
    )
    advance = update(_CHATS).where(*is_open, exists(select(new.c.id)), ~exists(select(other.c.id)))
    returned = (_CHATS.c.id, _CHATS.c.user_id, _CHATS.c.last_seq)
    conversation = advance.values(advanced(new)).returning(*returned).cte("conversation")
    made = inserted(new, conversation)
    there = select(*(stored.c[name] for name in _RETURNED), false(), stored.c.deleted_at.is_(None))
    either = union_all(
        select(*made.c, true().label("inserted"), true().label("is_there")),
        there.where(exists(select(_CHATS.c.id).where(*is_open)), ~exists(select(other.c.id))),
    )
    return Statement(either, ("tenant_id", "conversation_id", "turn", *shape.columns))


def _taken_by_another(messages: FromClause, stored: CTE) -> CTE:
    """Find keys that are not simply sent again: what that means is for the repository to say."""
    of_another = stored.c.conversation_id != bindparam("conversation_id")
    said = {name: messages.c.get(name, null()) for name in _COMPARED}  # a plain one has none of a tool's
    differs = (stored.c[name].is_distinct_from(value) for name, value in said.items())
    both = stored.join(messages, stored.c.message_id == messages.c.message_id)
    return select(stored.c.id).select_from(both).where(or_(of_another, *differs)).cte("other")


_APPEND: Final = {shape: _append(shape) for shape in SHAPES}
