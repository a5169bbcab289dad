"""Which messages are there."""

from __future__ import annotations

from datetime import datetime
from typing import Any
from uuid import UUID

from sqlalchemy import BindParameter, ColumnElement, Select, case, select

from src.database.models import Conversation, MessageHistory
from src.database.repositories.base import Condition, Repository
from src.database.repositories.deleted import conversation_is_there
from src.database.statements.turn_leases import is_there

__all__ = ["MessageRows"]


class MessageRows(Repository[MessageHistory]):
    """The messages that are there: none that is deleted, and none of a deleted conversation until that is restored."""

    model = MessageHistory

    def _select(self, *where: Condition, include_deleted: bool = False) -> Select[Any]:
        statement = super()._select(*where, include_deleted=include_deleted)
        return statement if include_deleted else statement.where(self._conversation_is_there())

    def _in(self, conversation_id: UUID | BindParameter[UUID]) -> Select[Any]:
        """Begin a query for one conversation's messages: whether it is there is asked once, not for each of them."""
        conversation = select(Conversation.id).where(*is_there(self.session, conversation_id))
        return super()._select(MessageHistory.conversation_id == conversation_id, conversation.exists())

    def _among_many(self) -> Select[Any]:
        """Begin a query over many messages: which conversations are deleted is read once, not asked of each."""
        deleted = select(Conversation.id).where(
            Conversation.tenant_id == self.session.tenant_id, Conversation.deleted_at.is_not(None)
        )
        return super()._select(MessageHistory.conversation_id.not_in(deleted))

    def _conversation_is_there(self) -> ColumnElement[bool]:
        return conversation_is_there(self.session.tenant_id)

    async def _set_deleted_at(
        self, row_id: UUID, deleted_at: datetime | None, *where: Condition, **values: Any
    ) -> MessageHistory:
        """Interrupt what comes back incomplete: who follows the conversation may have passed it, and is not told."""
        if deleted_at is None:
            left = MessageHistory.deleted_at.is_not(None) & (MessageHistory.state == "incomplete")
            values["state"] = case((left, "interrupted"), else_=MessageHistory.state)
        return await super()._set_deleted_at(row_id, deleted_at, *where, self._conversation_is_there(), **values)
