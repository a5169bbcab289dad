"""Conversations of a user, on a channel and in a chat."""

from __future__ import annotations

from datetime import datetime
from typing import TYPE_CHECKING, Unpack
from uuid import UUID

from sqlalchemy import BigInteger, CheckConstraint, UniqueConstraint, text
from sqlalchemy.orm import Mapped, mapped_column, relationship

from src.database.base import TenantBase, tenant_foreign_key, tenant_index

if TYPE_CHECKING:
    from src.database.models.attributes import ConversationAttributes
    from src.database.models.message_history import MessageHistory
    from src.database.models.user import User


class Conversation(TenantBase):
    """A thread of messages. ``last_seq`` is the number of the message appended last; an append locks the row.

    The turn, the right to answer, is leased to one worker: ``turn_claimed_by`` until ``turn_claimed_until``.
    ``turn_token`` is a fencing token: each claim increments it, so a worker that returns with a lower token has lost
    the turn.
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

    if TYPE_CHECKING:

        def __init__(self, **values: Unpack[ConversationAttributes]) -> None: ...

    __table_args__ = (
        tenant_foreign_key("user_id", "users"),
        UniqueConstraint("tenant_id", "session_id"),
        # `models/limits.py` checks single values before a statement is sent: an append updates this row, and each CHECK
        # adds 2 % to its cost. These CHECKs compare two columns, of which a caller may set only one.
        # A summary that covers future messages would hide them from the language model.
        CheckConstraint("summary_upto_seq BETWEEN 0 AND last_seq", name="summary_upto_seq"),
        # A turn that is claimed without an end could never be claimed again.
        CheckConstraint("(turn_claimed_by IS NULL) = (turn_claimed_until IS NULL)", name="turn_claim"),
        # A closed conversation that is active would receive the messages of its chat, and could never be closed.
        CheckConstraint("NOT is_active OR closed_at IS NULL", name="closed_is_inactive"),
        # A user has at most one active conversation per channel and chat. NULL is one chat too: NULLS NOT DISTINCT.
        tenant_index(
            "uq_conversations_active",
            "user_id",
            "channel",
            "external_chat_id",
            unique=True,
            postgresql_nulls_not_distinct=True,
            where="is_active AND deleted_at IS NULL",
        ),
        # page_for_user, and the check of the foreign key when a user is erased.
        tenant_index("ix_conversations_user_id", "user_id", "id"),
        # close_stale. An append changes an indexed value here, so its update is not heap-only and writes to every
        # index: 14 % of the cost of an append. Without the index, each batch would read all active conversations of the
        # tenant.
        tenant_index(
            "ix_conversations_idle",
            text("coalesce(last_message_at, created_at)"),
            where="is_active AND deleted_at IS NULL",
        ),
        # Retention: the rows to purge.
        tenant_index("ix_conversations_deleted_at", "deleted_at", where="deleted_at IS NOT NULL"),
        # Each turn updates the row three times: claim, renew, release. No index has these columns, so with free space
        # in the page these updates are heap-only (HOT) and write to no index.
        {"postgresql_with": {"fillfactor": 80}},
    )
