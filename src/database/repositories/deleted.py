"""What a deleted conversation takes out of sight."""

from __future__ import annotations

from uuid import UUID

from sqlalchemy import ColumnElement, select

from src.database.models import Conversation, MessageHistory

__all__ = ["conversation_is_there"]


def conversation_is_there(tenant_id: UUID) -> ColumnElement[bool]:
    """Look at the conversation of each message, by its key: a message of a deleted one is not there.

    It is no join, for which the planner has to guess how many conversations are deleted: where many were of late, it
    would go through all of them for each message.
    """
    conversations = Conversation.__table__  # Core's: what the options say of the mapped class is not said of it
    # Its truth, and not the time: of a subquery IS NULL the planner takes hardly any row to be true.
    is_there = select(conversations.c.deleted_at.is_(None)).where(
        conversations.c.tenant_id == tenant_id, conversations.c.id == MessageHistory.conversation_id
    )
    return is_there.scalar_subquery()
