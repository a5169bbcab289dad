"""A database with two tenants, for tests of the current tenant."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest
from sqlalchemy import URL, text
from sqlalchemy.ext.asyncio import AsyncEngine

from src.config import get_settings
from src.database import create_engine, tenant_context
from src.database.base import uuid7
from src.database.models import Tenant, User
from src.database.session import AsyncSession

A, B = uuid7(), uuid7()
COUNT = text("SELECT count(*) FROM users")


@pytest.fixture
async def engine(cloned_database: URL) -> AsyncIterator[AsyncEngine]:
    """The cloned database, without a default tenant; A and B are registered and have one user each."""
    made = create_engine(get_settings())
    async with AsyncSession(made) as session:
        session.add_all([Tenant(id=A, slug="a", name="A"), Tenant(id=B, slug="b", name="B")])
        await session.commit()
    for tenant in (A, B):
        with tenant_context(tenant):
            async with AsyncSession(made) as session:
                session.add(User(telegram_id=1))
                await session.commit()
    yield made
    await made.dispose()
