"""Pin notes, and move them to and from the archive."""

from __future__ import annotations

from datetime import datetime
from typing import Any
from uuid import UUID

from sqlalchemy import func

from src.database.base import check_aware, check_id, utc_now
from src.database.models import Note
from src.database.session import AsyncSession
from src.database.statements.updating import update_one

__all__ = ["archive", "pin", "unarchive"]


async def pin(session: AsyncSession, note_id: UUID, *, pinned: bool) -> Note | None:
    """Pin or unpin a live note, and return it, or None if there is none."""
    return await _set(session, note_id, pinned=pinned)


async def archive(session: AsyncSession, note_id: UUID, now: datetime | None) -> Note | None:
    """Archive a live note, and return it, or None if there is none; an archived note keeps its time.

    Raises:
        ValueError: `now` is naive.
    """
    now = now or utc_now()
    check_aware("now", now)
    return await _set(session, note_id, archived_at=func.coalesce(Note.archived_at, now))


async def unarchive(session: AsyncSession, note_id: UUID) -> Note | None:
    """Take a live note out of the archive, and return it, or None if there is none."""
    return await _set(session, note_id, archived_at=None)


async def _set(session: AsyncSession, note_id: UUID, **values: Any) -> Note | None:
    check_id("row_id", note_id)
    return await update_one(session, Note, Note.id == note_id, Note.deleted_at.is_(None), **values)
