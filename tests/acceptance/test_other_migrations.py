"""Each command reports a database of other migrations, changes nothing and suggests no DROP."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Callable, Iterator
from pathlib import Path

import psycopg
import pytest
from sqlalchemy import URL

from src.config import Settings
from src.database.drift import verify, verify_at_startup
from src.database.embedded import APP_ROLE, OWNER_ROLE, SUPERUSER
from src.database.errors import ConfigurationError, SchemaDriftError
from src.database.health import gauges, readiness
from src.database.migrate import current, downgrade, history, revision, stamp, upgrade
from tests import other_migrations
from tests.acceptance.command import ROOT, database, run, run_forked
from tests.conftest import SOCKETS, url_of

REPORT = "other migrations than thea-database's made this database"
COMMANDS = (
    *("current", "upgrade", "upgrade 0001", "downgrade base", "downgrade -1", "stamp head", "history -i", "verify"),
    *("verify --scratch", "doctor", "health", "health --drift", "info", "tenant list", "tenant create x X"),
    *("tenant update theirs --name X", "tenant suspend theirs", "tenant erase theirs --yes", "tenant purge"),
    *("seed --messages 1", "demo", "check --service", "revision -m x --autogenerate"),
)
ALEMBIC = ("current", "upgrade head", "downgrade base", "stamp head", "check", "revision --autogenerate -m x")


REVISIONS = {"unknown": other_migrations.REVISION, "known here too": "0001", "none": None}
each_revision = pytest.mark.parametrize("foreign", list(REVISIONS), indirect=True, scope="module")


@pytest.fixture(scope="module")
def foreign(request: pytest.FixtureRequest, template_database: str) -> Iterator[URL]:
    """A database of other migrations; by default its revision is unknown."""
    name = f"foreign_{os.getpid()}"
    revision = REVISIONS[getattr(request, "param", "unknown")]
    with psycopg.connect(host=SOCKETS, user=SUPERUSER, dbname="postgres", autocommit=True) as server:
        server.execute(f"CREATE DATABASE {name} OWNER {OWNER_ROLE} TEMPLATE template0 STRATEGY file_copy".encode())
        try:
            with psycopg.connect(host=SOCKETS, user=OWNER_ROLE, dbname=name, autocommit=True) as connection:
                other_migrations.make(connection, revision)
            yield url_of(name, OWNER_ROLE)
        finally:
            server.execute(f"DROP DATABASE {name} WITH (FORCE)".encode())


@pytest.fixture
def settings(foreign: URL, use_database: Callable[..., Settings]) -> Settings:
    return use_database(foreign, DATABASE_DEFAULT_TENANT="00000000-0000-7000-8000-000000000001")


@pytest.fixture(autouse=True)
def _nothing_changes(foreign: URL) -> Iterator[None]:
    with psycopg.connect(host=SOCKETS, user=SUPERUSER, dbname=foreign.database, autocommit=True) as superuser:
        before = other_migrations.dump(superuser)
        yield
        assert other_migrations.dump(superuser) == before


@pytest.mark.parametrize("command", COMMANDS)
def test_each_command_reports_the_other_migrations(foreign: URL, tmp_path: Path, command: str) -> None:
    done = run(*command.split(), folder=tmp_path, ENVIRONMENT="development", DATABASE_URL=database(foreign))

    printed = " ".join((done.stdout + done.stderr).split())
    assert REPORT in printed or "other migrations:" in printed
    assert not re.search("drop|thea-db upgrade|newer|Traceback", printed, re.IGNORECASE), printed
    assert done.returncode == (0 if command == "info" else done.returncode or 99)
    assert list(tmp_path.glob("*.py")) == []


@pytest.mark.parametrize("command", ALEMBIC)
def test_alembic_reports_the_other_migrations(settings: Settings, command: str) -> None:
    done = run_forked("alembic", command.split(), ROOT, os.environ)

    assert REPORT in done.stdout + done.stderr
    assert "Traceback" not in done.stderr
    assert done.returncode != 0


@each_revision
async def test_the_functions_report_the_other_migrations(settings: Settings, tmp_path: Path) -> None:
    for asked in (
        current(settings),
        upgrade(settings),
        downgrade(settings, "base"),
        stamp(settings, "head"),
        history(settings),
        revision(settings, "x", autogenerate=True, folder=tmp_path),
    ):
        with pytest.raises(ConfigurationError, match=REPORT):
            await asked


@each_revision
async def test_verify_has_one_difference_and_no_statement(settings: Settings) -> None:
    report = await verify(settings)

    (only,) = report.differences
    assert (only.kind, only.attribute, only.severity, report.compared_with) == (
        "revision",
        "origin",
        "error",
        "nothing",
    )
    assert all(line.startswith("--") for line in only.remedy)


async def test_a_service_does_not_start_under_verify_error(foreign: URL, use_database: Callable[..., Settings]) -> None:
    with pytest.raises(SchemaDriftError, match="other migrations"):
        await verify_at_startup(use_database(foreign, DATABASE_VERIFY_SCHEMA="error"))


@each_revision
async def test_readiness_is_unhealthy(settings: Settings) -> None:
    report = await readiness()

    assert report.checks["revision"].status == "unhealthy"
    assert report.checks["revision"].found.startswith(REPORT)
    assert not report.can_serve


def test_info_reports_the_other_migrations_as_json(foreign: URL, tmp_path: Path) -> None:
    done = run("info", "--json", folder=tmp_path, ENVIRONMENT="development", DATABASE_URL=database(foreign))

    assert json.loads(done.stdout)["database"]["revision"]["is_foreign"] is True


async def test_a_role_that_may_not_read_the_revision_gets_the_report_too(
    foreign: URL, use_database: Callable[..., Settings]
) -> None:
    settings = use_database(foreign.set(username=APP_ROLE))

    assert (await readiness()).checks["revision"].status == "unhealthy"
    assert [one.attribute for one in (await verify(settings)).differences] == ["origin"]


@pytest.mark.usefixtures("settings")
async def test_the_metric_reports_that_the_schema_is_not_the_releases(monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[bool] = []
    monkeypatch.setattr(gauges, "report_revision", lambda *, is_behind: seen.append(is_behind))

    await gauges.measure()

    assert seen == [True]
