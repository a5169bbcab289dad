"""Edit a message, delete the last one of a conversation, and erase old messages."""

from __future__ import annotations

from datetime import datetime
from typing import Any
from uuid import UUID

from sqlalchemy import delete, func, select, update

from src.database.base import check_aware, clean_text, utc_now
from src.database.errors import NotFoundError
from src.database.models import MessageHistory, Note
from src.database.session import AsyncSession
from src.database.statements.conversations import lock_conversation
from src.database.statements.messages import VERSIONS
from src.database.statements.pagination import check_limit
from src.database.statements.rows import lock_one, update_one
from src.database.statements.split_characters import SPLIT
from src.database.statements.windows import conversation_is_live, newest, of_conversation


async def edit(session: AsyncSession, message_id: str, content: str | None, *, edited_at: datetime) -> bool:
    """Update a message to a later version, and return whether it changed; see `MessageHistoryRepository.edit`."""
    check_aware("edited_at", edited_at)
    content = None if content is None else clean_text(content)
    live = (MessageHistory.deleted_at.is_(None), conversation_is_live(session.tenant_id))
    row = await lock_one(session, MessageHistory, MessageHistory.message_id == message_id, *live)
    if row is None:
        raise NotFoundError("this tenant has no message with this message_id")
    versions: list[dict[str, Any]] = row.extra.get(VERSIONS, [])
    # Compared with edits alone: when it was appended may be our clock's word, and an edit's time is the sender's.
    if row.edited_at is not None and edited_at <= row.edited_at:
        of_that_time = [
            version["content"] for version in versions if datetime.fromisoformat(version["at"]) == edited_at
        ]
        if edited_at < row.edited_at or content in {row.content, *of_that_time}:
            return False
    if row.content != content:
        last = (row.edited_at or row.created_at).isoformat()
        rest = {name: value for name, value in row.extra.items() if name != SPLIT}  # positions in the old content
        row.extra = {**rest, VERSIONS: [*versions, {"content": row.content, "at": last}]}
        row.token_count = None
    row.content, row.edited_at = content, edited_at
    await session.flush()
    return True


def kept_extra(row: MessageHistory) -> dict[str, Any]:
    """Return the values of a message's `extra` that a caller's new `extra` does not replace."""
    return {name: row.extra[name] for name in (VERSIONS, SPLIT) if name in row.extra}


async def pop_last(
    session: AsyncSession, conversation_id: UUID, *, seq: int | None, turn: int | None
) -> MessageHistory | None:
    """Soft-delete the last message of a conversation; see `MessageHistoryRepository.pop_last`."""
    await lock_conversation(session, conversation_id, turn)
    last = newest(of_conversation((MessageHistory.id,), session.tenant_id, conversation_id), limit=1)
    where = [MessageHistory.id == last.scalar_subquery()]
    where.append(MessageHistory.deleted_at.is_(None))  # `delete` does not wait for the conversation
    if seq is not None:
        where.append(MessageHistory.seq == seq)
    return await update_one(session, MessageHistory, *where, deleted_at=utc_now())


async def purge(
    session: AsyncSession, before: datetime, *, user_id: UUID | None, only_deleted: bool, limit: int, dry_run: bool
) -> int:
    """Erase a batch of the oldest messages, or count them all; see `MessageHistoryRepository.purge`."""
    check_limit(limit)
    check_aware("before", before)
    since = MessageHistory.deleted_at if only_deleted else MessageHistory.created_at
    of_user = [] if user_id is None else [MessageHistory.user_id == user_id]
    old = (MessageHistory.tenant_id == session.tenant_id, since < before, *of_user)
    if dry_run:
        return await session.scalar(select(func.count()).select_from(MessageHistory).where(*old)) or 0
    batch = select(MessageHistory.id).where(*old).order_by(since).limit(limit)
    ids = list(await session.scalars(batch.with_for_update(skip_locked=True)))
    if ids:
        await _erase(session, ids)
    return len(ids)


async def _erase(session: AsyncSession, ids: list[UUID]) -> None:
    """Erase locked messages, each step in a statement of its own: it sees every reference made before the lock."""
    tenant_id = session.tenant_id
    for statement in (
        update(Note).where(Note.tenant_id == tenant_id, Note.source_message_id.in_(ids)).values(source_message_id=None),
        update(MessageHistory)
        .where(MessageHistory.tenant_id == tenant_id, MessageHistory.parent_id.in_(ids))
        .values(parent_id=None),
        delete(MessageHistory).where(MessageHistory.tenant_id == tenant_id, MessageHistory.id.in_(ids)),
    ):
        await session.execute(statement, execution_options={"synchronize_session": False})
