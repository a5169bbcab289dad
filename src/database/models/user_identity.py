"""The identities that users have at other systems."""

from __future__ import annotations

from typing import TYPE_CHECKING, Unpack
from uuid import UUID

from sqlalchemy import CheckConstraint, UniqueConstraint
from sqlalchemy.orm import Mapped, relationship

from src.database.base import TenantBase, tenant_foreign_key, tenant_index
from src.database.models.limits import TELEGRAM

if TYPE_CHECKING:
    from src.database.models.attributes import UserIdentityAttributes
    from src.database.models.user import User


class UserIdentity(TenantBase):
    """The id of a user (``subject``) at another system (``provider``). A user may have several.

    The Telegram id of a user is ``users.telegram_id``, and no identity.
    """

    __tablename__ = "user_identities"

    user_id: Mapped[UUID]
    provider: Mapped[str]
    subject: Mapped[str]

    user: Mapped[User] = relationship(back_populates="identities", lazy="raise")

    if TYPE_CHECKING:

        def __init__(self, **values: Unpack[UserIdentityAttributes]) -> None: ...

    __table_args__ = (
        tenant_foreign_key("user_id", "users"),
        # get_or_create_by_identity. There is no deleted_at: a deleted user's identity passes to the next user.
        UniqueConstraint("tenant_id", "provider", "subject"),
        # `models/limits.py` checks the other limits before a statement is sent. This one is also a CHECK because the
        # user of a Telegram id would be found by one of two calls only.
        CheckConstraint(f"lower(provider) <> '{TELEGRAM}'", name="provider"),
        # The identities of a user, and the check of the foreign key when a user is erased.
        tenant_index("ix_user_identities_user_id", "user_id"),
    )
