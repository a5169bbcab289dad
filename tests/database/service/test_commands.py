"""The commands: what they print, their exit codes, and no password in any of it."""

from __future__ import annotations

import json
import shlex
import sys
from collections.abc import Callable
from pathlib import Path

from sqlalchemy import URL

from src.config import Settings
from src.database.cli.schema.service_check import check_nothing_embedded, examine_service
from src.database.connect.embedded import OWNER_ROLE
from src.database.connect.embedded_process import programs
from tests.acceptance.command import run
from tests.conftest import url_of
from tests.database.service.conftest import Cluster


def test_from_nothing_to_a_restored_backup_without_a_word_of_a_password(cluster: Cluster, tmp_path: Path) -> None:
    variables = cluster.variables("told")

    made = run("bootstrap", folder=tmp_path, **variables)
    again = run("bootstrap", "--json", folder=tmp_path, **variables)
    script = run("bootstrap", "--sql", folder=tmp_path, **variables)
    cluster.sql("CREATE TABLE kept AS SELECT 1 AS n", user="told_owner", database="told")
    saved = run("backup", "saved.dump", "--verify", folder=tmp_path, **variables)
    run("bootstrap", folder=tmp_path, **cluster.variables("told2"))
    restored = run("restore", "saved.dump", "--json", folder=tmp_path, **cluster.variables("told2"))
    refused = run("restore", "saved.dump", folder=tmp_path, **variables)

    done = (made, again, script, saved, restored, refused)
    assert [each.returncode for each in done] == [0, 0, 0, 0, 0, 2], [each.stderr for each in done]
    assert "done: ALTER ROLE told_app PASSWORD '***'" in made.stdout
    assert json.loads(again.stdout) == {"changed": [], "refused": []}
    assert "saved.dump: 1 rows in 1 tables of told" in saved.stdout
    assert "restored into a scratch database, compared, dropped" in saved.stdout
    assert json.loads(restored.stdout)["differences"] == []
    assert "must be empty, and has kept" in refused.stderr
    assert not [each for each in done if "c4n4ry" in each.stdout + each.stderr]


def test_what_is_refused_is_told_with_exit_code_1(cluster: Cluster, tmp_path: Path) -> None:
    cluster.sql("CREATE ROLE weak LOGIN PASSWORD 'c4n4ry-weak'")
    admin = cluster.url("weak", "postgres", "c4n4ry-weak")

    done = run("bootstrap", folder=tmp_path, **cluster.variables("unmade", DATABASE_ADMIN_URL=admin))

    assert done.returncode == 1
    assert "refused: CREATE ROLE unmade_app LOGIN" in done.stderr
    assert "remedy: run this as a role with CREATEROLE" in done.stderr
    assert "c4n4ry" not in done.stdout + done.stderr


def test_an_administrator_is_asked_for_by_name(cluster: Cluster, tmp_path: Path) -> None:
    variables = cluster.variables("unasked")
    without = {
        name: value for name, value in variables.items() if name not in {"DATABASE_ADMIN_URL", "DATABASE_BACKUP_URL"}
    }

    made, saved = run("bootstrap", folder=tmp_path, **without), run("backup", "x", folder=tmp_path, **without)

    assert (made.returncode, saved.returncode) == (2, 2)
    assert "DATABASE_ADMIN_URL must be set: a role that may make roles" in made.stderr
    assert "DATABASE_BACKUP_URL or DATABASE_ADMIN_URL must be set" in saved.stderr


async def test_a_service_of_its_own_is_found_well(cloned_database: URL, use_database: Callable[..., Settings]) -> None:
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
        "healing": "ok",
        "restart": "skipped",
    }
    assert findings["durability"].found.startswith("fsync = off, full_page_writes = off")


async def test_migrations_that_go_elsewhere_are_found(
    cloned_database: URL, use_database: Callable[..., Settings]
) -> None:
    elsewhere = _text(url_of("postgres", OWNER_ROLE))

    findings = await examine_service(use_database(cloned_database, DATABASE_MIGRATION_URL=elsewhere))

    assert findings["migrations"].found.startswith("migrations go elsewhere")


async def test_no_database_named_is_found_before_anything_is_started(tmp_path: Path) -> None:
    findings = await examine_service(Settings(ENVIRONMENT="development", DATABASE_EMBEDDED_DIR=tmp_path / "none"))

    assert findings["settings"].status == "failed"
    assert {
        finding.status for name, finding in findings.items() if name not in {"settings", "no database of its own"}
    } == {"skipped"}
    assert not (tmp_path / "none").exists()


def test_an_installed_server_is_a_fault_outside_of_development() -> None:
    production = Settings(ENVIRONMENT="production", DATABASE_URL="postgresql://u@h/d")

    assert check_nothing_embedded(production, lambda _name: object()).status == "failed"
    assert check_nothing_embedded(production, lambda _name: None).status == "ok"


async def test_data_survives_a_restart_that_is_done(cluster: Cluster) -> None:
    """Really: the server is stopped and started by the command."""
    cluster.sql("CREATE TABLE IF NOT EXISTS alembic_version (version_num text)")
    settings = Settings(ENVIRONMENT="test", DATABASE_URL=cluster.admin_url)
    data = str(cluster.server.folder / "data")
    command = shlex.join([sys.executable, "-c", RESTART, str(programs()), data])

    findings = await examine_service(settings, restart_command=command)
    idle = await examine_service(settings, restart_command=shlex.join([sys.executable, "-c", ""]))
    ended = await examine_service(settings, restart_command="false")
    unknown = await examine_service(settings, restart_command="/no/such/program")

    assert findings["restart"].status == "ok", findings["restart"]
    assert "did not restart the database that we use" in idle["restart"].found
    assert ended["restart"].found == "the command ended with 1"
    assert unknown["restart"].found == "the command cannot be run: FileNotFoundError"


RESTART = """
import subprocess, sys
from pathlib import Path
from src.database.connect.embedded_process import run
data = sys.argv[2]
options = Path(data, "postmaster.opts").read_text().strip().split('" "')
sys.exit(run("pg_ctl", "restart", "-D", data, "-w", "-m", "fast", "-l", data + "/../server.log", capture=False).returncode)
"""


def test_check_has_to_be_told_what(tmp_path: Path) -> None:
    done = run("check", folder=tmp_path, DATABASE_URL="postgresql://u@127.0.0.1:1/d")

    assert done.returncode == 2
    assert "say what to check: --service" in done.stderr


def _text(url: URL) -> str:
    return url.render_as_string(hide_password=False)


def _name(url: URL) -> str:
    assert url.database is not None
    return url.database
