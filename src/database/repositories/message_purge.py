"""Old messages leave for good, some at a time."""

from __future__ import annotations

from datetime import datetime
from uuid import UUID

from sqlalchemy import delete, func, update

from src.database.base import check_aware
from src.database.models import MessageHistory, Note
from src.database.pagination import check_limit
from src.database.repositories.message_rows import MessageRows

__all__ = ["MessagePurge"]


class MessagePurge(MessageRows):
    """The end of the acting tenant's messages."""

    async def purge(
        self,
        before: datetime,
        *,
        user_id: UUID | None = None,
        only_deleted: bool = False,
        limit: int = 1000,
        dry_run: bool = False,
    ) -> int:
        """Erase the oldest messages that were said before an instant, soft-deleted ones too: one batch.

        Commit, and call again until it returns 0; it goes on where it was, after a crash too. Notes and answers that
        refer to what is erased stay, without the reference. A `seq` is not given again. A key is free again: what
        is delivered once more after that is appended as new. What another transaction holds is passed over.

        Args:
            before: Exclusive.
            user_id: Only this user's.
            only_deleted: Only what was soft-deleted before that instant, whenever it was said.
            limit: The batch's size, 1 to 1000.
            dry_run: Erase nothing, and count all that the calls would erase, in all batches.

        Returns:
            How many were erased, or would be.

        Raises:
            ValueError: `before` is naive, or the limit is not from 1 to 1000.
        """
        check_limit(limit)
        check_aware("before", before)
        since = MessageHistory.deleted_at if only_deleted else MessageHistory.created_at
        of_user = [] if user_id is None else [MessageHistory.user_id == user_id]
        old = self._select(since < before, *of_user, include_deleted=True)
        if dry_run:
            return await self.session.scalar(old.with_only_columns(func.count())) or 0
        batch = old.with_only_columns(MessageHistory.id).order_by(since).limit(limit)
        ids = list(await self.session.scalars(batch.with_for_update(skip_locked=True)))
        if ids:
            await self._erase(ids)
        return len(ids)

    async def _erase(self, ids: list[UUID]) -> None:
        """Erase locked messages, each step in a statement of its own: it sees every reference made before the lock."""
        tenant_id = self.session.tenant_id
        for statement in (
            update(Note)
            .where(Note.tenant_id == tenant_id, Note.source_message_id.in_(ids))
            .values(source_message_id=None),
            update(MessageHistory)
            .where(MessageHistory.tenant_id == tenant_id, MessageHistory.parent_id.in_(ids))
            .values(parent_id=None),
            delete(MessageHistory).where(MessageHistory.tenant_id == tenant_id, MessageHistory.id.in_(ids)),
        ):
            await self.session.execute(statement, execution_options={"synchronize_session": False})
