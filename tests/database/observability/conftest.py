"""Sessions and a store that are observed, with pools of two connections."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Iterator
from uuid import UUID

import pytest
from prometheus_client import CollectorRegistry
from pytest_postgresql import factories
from pytest_postgresql.executors import NoopExecutor
from sqlalchemy import URL

from src.config import Settings
from src.database import engine, get_engine, observability
from src.database.base import uuid7
from tests.conftest import url_of

# These tests commit; each has its own tenant.
postgresql_observed = factories.postgresql_noproc(dbname="observed", depends_on="postgresql_template")

Use = Callable[..., Settings]


@pytest.fixture
def tenant() -> UUID:
    return uuid7()


@pytest.fixture
async def use(
    postgresql_observed: NoopExecutor, use_database: Callable[..., Settings], tenant: UUID
) -> AsyncIterator[Use]:
    """Points `get_db` and `get_store` at a database with pools of two connections; variables switch observers on."""
    url = url_of(postgresql_observed.template_dbname).update_query_dict({"pool_max": "2"})

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
