"""Messages, in the order in which they were committed."""

from __future__ import annotations

from datetime import datetime
from typing import TYPE_CHECKING, Any
from uuid import UUID

from sqlalchemy import BigInteger, CheckConstraint, ForeignKeyConstraint, Index, UniqueConstraint, text
from sqlalchemy.orm import Mapped, mapped_column, relationship

from src.database.base import ChangeableList, Json, TenantBase
from src.database.models.limits import ROLE, STATE

if TYPE_CHECKING:
    from src.database.models.conversation import Conversation
    from src.database.models.user import User


class MessageHistory(TenantBase):
    """One message. ``seq`` runs without gaps in commit order; ``message_id`` is the idempotency key.

    ``fingerprint`` is the SHA-256 of what was first appended under the key. It tells a message that came twice
    from another one with the same key, after edits too; it is null where only an edited version was ever seen.
    """

    __tablename__ = "message_history"

    conversation_id: Mapped[UUID]
    user_id: Mapped[UUID]
    seq: Mapped[int] = mapped_column(BigInteger)
    message_id: Mapped[str]
    fingerprint: Mapped[bytes | None]
    role: Mapped[str]
    content: Mapped[str | None]
    parts: Mapped[list[Any] | None] = mapped_column(ChangeableList.as_mutable(Json("parts", none_as_null=True)))
    attachments: Mapped[list[Any]] = mapped_column(
        ChangeableList.as_mutable(Json("attachments")), default=list, server_default=text("'[]'::jsonb")
    )
    parent_id: Mapped[UUID | None]
    tool_call_id: Mapped[str | None]
    tool_name: Mapped[str | None]
    model: Mapped[str | None]
    input_tokens: Mapped[int | None]
    output_tokens: Mapped[int | None]
    token_count: Mapped[int | None]
    state: Mapped[str] = mapped_column(default="complete", server_default="complete")
    edited_at: Mapped[datetime | None]
    deleted_at: Mapped[datetime | None]

    conversation: Mapped[Conversation] = relationship(back_populates="messages", lazy="raise", overlaps="messages,user")
    user: Mapped[User] = relationship(back_populates="messages", lazy="raise", overlaps="messages,conversation")

    __table_args__ = (
        ForeignKeyConstraint(["tenant_id", "conversation_id"], ["conversations.tenant_id", "conversations.id"]),
        ForeignKeyConstraint(["tenant_id", "user_id"], ["users.tenant_id", "users.id"]),
        ForeignKeyConstraint(["tenant_id", "parent_id"], ["message_history.tenant_id", "message_history.id"]),
        UniqueConstraint("tenant_id", "conversation_id", "seq"),
        UniqueConstraint("tenant_id", "message_id"),
        # The other limits are checked before a statement is sent (`models/limits.py`): a CHECK costs an append 2 %.
        # Model providers refuse a conversation that has a message with an unknown role.
        CheckConstraint(ROLE.sql("role"), name="role"),
        # A message in an unknown state never ends, and those who follow the conversation wait for it forever.
        CheckConstraint(STATE.sql("state"), name="state"),
        # A person's messages, newest first; what retention may purge.
        Index("ix_message_history_user_id", "tenant_id", "user_id", "created_at"),
        # Usage by day, and what retention may purge.
        Index("ix_message_history_created_at", "tenant_id", "created_at"),
        # The answers to a message.
        Index("ix_message_history_parent_id", "tenant_id", "parent_id", postgresql_where=text("parent_id IS NOT NULL")),
        # A tool's result beside its call.
        Index(
            "ix_message_history_tool_call_id",
            "tenant_id",
            "conversation_id",
            "tool_call_id",
            postgresql_where=text("tool_call_id IS NOT NULL"),
        ),
        # Answers that are not finished: interrupt_stale.
        Index(
            "ix_message_history_unfinished",
            "tenant_id",
            "conversation_id",
            "seq",
            postgresql_where=text("state = 'incomplete'"),
        ),
        # What retention may purge.
        Index(
            "ix_message_history_deleted_at", "tenant_id", "deleted_at", postgresql_where=text("deleted_at IS NOT NULL")
        ),
    )
