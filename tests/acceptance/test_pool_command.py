"""thea-db pool: the suggested size, and whether the configured pools fit into the server."""

from __future__ import annotations

import json
from typing import Any

import pytest

from src.config import Settings
from src.database.cli.pool import run_pool
from src.database.doctor.demand import demand_of
from src.database.embedded import MAX_CONNECTIONS
from tests.acceptance.command import CANARY
from tests.conftest import url_of


def pool(capsys: pytest.CaptureFixture[str], *, processes: int = 1, **settings: Any) -> tuple[int, dict[str, Any]]:
    code = run_pool(
        Settings(**{"ENVIRONMENT": "test", **settings}), cores=8, spindles=1, processes=processes, as_json=True
    )
    printed = capsys.readouterr()
    assert CANARY not in printed.out + printed.err
    return code, json.loads(printed.out)


def test_suggests_a_size_for_the_machine_and_the_server(
    shared_database: str, capsys: pytest.CaptureFixture[str]
) -> None:
    url = url_of(shared_database)

    code, report = pool(capsys, DATABASE_URL=url, ENVIRONMENT="staging")

    assert code == 0
    assert report["suggested"] == {"DATABASE_POOL_SIZE": 5, "DATABASE_MAX_OVERFLOW": 5}
    assert report["server"]["maximum"] == MAX_CONNECTIONS
    assert report["server"]["available"] < MAX_CONNECTIONS
    assert report["warnings"] == []


def test_pools_that_can_exhaust_the_server_are_exit_code_1(
    shared_database: str, capsys: pytest.CaptureFixture[str]
) -> None:
    url = url_of(shared_database)

    code, report = pool(capsys, DATABASE_URL=url, ENVIRONMENT="staging", processes=11)
    behind_pgbouncer, _ = pool(capsys, DATABASE_URL=url, ENVIRONMENT="staging", DATABASE_PGBOUNCER="true", processes=11)

    assert code == 1
    assert "all processes together can open 495 connections" in report["warnings"][0]
    assert behind_pgbouncer == 0


def test_counts_the_pool_of_the_store(shared_database: str, capsys: pytest.CaptureFixture[str]) -> None:
    """The limits of the three pools are added."""
    url = url_of(shared_database)
    settings = Settings(ENVIRONMENT="staging", DATABASE_URL=url)
    with_replica = settings.model_copy(update={"DATABASE_REPLICA_URL": settings.DATABASE_URL})

    _, report = pool(capsys, DATABASE_URL=url, ENVIRONMENT="staging")

    assert report["demand"]["most"] == 3 * (settings.DATABASE_POOL_SIZE + settings.DATABASE_MAX_OVERFLOW) == 45
    assert demand_of(with_replica, processes=1).most == 30


def test_reports_that_development_has_no_pool(shared_database: str, capsys: pytest.CaptureFixture[str]) -> None:
    code, report = pool(capsys, DATABASE_URL=url_of(shared_database), processes=100)

    assert code == 0
    assert any("has no pool" in text for text in report["warnings"])


def test_suggests_a_size_for_the_machine_if_the_server_is_down(capsys: pytest.CaptureFixture[str]) -> None:
    code, report = pool(capsys, DATABASE_URL=f"postgresql://u:{CANARY}@127.0.0.1:1/d")

    assert code == 2
    assert report["suggested"]["DATABASE_POOL_SIZE"] == 5
    assert "nothing listens there" in report["warnings"][0]


def test_prints_lines_to_copy(shared_database: str, capsys: pytest.CaptureFixture[str]) -> None:
    settings = Settings(ENVIRONMENT="staging", DATABASE_URL=url_of(shared_database))

    run_pool(settings, cores=None, spindles=1, processes=1, as_json=False)
    printed = capsys.readouterr().out

    assert printed.startswith("DATABASE_POOL_SIZE=")
    assert "\nDATABASE_MAX_OVERFLOW=" in printed
    assert "the cores are those of this machine" in printed
