"""The users of the assistant."""

from __future__ import annotations

from datetime import datetime
from typing import TYPE_CHECKING, Any, Final, Unpack

from sqlalchemy import BigInteger, CheckConstraint, Computed, ForeignKeyConstraint, text
from sqlalchemy.orm import Mapped, mapped_column, relationship

from src.database.base import ChangeableDict, Json, TenantBase, tenant_index
from src.database.models.limits import RETENTION_DAYS

if TYPE_CHECKING:
    from src.database.models.attributes import UserAttributes
    from src.database.models.conversation import Conversation
    from src.database.models.event import Event
    from src.database.models.message_history import MessageHistory
    from src.database.models.note import Note
    from src.database.models.user_identity import UserIdentity

# Under asyncio a lazy load fails, so it raises immediately: load with `options(selectinload(User.events))`.
# passive_deletes: a DELETE of a user does not load or change these rows; the foreign keys reject it while there are
# any.
_CHILDREN: Final[dict[str, Any]] = {"back_populates": "user", "lazy": "raise", "passive_deletes": "all"}


class User(TenantBase):
    """A person, within one tenant. ``timezone`` is an IANA name.

    ``is_person`` is False for a sender that is no person: a channel, or a group.
    """

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
    is_person: Mapped[bool] = mapped_column(default=True, server_default=text("true"))
    deleted_at: Mapped[datetime | None]

    conversations: Mapped[list[Conversation]] = relationship(**_CHILDREN)
    events: Mapped[list[Event]] = relationship(**_CHILDREN)
    identities: Mapped[list[UserIdentity]] = relationship(**_CHILDREN)
    messages: Mapped[list[MessageHistory]] = relationship(**_CHILDREN)
    notes: Mapped[list[Note]] = relationship(**_CHILDREN)

    if TYPE_CHECKING:

        def __init__(self, **values: Unpack[UserAttributes]) -> None: ...

    __table_args__ = (
        ForeignKeyConstraint(["tenant_id"], ["tenants.id"]),
        # `models/limits.py` checks the other limits before a statement is sent. This one is also a CHECK because with
        # zero or fewer days `purge_expired` would delete all messages of the user.
        CheckConstraint(RETENTION_DAYS.sql("retention_days"), name="retention_days"),
        # get_or_create_by_telegram_id. The Telegram id of a deleted user is free again.
        tenant_index("uq_users_telegram_id", "telegram_id", unique=True, where="deleted_at IS NULL"),
        # get_by_username. The column is generated because an index on lower(username) would not be used: lower() is not
        # leakproof, so the planner cannot apply it before the policy of row-level security.
        tenant_index("ix_users_username_lower", "username_lower"),
        # `page(User.is_active.is_(True))`.
        tenant_index("ix_users_active", "id", where="is_active AND deleted_at IS NULL"),
        # Retention: the rows to purge.
        tenant_index("ix_users_deleted_at", "deleted_at", where="deleted_at IS NOT NULL"),
        # touch_seen updates the row in each turn, without an indexed column: with free space in the page it is
        # heap-only.
        {"postgresql_with": {"fillfactor": 90}},
    )
