"""The registry of tenants. Every transaction can read all entries, and change only that of the current tenant."""

from __future__ import annotations

from typing import TYPE_CHECKING, Unpack
from uuid import UUID

from sqlalchemy import CheckConstraint, Index, text
from sqlalchemy.orm import Mapped, mapped_column

from src.database.base import Base, CleanText, uuid7
from src.database.models.limits import RETENTION_DAYS, SLUG_PATTERN, TENANT_NAME, TENANT_STATUS, TenantStatus

if TYPE_CHECKING:
    from src.database.models.attributes import TenantAttributes


class Tenant(Base):
    """A tenant. Every tenant can read the whole table, so it has no personal data and no secrets.

    `TenantRepository` can change any entry. Your own UPDATE or DELETE affects only the entry of the current tenant.
    """

    __tablename__ = "tenants"

    id: Mapped[UUID] = mapped_column(primary_key=True, default=uuid7, sort_order=-1)
    slug: Mapped[str] = mapped_column(unique=True)
    name: Mapped[str]
    status: Mapped[TenantStatus] = mapped_column(CleanText(), default="active", server_default="active")
    retention_days: Mapped[int | None]

    if TYPE_CHECKING:

        def __init__(self, **values: Unpack[TenantAttributes]) -> None: ...

    __table_args__ = (
        CheckConstraint("jsonb_typeof(metadata) = 'object'", name="metadata"),
        CheckConstraint(f"slug ~ '^{SLUG_PATTERN}$'", name="slug"),
        CheckConstraint(TENANT_NAME.sql("name"), name="name"),
        CheckConstraint(TENANT_STATUS.sql("status"), name="status"),
        CheckConstraint(RETENTION_DAYS.sql("retention_days"), name="retention_days"),
        # TenantRepository.active.
        Index("ix_tenants_active", "id", postgresql_where=text("status = 'active'")),
    )
