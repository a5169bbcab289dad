"""The registry of tenants: each transaction reads all entries, and changes the current tenant's alone."""

from __future__ import annotations

from uuid import UUID

from sqlalchemy import CheckConstraint, Index, text
from sqlalchemy.orm import Mapped, mapped_column

from src.database.base import Base, uuid7
from src.database.models.limits import RETENTION_DAYS, SLUG, TENANT_NAME


class Tenant(Base):
    """A tenant. The table has ids and names only: every tenant can read it.

    `TenantRepository` changes any entry; an UPDATE or DELETE of your own finds the current tenant's entry alone.
    """

    __tablename__ = "tenants"

    id: Mapped[UUID] = mapped_column(primary_key=True, default=uuid7, sort_order=-1)
    slug: Mapped[str] = mapped_column(unique=True)
    name: Mapped[str]
    status: Mapped[str] = mapped_column(default="active", server_default="active")
    retention_days: Mapped[int | None]

    __table_args__ = (
        CheckConstraint("jsonb_typeof(metadata) = 'object'", name="metadata"),
        CheckConstraint(f"slug ~ '^{SLUG}$'", name="slug"),
        CheckConstraint(TENANT_NAME.sql("name"), name="name"),
        CheckConstraint("status IN ('active', 'suspended')", name="status"),
        CheckConstraint(RETENTION_DAYS.sql("retention_days"), name="retention_days"),
        # Workers go through the active ones.
        Index("ix_tenants_active", "id", postgresql_where=text("status = 'active'")),
    )
