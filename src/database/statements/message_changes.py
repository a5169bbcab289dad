"""Edit a message, delete the last messages of a conversation, and purge old messages."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from datetime import datetime
from typing import Any, Final, TypeVar
from uuid import UUID

import asyncpg
from sqlalchemy import func, select

from src.database.base import check_aware, check_id, clean_text
from src.database.errors import NotFoundError
from src.database.models import Conversation, MessageHistory
from src.database.session import AsyncSession
from src.database.statements.call import Call, Sender
from src.database.statements.conversations import check_is_last, check_token
from src.database.statements.entities import entities_of
from src.database.statements.in_session import InSession, entity_columns
from src.database.statements.messages import VERSIONS
from src.database.statements.pagination import check_limit
from src.database.statements.removal import remove
from src.database.statements.rows import lock_one, required
from src.database.statements.split_characters import SPLIT
from src.database.statements.windows import check_number, conversation_is_live

RowT = TypeVar("RowT")

_MESSAGES: Final = MessageHistory.metadata.tables[MessageHistory.__tablename__]


async def edit(session: AsyncSession, message_id: str, content: str | None, *, edited_at: datetime) -> bool:
    """Update a message to a later version, and return whether it changed; see `MessageHistoryRepository.edit`."""
    check_aware("edited_at", edited_at)
    content = None if content is None else clean_text(content)
    live = (MessageHistory.deleted_at.is_(None), conversation_is_live(session.tenant_id))
    row = await lock_one(session, MessageHistory, MessageHistory.message_id == message_id, *live)
    if row is None:
        raise NotFoundError("this tenant has no message with this message_id")
    versions: list[dict[str, Any]] = row.extra.get(VERSIONS, [])
    # `edited_at` is not compared with `created_at`, which may be the time of this process: its clock may be
    # ahead of that of the sender.
    if row.edited_at is not None and edited_at <= row.edited_at:
        same_time = [version["content"] for version in versions if datetime.fromisoformat(version["at"]) == edited_at]
        if edited_at < row.edited_at or content in {row.content, *same_time}:
            return False
    if row.content != content:
        last = (row.edited_at or row.created_at).isoformat()
        rest = {name: value for name, value in row.extra.items() if name != SPLIT}  # holds positions in the old content
        row.extra = {**rest, VERSIONS: [*versions, {"content": row.content, "at": last}]}
        row.token_count = None
    row.content, row.edited_at = content, edited_at
    await session.flush()
    return True


RESERVED_KEYS: Final = frozenset({VERSIONS, SPLIT})
"""The keys of a message's `extra` that callers do not write."""


def kept_extra(row: MessageHistory) -> dict[str, Any]:
    """Return the values of a message's `extra` that a caller's new `extra` does not replace."""
    return {name: row.extra[name] for name in RESERVED_KEYS if name in row.extra}


async def pop(
    sender: Sender, call: Call[RowT], conversation_id: UUID, *, limit: int, last_seq: int | None, turn: int | None
) -> list[RowT]:
    """Soft-delete the last messages of a conversation, and return the rows; see `MessageHistoryRepository.pop`.

    Args:
        sender: Sends the call.
        call: The call that `pop_call` returns.
        conversation_id: The conversation.
        limit: The largest number of messages.
        last_seq: The `seq` that the last message must have, or None.
        turn: The token of the turn that the caller holds, or None.
    """
    check_id("conversation_id", conversation_id)
    check_limit(limit)
    check_token(turn)
    if last_seq is not None:
        check_number("last_seq", last_seq)
    done, *popped = await sender.call(call, conversation_id, turn, last_seq, limit)
    outcome, token = done[-2:]
    required(None if outcome == "no_conversation" else done, Conversation, conversation_id)
    if outcome == "lost_turn":
        check_is_last(turn, token)
    return popped


def pop_call(columns: Callable[[], Sequence[str]], row: type[RowT] = asyncpg.Record) -> Call[RowT]:
    """Return the call for `pop`.

    Args:
        columns: Returns the columns of a message to read.
        row: The class of a row.
    """
    return Call("app_pop_messages", 5, columns=lambda: (*columns(), "outcome", "turn_token"), row=row)


_POP: Final[Call[Any]] = pop_call(entity_columns(MessageHistory))


async def pop_in_session(
    session: AsyncSession, conversation_id: UUID, *, limit: int, last_seq: int | None, turn: int | None
) -> list[MessageHistory]:
    """Soft-delete the last messages of a conversation, and return them as entities of the session."""
    rows = await pop(InSession(session), _POP, conversation_id, limit=limit, last_seq=last_seq, turn=turn)
    return entities_of(MessageHistory).load(session.sync_session, rows, refresh=True)


async def purge(
    session: AsyncSession, before: datetime, *, user_id: UUID | None, only_deleted: bool, limit: int, dry_run: bool
) -> int:
    """Delete a batch of the oldest messages permanently, or count all of them; see `MessageHistoryRepository.purge`."""
    check_limit(limit)
    check_aware("before", before)
    since = MessageHistory.deleted_at if only_deleted else MessageHistory.created_at
    of_user = [] if user_id is None else [MessageHistory.user_id == user_id]
    old = (MessageHistory.tenant_id == session.tenant_id, since < before, *of_user)
    if dry_run:
        return await session.scalar(select(func.count()).select_from(MessageHistory).where(*old)) or 0
    # Locked as they are read: rows that another transaction has locked must not count toward the limit.
    batch = select(_MESSAGES.c.id).where(*old).order_by(since).limit(limit).with_for_update(skip_locked=True)
    return await remove(session, _MESSAGES, batch, limit=limit)
