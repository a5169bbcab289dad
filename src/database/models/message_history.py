"""The messages of conversations, numbered in commit order."""

from __future__ import annotations

from datetime import datetime
from typing import TYPE_CHECKING, Any, Unpack
from uuid import UUID

from sqlalchemy import BigInteger, CheckConstraint, UniqueConstraint, text
from sqlalchemy.orm import Mapped, mapped_column, relationship

from src.database.base import ChangeableList, CleanText, Json, TenantBase, tenant_foreign_key, tenant_index
from src.database.models.limits import ROLE, STATE, Role, State

if TYPE_CHECKING:
    from src.database.models.attributes import MessageHistoryAttributes
    from src.database.models.conversation import Conversation
    from src.database.models.user import User


class MessageHistory(TenantBase):
    """A message. ``seq`` numbers a conversation's messages in commit order, without gaps.

    ``message_id`` is the idempotency key. ``fingerprint`` is the SHA-256 of the message that was first appended under
    the key; it distinguishes a repeated delivery from a different message with the same key, also after edits. It is
    NULL if the first delivery was already an edited version.
    """

    __tablename__ = "message_history"

    conversation_id: Mapped[UUID]
    user_id: Mapped[UUID]
    seq: Mapped[int] = mapped_column(BigInteger)
    message_id: Mapped[str]
    fingerprint: Mapped[bytes | None]
    role: Mapped[Role] = mapped_column(CleanText())
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
    state: Mapped[State] = mapped_column(CleanText(), default="complete", server_default="complete")
    edited_at: Mapped[datetime | None]
    deleted_at: Mapped[datetime | None]

    conversation: Mapped[Conversation] = relationship(back_populates="messages", lazy="raise", overlaps="messages,user")
    user: Mapped[User] = relationship(back_populates="messages", lazy="raise", overlaps="messages,conversation")

    if TYPE_CHECKING:

        def __init__(self, **values: Unpack[MessageHistoryAttributes]) -> None: ...

    __table_args__ = (
        tenant_foreign_key("conversation_id", "conversations"),
        tenant_foreign_key("user_id", "users"),
        tenant_foreign_key("parent_id", "message_history"),
        UniqueConstraint("tenant_id", "conversation_id", "seq"),
        UniqueConstraint("tenant_id", "message_id"),
        # `models/limits.py` checks the other limits before a statement is sent: each CHECK adds 2 % to an append.
        # These two stay because a bad value breaks the conversation. Model providers reject an unknown role.
        CheckConstraint(ROLE.sql("role"), name="role"),
        # A message in an unknown state never ends, and the followers of the conversation (`tail`) would wait forever.
        CheckConstraint(STATE.sql("state"), name="state"),
        # The messages of a user by age: export, and retention.
        tenant_index("ix_message_history_user_id", "user_id", "created_at"),
        # `usage` by day, and `purge`.
        tenant_index("ix_message_history_created_at", "created_at"),
        # The foreign key of parent_id: removing a message looks for its answers.
        tenant_index("ix_message_history_parent_id", "parent_id", where="parent_id IS NOT NULL"),
        # The result of a tool call.
        tenant_index(
            "ix_message_history_tool_call_id", "conversation_id", "tool_call_id", where="tool_call_id IS NOT NULL"
        ),
        # interrupt_stale: the answers that are still being written.
        tenant_index("ix_message_history_unfinished", "conversation_id", "seq", where="state = 'incomplete'"),
        # Retention: the rows to purge.
        tenant_index("ix_message_history_deleted_at", "deleted_at", where="deleted_at IS NOT NULL"),
    )
