"""How messages come in: one statement as a rule, the repositories for what is rare."""

from __future__ import annotations

import json
from collections.abc import Sequence
from datetime import datetime
from operator import attrgetter
from typing import Any, Final
from uuid import UUID

from src.database.base import check_aware, clean_json, utc_now, uuid7
from src.database.errors import DuplicateKeyError
from src.database.repositories import Appended, MessageHistoryRepository, NewMessage
from src.database.repositories.message_appending import KEY, check_batch, first_of_each_key
from src.database.repositories.turns import check_token
from src.database.session import get_db
from src.database.store.append_statement import APPEND, APPEND_NEW, REST, RETURNED, SAID, Shape
from src.database.store.calls import Calls
from src.database.store.rows import AppendedRow

__all__ = ["ROUNDS", "StoreAppending", "appended_row", "packed"]

ROUNDS: Final = 10
"""How often a statement is sent again after another call was faster, before the repository takes its locks."""

_said: Final = attrgetter(*SAID)
_rest: Final = attrgetter(*REST)
_PLAIN_REST: Final = _rest(NewMessage(message_id="-", role="user"))


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
        for statement in (APPEND_NEW[shape], *[APPEND[shape]] * ROUNDS):
            try:
                rows = await self._write(statement, conversation_id, turn, *sent)
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
    places = [getattr(appended.message, name) for name in RETURNED]
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
    if not value and isinstance(value, dict | list):  # as nearly all are
        return "{}" if isinstance(value, dict) else "[]"
    return json.dumps(clean_json(value), ensure_ascii=False)
