"""Which messages are there."""

from __future__ import annotations

from datetime import datetime
from typing import Any
from uuid import UUID

from sqlalchemy import BindParameter, Select, case

from src.database.base import check_id
from src.database.models import MessageHistory
from src.database.repositories.base import Condition, Repository
from src.database.statements import windows

__all__ = ["MessageRows"]


class MessageRows(Repository[MessageHistory]):
    """The messages that are there: none that is deleted, and none of a deleted conversation until that is restored."""

    model = MessageHistory

    def _select(self, *where: Condition, include_deleted: bool = False) -> Select[Any]:
        statement = super()._select(*where, include_deleted=include_deleted)
        return statement if include_deleted else statement.where(windows.conversation_is_there(self.session.tenant_id))

    def _in(self, conversation_id: UUID | BindParameter[UUID]) -> Select[Any]:
        """Return a select of one conversation's live messages."""
        if not isinstance(conversation_id, BindParameter):
            check_id("conversation_id", conversation_id)
        return windows.of_conversation((MessageHistory,), self.session.tenant_id, conversation_id)

    async def _set_deleted_at(
        self, row_id: UUID, deleted_at: datetime | None, *where: Condition, **values: Any
    ) -> MessageHistory:
        """Interrupt what comes back incomplete: who follows the conversation may have passed it, and is not told."""
        if deleted_at is None:
            left = MessageHistory.deleted_at.is_not(None) & (MessageHistory.state == "incomplete")
            values["state"] = case((left, "interrupted"), else_=MessageHistory.state)
        return await super()._set_deleted_at(
            row_id, deleted_at, *where, windows.conversation_is_there(self.session.tenant_id), **values
        )
