"""The commands: their output, their exit codes, and no password in the output."""

from __future__ import annotations

import json
import os
import shlex
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from sqlalchemy import URL
from typer.testing import CliRunner, Result

from src.config import Settings
from src.database.cli.drift import drift_app
from src.database.cli.service import service_app
from src.database.doctor.service import check_not_embedded, check_restart, examine_service
from src.database.embedded import OWNER_ROLE
from src.database.session import forget_settings
from tests.acceptance.command import run
from tests.conftest import url_of
from tests.database.operations.conftest import Cluster


@pytest.fixture
def call(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[Callable[..., Result]]:
    """Run a command in this process, in an empty folder, with the given variables."""

    def call(*arguments: str, **variables: str) -> Result:
        for name in [name for name in os.environ if name.startswith("DATABASE_")]:
            monkeypatch.delenv(name)
        for name, value in variables.items():
            monkeypatch.setenv(name, value)
        forget_settings()
        return CliRunner().invoke(service_app, list(arguments))

    monkeypatch.chdir(tmp_path)
    yield call
    monkeypatch.undo()
    forget_settings()


@pytest.mark.slow
def test_bootstrap_backup_and_restore_print_no_password(cluster: Cluster, call: Callable[..., Result]) -> None:
    variables, others = cluster.variables("reported"), cluster.variables("reported2")

    made = call("bootstrap", **variables)
    again = call("bootstrap", "--json", **variables)
    script = call("bootstrap", "--sql", **variables)
    cluster.sql("CREATE TABLE kept AS SELECT 1 AS n", user="reported_owner", database="reported")
    saved = call("backup", "saved.dump", "--verify", **variables)
    call("bootstrap", **others)
    restored = call("restore", "saved.dump", "--json", **others)
    refused = call("restore", "saved.dump", **variables)

    done = (made, again, script, saved, restored)
    assert [each.exit_code for each in done] == [0] * 5, [each.output for each in done]
    assert "done: ALTER ROLE reported_app PASSWORD '***'" in made.output
    assert made.output.index("plan: CREATE DATABASE reported") < made.output.index("done: CREATE ROLE reported_app")
    assert "run `thea-db restore <file>` instead" in made.output  # after `upgrade` a restore is refused
    assert json.loads(again.output) == {"changed": [], "refused": []}
    assert "saved.dump: 1 rows in 1 tables of reported" in saved.output
    assert "verified: restored into a scratch database" in saved.output
    assert json.loads(restored.output)["differences"] == []
    assert "must be empty, and has kept" in str(refused.exception)
    assert not [each for each in (*done, refused) if "c4n4ry" in each.output + str(each.exception)]


def test_a_rejected_statement_is_reported_with_exit_code_1(cluster: Cluster, call: Callable[..., Result]) -> None:
    cluster.sql("CREATE ROLE weak LOGIN PASSWORD 'c4n4ry-weak'")
    admin = cluster.url("weak", "postgres", "c4n4ry-weak")

    done = call("bootstrap", **cluster.variables("unmade", DATABASE_ADMIN_URL=admin))

    assert done.exit_code == 1
    assert "refused: CREATE ROLE unmade_app LOGIN" in done.output
    assert "remedy: run this as a role with CREATEROLE" in done.output
    assert "c4n4ry" not in done.output


@pytest.mark.slow
def test_a_missing_administrator_is_an_error(cluster: Cluster, call: Callable[..., Result], tmp_path: Path) -> None:
    given = cluster.variables("unasked")
    without = {name: given[name] for name in ("ENVIRONMENT", "DATABASE_URL", "DATABASE_MIGRATION_URL")}

    made, saved = call("bootstrap", **without), run("backup", "x", folder=tmp_path, **without)

    assert "host:5432/name, of a role that may create roles" in str(made.exception)
    assert "DATABASE_BACKUP_URL or DATABASE_ADMIN_URL must be set" in saved.stderr
    assert saved.returncode == 2


async def test_an_isolated_service_passes_all_checks(
    cloned_database: URL, use_database: Callable[..., Settings]
) -> None:
    settings = use_database(cloned_database, DATABASE_MIGRATION_URL=_text(url_of(_name(cloned_database), OWNER_ROLE)))

    findings = await examine_service(settings)

    statuses = {name: finding.status for name, finding in findings.items()}
    # The suite's own server does not outlive a power cut, and comes from the extra.
    assert statuses == {
        "settings": "ok",
        "no database of its own": "warning",
        "database": "ok",
        "migrations": "ok",
        "durability": "failed",
        "pool recovery": "ok",
        "restart": "skipped",
    }
    assert findings["durability"].found.startswith("fsync = off, full_page_writes = off")


async def test_migrations_in_another_database_are_reported(
    cloned_database: URL, use_database: Callable[..., Settings]
) -> None:
    elsewhere = _text(url_of("postgres", OWNER_ROLE))

    findings = await examine_service(use_database(cloned_database, DATABASE_MIGRATION_URL=elsewhere))

    assert findings["migrations"].found.startswith("migrations run in another database")


async def test_a_missing_url_is_reported_before_a_server_is_started(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("DATABASE_URL")

    findings = await examine_service(Settings(ENVIRONMENT="development", DATABASE_EMBEDDED_DIR=tmp_path / "none"))

    assert findings["settings"].status == "failed"
    rest = [finding.status for name, finding in findings.items() if name not in {"settings", "no database of its own"}]
    assert set(rest) == {"skipped"}
    assert not (tmp_path / "none").exists()


def test_an_installed_server_fails_outside_of_development() -> None:
    production = Settings(ENVIRONMENT="production", DATABASE_URL="postgresql://u@h/d")

    assert check_not_embedded(production, lambda _name: object()).status == "failed"
    assert check_not_embedded(production, lambda _name: None).status == "ok"


@pytest.mark.slow
async def test_the_check_restarts_the_server_and_finds_the_data(cluster: Cluster) -> None:
    """The command stops and starts the server."""
    cluster.sql("CREATE TABLE IF NOT EXISTS thea_alembic_version (version_num text)")
    settings = Settings(ENVIRONMENT="test", DATABASE_URL=cluster.admin_url)
    data = str(cluster.server.folder / "data")
    command = shlex.join([sys.executable, "-c", RESTART, data])

    findings = await examine_service(settings, restart_command=command)
    idle, ended, unknown = [await check_restart(settings, other) for other in ("true", "false", "/no/such/program")]

    assert findings["restart"].status == "ok", findings["restart"]
    assert "did not restart the database of the settings" in idle.found
    assert ended.found == "the command ended with exit code 1"
    assert unknown.found == "the command cannot be run: FileNotFoundError"


RESTART = """
import sys
from src.database.embedded.process import run
restart = ("pg_ctl", "restart", "-D", sys.argv[1], "-w", "-m", "fast", "-l", sys.argv[1] + "/../server.log")
sys.exit(run(*restart, capture=False).returncode)
"""


def test_a_restart_is_of_the_service() -> None:
    asked = CliRunner().invoke(drift_app, ["check", "--restart-command", "true"])
    assert "--restart-command needs --service" in str(asked.exception)


def _text(url: URL) -> str:
    return url.render_as_string(hide_password=False)


def _name(url: URL) -> str:
    assert url.database is not None
    return url.database
