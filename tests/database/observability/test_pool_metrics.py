from __future__ import annotations

import asyncio

import pytest
from prometheus_client import CollectorRegistry
from sqlalchemy import text

from src.database import engine, get_db
from src.database.errors import ConnectionFailed
from tests.database.observability.conftest import Use, value


async def test_a_pool_exports_its_connections_in_use_and_its_waiting_callers(
    use: Use, registry: CollectorRegistry
) -> None:
    use()
    async with engine.connect(), engine.connect():
        waiting = asyncio.create_task(_use_one())
        while not value(registry, "pool_waiting", pool="default"):  # noqa: ASYNC110 - the pool has no event for it
            await asyncio.sleep(0)
        full = {field: value(registry, f"pool_{field}", pool="default") for field in ("size", "in_use", "limit")}
    await waiting

    assert full == {"size": 2, "in_use": 2, "limit": 2}
    assert value(registry, "pool_in_use", pool="default") == value(registry, "pool_waiting", pool="default") == 0
    assert value(registry, "checkout_seconds_count", pool="default") == 3
    assert value(registry, "connections_opened_total", pool="default") == 2


async def _use_one() -> None:
    async with engine.connect():
        pass


async def test_a_disposed_engine_that_is_used_again_is_still_observed(use: Use, registry: CollectorRegistry) -> None:
    use()
    await _use_one()
    await engine.dispose()
    await _use_one()

    assert value(registry, "checkout_seconds_count", pool="default") == 2
    assert value(registry, "pool_size", pool="default") == 1


async def test_a_connection_that_was_killed_counts_as_lost(use: Use, registry: CollectorRegistry) -> None:
    use()
    kill = text("SELECT pg_terminate_backend(pg_backend_pid())")
    with pytest.raises(ConnectionFailed):
        async with get_db() as session:
            await session.execute(kill)

    assert value(registry, "connections_dropped_total", pool="default", reason="lost") == 1
    assert value(registry, "errors_total", pool="default", error="ConnectionFailed") >= 1


async def test_a_cancelled_statement_counts_as_cancelled(use: Use, registry: CollectorRegistry) -> None:
    use()
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(1), get_db() as session:
            await session.execute(text("SELECT pg_sleep(60)"))

    assert value(registry, "connections_dropped_total", pool="default", reason="cancelled") == 1
    assert value(registry, "errors_total", pool="default", error="CancelledError") == 1
