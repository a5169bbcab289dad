"""The alert rules, evaluated on the metrics of a real process: each fires for its cause alone."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import psycopg
import pytest
from prometheus_client import CollectorRegistry
from ruamel.yaml import YAML
from sqlalchemy import URL, text

from src.config import Settings
from src.database import engine, get_db, get_read_db, observability
from src.database.engine import DatabaseEngine
from src.database.errors import CheckViolation, ConnectionFailed, DatabaseError, PoolExhausted
from src.database.health.gauges import measure
from src.database.models import Tenant, User
from src.database.store import get_store
from tests.database.observability.conftest import Use
from tests.database.observability.promql import Scrapes

FILE = Path(__file__).parents[3] / "docs" / "operations" / "alerts.yaml"
RULES = [rule for group in YAML(typ="safe").load(FILE.read_text())["groups"] for rule in group["rules"]]
NOWHERE = URL.create(
    "postgresql", username="nobody", host="127.0.0.1", port=1, database="none", query={"pool_max": "2"}
)

Firing = Callable[[], set[str]]


@pytest.fixture
def firing(registry: CollectorRegistry) -> Firing:
    """Scrape, 15 s after the scrape before, and return the names of the alerts whose expressions hold."""
    scrapes = Scrapes()

    def firing() -> set[str]:
        scrapes.scrape(registry, at=15.0 * len(scrapes.taken))
        return {rule["alert"].removeprefix("TheaDatabase") for rule in RULES if scrapes.evaluate(rule["expr"])}

    return firing


def text_of(url: URL | None) -> str:
    assert url is not None
    return url.render_as_string(hide_password=False)


async def serve() -> None:
    """Use every pool of a process once."""
    async with get_db() as session:
        await session.execute(text("SELECT 1"))
    async with get_read_db() as reading:
        await reading.execute(text("SELECT 1"))
    await get_store().get_or_create_user(1)


async def test_no_alert_fires_in_a_healthy_service_without_a_replica(use: Use, firing: Firing) -> None:
    use()
    before_any_use = firing()
    await serve()
    before_any_check = firing()
    await measure()
    await serve()

    assert before_any_use == before_any_check == firing() == set()


async def test_the_first_exhausted_pool_is_reported(use: Use, firing: Firing) -> None:
    use(DATABASE_POOL_TIMEOUT="0.05")
    await serve()
    firing()
    for _ in range(100):  # so that one error is no more than one in a hundred statements
        await get_store().user_by_telegram_id(1)
    async with engine.connect(), engine.connect():
        with pytest.raises(PoolExhausted):
            await serve()
        during = firing()

    assert during == {"PoolExhausted", "PoolNearlyExhausted"}
    assert firing() == {"PoolExhausted"}


async def test_failing_statements_are_reported(use: Use, firing: Firing) -> None:
    use()
    await serve()
    firing()
    with pytest.raises(CheckViolation):
        async with get_db() as session:
            session.add(Tenant(slug="NOT A SLUG", name="x"))
    with pytest.raises(DatabaseError):
        async with get_db() as session:
            session.add_all([User(telegram_id=1), User(telegram_id=1)])
    await serve()

    assert firing() == {"Errors"}


async def test_an_unreachable_server_is_reported(use: Use, firing: Firing) -> None:
    use(NOWHERE)
    for count in (1, 11):
        for _ in range(count):
            with pytest.raises(ConnectionFailed):
                await serve()
        found = firing()

    assert found == {"Unreachable"}


async def test_a_replica_that_does_not_answer_is_reported_and_one_that_does_is_not(
    use: Use, firing: Firing, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings: Settings = use(DATABASE_REPLICA_URL=text_of(NOWHERE))
    await measure()
    down = firing()
    use(DATABASE_REPLICA_URL=text_of(settings.DATABASE_URL))
    await measure()

    assert down == {"ReplicaLag"}
    assert firing() == set()


async def test_a_schema_that_is_behind_is_reported(
    cloned_database: Any, superuser: psycopg.Connection, use: Use, firing: Firing
) -> None:
    use(cloned_database)
    superuser.execute("UPDATE thea_alembic_version SET version_num = '0001'")
    await measure()

    assert firing() == {"RevisionBehind"}


async def test_a_long_transaction_is_reported(use: Use, firing: Firing, monkeypatch: pytest.MonkeyPatch) -> None:
    use()
    async with get_db() as session:
        await session.execute(text("SELECT 1"))
        clock = SimpleNamespace(perf_counter=lambda: time.perf_counter() + 61)
        monkeypatch.setattr("src.database.observability.metrics.time", clock)

        assert firing() == {"LongTransaction"}


async def test_many_retries_are_reported(use: Use, firing: Firing) -> None:
    use()
    await serve()
    firing()
    for _ in range(301):
        observability.count_retry("SerializationError")

    assert firing() == {"Retries"}


async def test_a_tunnel_that_is_down_is_reported(use: Use, firing: Firing, monkeypatch: pytest.MonkeyPatch) -> None:
    use()
    await serve()
    monkeypatch.setattr(DatabaseEngine, "tunnel_is_up", property(lambda _engine: False))

    assert firing() == {"TunnelDown"}


def test_every_rule_is_tested() -> None:
    tested = Path(__file__).read_text()

    assert all(f'"{rule["alert"].removeprefix("TheaDatabase")}"' in tested for rule in RULES)
