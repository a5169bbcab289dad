"""Sessions and a store that are observed, with pools of two connections."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Iterator
from uuid import UUID

import pytest
from prometheus_client import CollectorRegistry
from sqlalchemy import URL

from src.config import Settings
from src.database import engine, get_engine, observability
from src.database.base import uuid7
from tests.conftest import SERVER, url_of


# These tests commit; each has its own tenant.
@pytest.fixture(scope="session")
def observed_database() -> str:
    """A migrated database of the worker."""
    return SERVER.clone()


Use = Callable[..., Settings]


@pytest.fixture
def tenant() -> UUID:
    return uuid7()


@pytest.fixture
async def use(observed_database: str, use_database: Callable[..., Settings], tenant: UUID) -> AsyncIterator[Use]:
    """Points `get_db` and `get_store` at a database with pools of two connections; variables switch observers on."""
    url = url_of(observed_database).update_query_dict({"pool_max": "2"})

    def use(at: URL = url, **variables: str) -> Settings:
        return use_database(at, **{"DATABASE_DEFAULT_TENANT": str(tenant), **variables})

    yield use
    await engine.dispose()
    await get_engine("store").dispose()


@pytest.fixture
def registry() -> Iterator[CollectorRegistry]:
    """Prometheus metrics in a registry for this test."""
    registry = CollectorRegistry()
    observability.use_metrics(registry)
    yield registry
    observability.use_settings_alone()


def value(registry: CollectorRegistry, name: str, **labels: str) -> float:
    """Return the value of a metric, or 0 if there is none."""
    return registry.get_sample_value(f"thea_db_{name}", labels) or 0
