from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from uuid import UUID

import pytest
from sqlalchemy import URL

from src.config import Settings
from src.database import get_db, get_engine, tenant_context
from src.database.base import uuid7
from src.database.models import Tenant
from tests.conftest import SERVER, url_of
from tests.database.store.paths import ByRepositories, ByStore, Path


# One database for all of these tests, which commit; each test has its own tenant.
@pytest.fixture(scope="session")
def store_database() -> str:
    """A migrated database of the worker."""
    return SERVER.clone()


@pytest.fixture
async def pooled(store_database: str, use_database: Callable[..., Settings]) -> AsyncIterator[URL]:
    """A database with a new default tenant without rows, and pools of four connections."""
    url = url_of(store_database).update_query_dict({"pool_max": "4"})
    use_database(url, DATABASE_DEFAULT_TENANT=str(uuid7()))
    yield url
    await get_engine("store").dispose()


@pytest.fixture(params=[ByRepositories, ByStore], ids=["repositories", "store"])
def path(request: pytest.FixtureRequest, pooled: URL) -> Path:
    path: Path = request.param()
    return path


@pytest.fixture
async def conversation_id(pooled: URL) -> UUID:
    """An empty conversation of the user with the Telegram id 1."""
    turn = await ByRepositories().turn(1, "1", [])
    return turn.conversation_id


@pytest.fixture
async def others_conversation(pooled: URL) -> UUID:
    """A conversation of another tenant."""
    tenant = uuid7()
    async with get_db() as session:
        session.add(Tenant(id=tenant, slug=f"other-{tenant}", name="Other"))
    with tenant_context(tenant):
        return (await ByRepositories().turn(1, "1", [])).conversation_id
