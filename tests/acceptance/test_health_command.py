"""thea-db health: exit codes for probes."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import psycopg
from sqlalchemy import URL

from src.config import Settings
from src.database.health import readiness
from tests.acceptance.command import CANARY, database, run
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
    superuser.execute("UPDATE thea_alembic_version SET version_num = '0001'")
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


@needs_pgbouncer
async def test_the_report_is_the_same_behind_pgbouncer(
    cloned_database: URL, use_database: Callable[..., Settings]
) -> None:
    with pgbouncer(SOCKETS) as pooler:
        use_database(pooler.url(str(cloned_database.database)), DATABASE_PGBOUNCER="true")
        report = await readiness(drift=True, timeout_seconds=20)

    assert report.status == "healthy", report
