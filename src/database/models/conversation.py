"""Conversations: a user, on a channel, in a chat."""

from __future__ import annotations

from datetime import datetime
from typing import TYPE_CHECKING
from uuid import UUID

from sqlalchemy import BigInteger, CheckConstraint, ForeignKeyConstraint, Index, UniqueConstraint, text
from sqlalchemy.orm import Mapped, mapped_column, relationship

from src.database.base import TenantBase

if TYPE_CHECKING:
    from src.database.models.message_history import MessageHistory
    from src.database.models.user import User


class Conversation(TenantBase):
    """A thread of messages. ``last_seq`` counts what was ever appended; its row is the lock of every append.

    The turn is leased: who answers now, until when, and under which token (the fence: it only ever grows, so who
    comes back with an older one has lost the turn).
    """

    __tablename__ = "conversations"

    user_id: Mapped[UUID]
    session_id: Mapped[str]
    is_active: Mapped[bool] = mapped_column(default=True, server_default=text("true"))
    channel: Mapped[str]
    external_chat_id: Mapped[str | None]
    title: Mapped[str | None]
    summary: Mapped[str | None]
    summary_upto_seq: Mapped[int] = mapped_column(BigInteger, default=0, server_default=text("0"))
    last_seq: Mapped[int] = mapped_column(BigInteger, default=0, server_default=text("0"))
    last_message_at: Mapped[datetime | None]
    closed_at: Mapped[datetime | None]
    close_reason: Mapped[str | None]
    turn_token: Mapped[int] = mapped_column(BigInteger, default=0, server_default=text("0"))
    turn_claimed_by: Mapped[str | None]
    turn_claimed_until: Mapped[datetime | None]
    deleted_at: Mapped[datetime | None]

    user: Mapped[User] = relationship(back_populates="conversations", lazy="raise")
    messages: Mapped[list[MessageHistory]] = relationship(
        back_populates="conversation",
        lazy="raise",
        passive_deletes="all",
        order_by="MessageHistory.seq",
        overlaps="messages,user",
    )

    __table_args__ = (
        ForeignKeyConstraint(["tenant_id", "user_id"], ["users.tenant_id", "users.id"]),
        UniqueConstraint("tenant_id", "session_id"),
        # Limits of single values are checked before a statement is sent (`models/limits.py`): an append updates this
        # row, and each CHECK costs it 2 %. These compare two columns, which no caller sees at the same time.
        # A summary that covers messages to come would keep them from the model.
        CheckConstraint("summary_upto_seq BETWEEN 0 AND last_seq", name="summary_upto_seq"),
        # A turn that is claimed without an end would never be free again.
        CheckConstraint("(turn_claimed_by IS NULL) = (turn_claimed_until IS NULL)", name="turn_claim"),
        # A closed conversation that is active would take the messages of its chat and never be closed again.
        CheckConstraint("NOT is_active OR closed_at IS NULL", name="closed_is_inactive"),
        # At most one is active per user, channel and chat; two unnamed chats are the same chat.
        Index(
            "uq_conversations_active",
            "tenant_id",
            "user_id",
            "channel",
            "external_chat_id",
            unique=True,
            postgresql_nulls_not_distinct=True,
            postgresql_where=text("is_active AND deleted_at IS NULL"),
        ),
        # page_for_user; and the foreign key, when a user is erased.
        Index("ix_conversations_user_id", "tenant_id", "user_id", "id"),
        # close_stale: what has gone quiet and may be closed. Because of this index each append updates all indexes of
        # the row, 14 % of its cost; without it each batch reads all active conversations of the tenant.
        Index(
            "ix_conversations_idle",
            "tenant_id",
            text("coalesce(last_message_at, created_at)"),
            postgresql_where=text("is_active AND deleted_at IS NULL"),
        ),
        # What retention may purge.
        Index(
            "ix_conversations_deleted_at", "tenant_id", "deleted_at", postgresql_where=text("deleted_at IS NOT NULL")
        ),
        # Each turn claims, renews and releases the row. No index has these columns, so with room in the page these
        # updates are heap-only and leave every index as it is.
        {"postgresql_with": {"fillfactor": 80}},
    )
