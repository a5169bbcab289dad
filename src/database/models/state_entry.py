"""State entries: small values under keys, of a tenant, a user or a conversation."""

from __future__ import annotations

from datetime import datetime
from typing import TYPE_CHECKING, Any, Unpack
from uuid import UUID

from sqlalchemy import BigInteger, CheckConstraint, Computed, Text, text
from sqlalchemy.orm import Mapped, declared_attr, mapped_column

from src.database.base import Json, TenantBase, tenant_foreign_key, tenant_index

if TYPE_CHECKING:
    from src.database.models.attributes import StateEntryAttributes


class StateEntry(TenantBase):
    """A value under a namespace and a key. Its owner is a user, a conversation, or without both the tenant.

    The value is JSON (``data``) or bytes (``blob``). Only `StateRepository.set` writes the JSON null. ``version`` is 1
    at first, and each write increments it. After ``expires_at`` the entry counts as missing, and retention deletes it.
    """

    __tablename__ = "state_entries"

    user_id: Mapped[UUID | None]
    conversation_id: Mapped[UUID | None]
    # One column that is never NULL: PostgreSQL has no index condition for IS NOT DISTINCT FROM, so that a key of two
    # nullable columns would need a statement for each kind of owner.
    owner_id: Mapped[UUID] = mapped_column(Computed("COALESCE(conversation_id, user_id, tenant_id)", persisted=True))
    namespace: Mapped[str]
    # By code point: the index then serves the keys with a prefix, and is independent of the server's locale data.
    key: Mapped[str] = mapped_column(Text(collation="C"))
    data: Mapped[Any | None] = mapped_column(Json("data", none_as_null=True))
    blob: Mapped[bytes | None]
    version: Mapped[int] = mapped_column(BigInteger, default=1, server_default=text("1"))
    expires_at: Mapped[datetime | None]

    if TYPE_CHECKING:

        def __init__(self, **values: Unpack[StateEntryAttributes]) -> None: ...

    @declared_attr.directive
    @classmethod
    def __mapper_args__(cls) -> dict[str, Any]:
        """Return the mapper options: ``version`` is compared in each UPDATE, which detects a concurrent write."""
        return {"eager_defaults": True, "version_id_col": cls.__table__.c.version}

    __table_args__ = (
        tenant_foreign_key("user_id", "users"),
        tenant_foreign_key("conversation_id", "conversations"),
        CheckConstraint("jsonb_typeof(metadata) = 'object'", name="metadata"),
        CheckConstraint("num_nonnulls(user_id, conversation_id) <= 1", name="owner"),
        CheckConstraint("num_nonnulls(data, blob) = 1", name="value"),
        # `merge` enlarges an object without sending it. The size is that of the header: it costs nothing.
        CheckConstraint("pg_column_size(data) <= 33554432", name="size"),
        tenant_index("uq_state_entries_key", "owner_id", "namespace", "key", unique=True),
        # The foreign keys, and the export and erasure of a user's data.
        tenant_index("ix_state_entries_user_id", "user_id", where="user_id IS NOT NULL"),
        tenant_index("ix_state_entries_conversation_id", "conversation_id", where="conversation_id IS NOT NULL"),
        # Retention: the rows to purge.
        tenant_index("ix_state_entries_expires_at", "expires_at", where="expires_at IS NOT NULL"),
        # Each turn updates its entries; with free space in the page, an update without expiry writes to no index.
        {"postgresql_with": {"fillfactor": 80}},
    )

    @property
    def value(self) -> Any:
        """The value: bytes or JSON."""
        return self.data if self.blob is None else self.blob
