"""Two registered tenants; a user, for the adapters to agent SDKs."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from uuid import UUID

import pytest
from sqlalchemy import URL

from src.config import Settings
from src.database import get_db, get_engine
from src.database.base import uuid7
from src.database.models import Tenant
from src.database.store import get_store
from tests.conftest import SERVER, url_of


@pytest.fixture
async def tenants(cloned_database: URL) -> dict[str, UUID]:
    """The ids of two tenants, by their slugs."""
    ids = {"acme": uuid7(), "globex": uuid7()}
    async with get_db() as session:
        session.add_all([Tenant(id=tenant_id, slug=slug, name=slug) for slug, tenant_id in ids.items()])
    return ids


# One database for all of these tests, which commit; each test has its own tenant.
@pytest.fixture(scope="session")
def sdk_database() -> str:
    """A migrated database of the worker."""
    return SERVER.clone()


@pytest.fixture
async def sdk_url(sdk_database: str, use_database: Callable[..., Settings]) -> AsyncIterator[URL]:
    """The URL of a database with a new default tenant without rows."""
    url = url_of(sdk_database).update_query_dict({"pool_max": "4"})
    use_database(url, DATABASE_DEFAULT_TENANT=str(uuid7()))
    yield url
    await get_engine("store").dispose()


@pytest.fixture
async def user_id(sdk_url: URL) -> UUID:
    """A user of the default tenant."""
    user, _ = await get_store().get_or_create_user(1)
    return user.id
