"""The people whom the assistant serves."""

from __future__ import annotations

from datetime import datetime
from typing import TYPE_CHECKING, Any, Final

from sqlalchemy import BigInteger, CheckConstraint, Computed, ForeignKeyConstraint, Index, text
from sqlalchemy.orm import Mapped, mapped_column, relationship

from src.database.base import ChangeableDict, Json, TenantBase
from src.database.models.limits import RETENTION_DAYS

if TYPE_CHECKING:
    from src.database.models.conversation import Conversation
    from src.database.models.event import Event
    from src.database.models.message_history import MessageHistory
    from src.database.models.note import Note

# A lazy load in asyncio is an error: ask with `options(selectinload(User.events))`. And whoever deletes a user leaves
# these to the database, which refuses while there are any.
_CHILDREN: Final[dict[str, Any]] = {"back_populates": "user", "lazy": "raise", "passive_deletes": "all"}


class User(TenantBase):
    """One person within one tenant. ``timezone`` is an IANA name."""

    __tablename__ = "users"

    telegram_id: Mapped[int | None] = mapped_column(BigInteger)
    username: Mapped[str | None]
    username_lower: Mapped[str | None] = mapped_column(Computed("lower(username)", persisted=True))
    display_name: Mapped[str | None]
    locale: Mapped[str | None]
    timezone: Mapped[str] = mapped_column(default="UTC", server_default="UTC")
    is_active: Mapped[bool] = mapped_column(default=True, server_default=text("true"))
    preferences: Mapped[dict[str, Any]] = mapped_column(
        ChangeableDict.as_mutable(Json("preferences")), default=dict, server_default=text("'{}'::jsonb")
    )
    retention_days: Mapped[int | None]
    last_seen_at: Mapped[datetime | None]
    deleted_at: Mapped[datetime | None]

    conversations: Mapped[list[Conversation]] = relationship(**_CHILDREN)
    events: Mapped[list[Event]] = relationship(**_CHILDREN)
    messages: Mapped[list[MessageHistory]] = relationship(**_CHILDREN)
    notes: Mapped[list[Note]] = relationship(**_CHILDREN)

    __table_args__ = (
        ForeignKeyConstraint(["tenant_id"], ["tenants.id"]),
        # The other limits are checked before a statement is sent (`models/limits.py`).
        # With zero days or fewer, `purge_expired` would delete all that the user has.
        CheckConstraint(RETENTION_DAYS.sql("retention_days"), name="retention_days"),
        # get_or_create_by_telegram_id; a deleted user's id is free again.
        Index(
            "uq_users_telegram_id", "tenant_id", "telegram_id", unique=True, postgresql_where=text("deleted_at IS NULL")
        ),
        # Look-up by @username as people type it. Under row-level security an index on lower(username) would not serve.
        Index("ix_users_username_lower", "tenant_id", "username_lower"),
        # `page(User.is_active.is_(True))`.
        Index("ix_users_active", "tenant_id", "id", postgresql_where=text("is_active AND deleted_at IS NULL")),
        # What retention may purge.
        Index("ix_users_deleted_at", "tenant_id", "deleted_at", postgresql_where=text("deleted_at IS NOT NULL")),
        # touch_seen changes the row in each turn, and no indexed column: with room in the page it is heap-only.
        {"postgresql_with": {"fillfactor": 90}},
    )
