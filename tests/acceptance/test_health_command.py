"""thea-db health and the endpoints of the example: exit codes and status codes for probes."""

from __future__ import annotations

import json
import runpy
from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx
import psycopg
import pytest
from sqlalchemy import URL

from src.config import Settings
from src.database.health import readiness
from tests.acceptance.command import CANARY, ROOT, database, run
from tests.acceptance.pgbouncer import needs_pgbouncer, pgbouncer
from tests.conftest import SOCKETS

DEAD = f"postgresql://u:{CANARY}@127.0.0.1:1/d"


def health(folder: Path, url: str, *options: str, **variables: str) -> tuple[int, str, str]:
    done = run("health", "--timeout", "20", *options, folder=folder, ENVIRONMENT="test", DATABASE_URL=url, **variables)
    assert CANARY not in done.stdout + done.stderr
    assert "Traceback" not in done.stderr
    return done.returncode, done.stdout, done.stderr


def test_exit_codes_are_those_of_a_probe(tmp_path: Path, cloned_database: URL, superuser: psycopg.Connection) -> None:
    url = database(cloned_database)

    assert health(tmp_path, url)[0] == 0
    superuser.execute("ALTER TABLE notes ADD COLUMN colour text")
    degraded, output, _ = health(tmp_path, url, "--drift", "--json")
    assert (degraded, json.loads(output)["status"]) == (0, "degraded")
    superuser.execute("UPDATE alembic_version SET version_num = '0001'")
    unhealthy, output, _ = health(tmp_path, url)
    assert unhealthy == 1
    assert "remedy: thea-db upgrade" in output


def test_a_dead_server_is_one_document_and_exit_code_1(tmp_path: Path) -> None:
    code, output, _ = health(tmp_path, DEAD, "--json", DATABASE_APPLICATION_NAME="agent")
    document = json.loads(output)

    assert code == 1
    assert (document["status"], document["service"]) == ("unhealthy", "agent")
    assert document["checks"]["connect"]["status"] == "unhealthy"


def test_live_uses_no_database_and_wrong_settings_are_exit_code_2(tmp_path: Path) -> None:
    assert health(tmp_path, DEAD, "--live")[0] == 0
    assert health(tmp_path, DEAD, DATABASE_POOL_SIZE="none")[0] == 2


@pytest.mark.parametrize("is_sound", [True, False])
async def test_the_endpoints_of_the_example_return_200_and_503(
    cloned_database: URL, use_database: Callable[..., Settings], is_sound: bool
) -> None:
    if not is_sound:
        use_database(URL.create("postgresql", "u", CANARY, "127.0.0.1", 1, "d"))
    app: Any = runpy.run_path(str(ROOT / "examples" / "health_router.py"))["app"]
    async with httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://test") as client:
        live, ready = await client.get("/health/live"), await client.get("/health/ready")
        for _ in range(20 if is_sound else 0):
            if ready.status_code == 200:
                break
            ready = await client.get("/health/ready")  # the machine was too busy for this limit

    assert (live.status_code, live.json()["status"]) == (200, "healthy")
    assert (ready.status_code, ready.json()["status"]) == ((200, "healthy") if is_sound else (503, "unhealthy"))
    assert ready.json()["service"] == "thea-database"
    assert CANARY not in ready.text


@needs_pgbouncer
async def test_the_report_is_the_same_behind_pgbouncer(
    cloned_database: URL, use_database: Callable[..., Settings]
) -> None:
    with pgbouncer(SOCKETS) as pooler:
        use_database(pooler.url(str(cloned_database.database)), DATABASE_PGBOUNCER="true")
        report = await readiness(drift=True, timeout_seconds=20)

    assert report.status == "healthy", report
