"""thea-db as a process: its other commands, and its errors."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from tests.acceptance.command import CANARY, run
from tests.conftest import SOCKETS


@pytest.mark.parametrize(
    ("variables", "message"),
    [
        ({"ENVIRONMENT": "production"}, "DATABASE_URL must be set if ENVIRONMENT=production"),
        ({"ENVIRONMENT": "prod"}, "ENVIRONMENT must be one of development, test, staging, production, got 'prod'"),
        ({"DATABASE_POOL_SIZE": "ten"}, "DATABASE_POOL_SIZE must be a whole number from 1 to 1000, got 'ten'"),
        (
            {"DATABASE_URL": f"postgresql://nobody:{CANARY}@/thea?host={SOCKETS}"},
            "the server refused the user or the password",
        ),
        ({"DATABASE_URL": f"postgresql://thea_app:{CANARY}@/nothing?host={SOCKETS}"}, "the database does not exist"),
        ({"DATABASE_URL": f"postgresql://thea:{CANARY}@127.0.0.1:1/thea"}, "nothing listens there"),
        ({"DATABASE_URL": f"mysql://thea:{CANARY}@h/thea"}, "the scheme must be one of"),
        ({"DATABASE_URL": f"postgresql://thea:{CANARY}@h/thea?sslmod=x"}, "did you mean sslmode?"),
    ],
)
def test_an_error_is_one_message_and_exit_code_2(tmp_path: Path, variables: dict[str, str], message: str) -> None:
    done = run("upgrade", folder=tmp_path, **{"ENVIRONMENT": "development", **variables})

    assert done.returncode == 2, done.stderr
    assert message in done.stderr
    assert "Traceback" not in done.stdout + done.stderr
    assert CANARY not in done.stdout + done.stderr
    assert len(done.stderr.strip().splitlines()) <= 3


def test_a_wrong_password_is_reported(tmp_path: Path, secret_url: str) -> None:
    """Over TCP, where the embedded server requires a password."""
    done = run("upgrade", folder=tmp_path, DATABASE_URL=secret_url)

    assert done.returncode == 2
    assert "the server refused the user or the password" in done.stderr
    assert CANARY not in done.stdout + done.stderr
    assert "Traceback" not in done.stderr


def test_a_downgrade_outside_development_needs_a_confirmation(tmp_path: Path) -> None:
    done = run(
        "downgrade", "-1", folder=tmp_path, ENVIRONMENT="production", DATABASE_URL="postgresql://u@127.0.0.1:1/d"
    )

    assert done.returncode == 2
    assert "needs --yes if ENVIRONMENT=production" in done.stderr


def test_the_demo_is_rejected_in_production(tmp_path: Path) -> None:
    done = run("demo", folder=tmp_path, ENVIRONMENT="production", DATABASE_URL="postgresql://u@h/d")

    assert done.returncode == 2
    assert "the demo writes sample data" in done.stderr


@pytest.mark.slow
def test_up_keeps_the_embedded_server_until_down(open_folder: Path) -> None:
    assert "the embedded server is running" in run("up", folder=open_folder).stdout
    assert "(head): " in run("upgrade", folder=open_folder).stdout
    assert (open_folder / ".thea" / "postgres" / "data" / "postmaster.pid").exists()
    assert "is stopped" in run("down", folder=open_folder).stdout
    assert not (open_folder / ".thea" / "postgres" / "data" / "postmaster.pid").exists()


@pytest.mark.slow
def test_every_folder_of_a_project_has_the_projects_embedded_server(open_folder: Path) -> None:
    (open_folder / "pyproject.toml").touch()
    below = open_folder / "scripts" / "nightly"
    below.mkdir(parents=True)
    open_folder.joinpath("scripts").chmod(0o755)

    started = run("up", folder=below)
    again = run("info", folder=open_folder)
    stopped = run("down", folder=open_folder)

    folder = open_folder / ".thea" / "postgres"
    assert (folder / "data").is_dir()
    assert not (below / ".thea").exists()
    assert "embedded_database_created" in started.stderr
    assert str(folder) in started.stderr
    assert str(folder) in again.stdout
    assert "embedded_database_created" not in again.stderr
    assert "is stopped" in stopped.stdout


@pytest.mark.slow
def test_a_new_database_of_the_project_names_the_ignored_database_below_it(open_folder: Path) -> None:
    (open_folder / "pyproject.toml").touch()
    scripts = open_folder / "scripts"
    (scripts / "nightly").mkdir(parents=True)
    scripts.chmod(0o755)
    was_used = run("up", folder=scripts, DATABASE_EMBEDDED_DIR=f"{scripts}/.thea/postgres")
    run("down", folder=scripts, DATABASE_EMBEDDED_DIR=f"{scripts}/.thea/postgres")

    created = run("up", folder=scripts / "nightly")
    again = run("up", folder=scripts / "nightly")
    run("down", folder=scripts)
    *_, remedy = re.findall(r"DATABASE_EMBEDDED_DIR=([^\s\"]+)", created.stderr)
    followed = run("info", folder=scripts / "nightly", DATABASE_EMBEDDED_DIR=remedy)

    assert "passed_over" not in was_used.stderr
    assert "embedded_database_passed_over" in created.stderr
    assert str(open_folder / ".thea" / "postgres") in created.stderr
    assert str(scripts / ".thea" / "postgres") in followed.stdout
    assert "passed_over" not in again.stderr


def test_down_without_a_server_reports_it(tmp_path: Path) -> None:
    assert "no embedded server has been started" in run("down", folder=tmp_path).stdout


def test_prints_its_version(tmp_path: Path) -> None:
    done = run("--version", folder=tmp_path)

    assert re.fullmatch(r"\d+\.\d+\.\d+\n", done.stdout), done.stderr
