"""The two tenants of the tests; the template database has them in its registry."""

from __future__ import annotations

from types import MappingProxyType
from typing import Final
from uuid import UUID

from src.database.models import Tenant

TENANT: Final = "tenant"
OTHER_TENANT: Final = "other-tenant"
TENANTS: Final = MappingProxyType(
    {
        TENANT: UUID("00000000-0000-7000-8000-00000000000a"),
        OTHER_TENANT: UUID("00000000-0000-7000-8000-00000000000b"),
    }
)
"""The ids of the tenants by their slugs."""


def tenant_of(slug: str) -> Tenant:
    """Return a tenant as its registry has it; the object belongs to no session."""
    return Tenant(id=TENANTS[slug], slug=slug, name=slug.replace("-", " ").capitalize(), status="active")
