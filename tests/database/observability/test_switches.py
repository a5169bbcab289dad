from __future__ import annotations

import asyncio
import gc
import sys
from collections.abc import Callable

import pytest
from prometheus_client import REGISTRY, CollectorRegistry
from sqlalchemy import text

from src.config import Settings
from src.database import get_db, get_engine, observability
from src.database.errors import ConfigurationError
from src.database.observability import source_of
from src.database.session.engines import engine_of_loop
from src.database.store import get_store
from tests.conftest import url_of
from tests.database.observability.conftest import Use, value


async def test_nothing_listens_if_nothing_is_switched_on(use: Use) -> None:
    use()
    async with get_db() as session:
        await session.execute(text("SELECT 1"))
    made = engine_of_loop("default")

    assert source_of(made) is None
    assert source_of(get_engine("store")) is None
    assert len(made.sync_engine.dispatch.before_cursor_execute) == 1, (
        "the listener that records whether COMMIT may be uncertain"
    )
    assert made.pool.around_connect is None  # type: ignore[attr-defined] # it is a sized one
    assert type(get_store()).__name__ == "Store"


@pytest.mark.parametrize("setting", ["DATABASE_METRICS", "DATABASE_TRACING"])
async def test_a_setting_switches_on(use: Use, setting: str) -> None:
    use(**{setting: "true"})
    async with get_db() as session:
        await session.execute(text("SELECT 1"))
    source = source_of(engine_of_loop("default"))

    assert source is not None
    assert source.has_listener("answered")
    if setting == "DATABASE_METRICS":
        assert value(REGISTRY, "transaction_seconds_count", pool="default", outcome="committed") >= 1


@pytest.mark.parametrize(
    ("setting", "package", "extra"),
    [("DATABASE_METRICS", "prometheus_client", "metrics"), ("DATABASE_TRACING", "opentelemetry", "tracing")],
)
async def test_a_missing_package_is_reported_with_how_to_install_it(
    use: Use, monkeypatch: pytest.MonkeyPatch, setting: str, package: str, extra: str
) -> None:
    monkeypatch.setitem(sys.modules, package, None)
    monkeypatch.delitem(sys.modules, f"src.database.observability.{extra}", raising=False)
    monkeypatch.delattr(f"src.database.observability.{extra}", raising=False)
    use(**{setting: "true"})
    with pytest.raises(ConfigurationError, match=f"thea-database\\[{extra}\\]"):
        engine_of_loop("default")

    use(**{setting: "false"})  # so that the fixtures can dispose of the engines


def test_pools_of_a_closed_loop_are_not_exported(
    observed_database: str, use_database: Callable[..., Settings], registry: CollectorRegistry
) -> None:
    use_database(url_of(observed_database).update_query_dict({"pool_max": "2"}))

    async def work() -> float:
        async with get_db() as session:
            await session.execute(text("SELECT 1"))
        await get_store().user_by_telegram_id(1)
        return value(registry, "pool_limit", pool="default") + value(registry, "pool_limit", pool="store")

    limits = [asyncio.run(work()) for _ in range(2)]
    gc.collect()

    assert limits == [4, 4]
    assert registry.get_sample_value("thea_db_pool_limit", {"pool": "default"}) is None
    assert value(registry, "transaction_seconds_count", pool="default", outcome="committed") == 2


async def test_a_retry_is_counted_once_an_engine_is_observed(use: Use, registry: CollectorRegistry) -> None:
    use()
    observability.count_retry("DeadlockError")
    before = value(registry, "retries_total", reason="DeadlockError")
    async with get_db() as session:
        await session.execute(text("SELECT 1"))
    observability.count_retry("DeadlockError")

    assert value(registry, "retries_total", reason="DeadlockError") == before + 1
