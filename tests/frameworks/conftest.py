"""Two registered tenants."""

from __future__ import annotations

from uuid import UUID

import pytest
from sqlalchemy import URL

from src.database import get_db
from src.database.base import uuid7
from src.database.models import Tenant


@pytest.fixture
async def tenants(cloned_database: URL) -> dict[str, UUID]:
    """The ids of two tenants, by their slugs."""
    ids = {"acme": uuid7(), "globex": uuid7()}
    async with get_db() as session:
        session.add_all([Tenant(id=tenant_id, slug=slug, name=slug) for slug, tenant_id in ids.items()])
    return ids
