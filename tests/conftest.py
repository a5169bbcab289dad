"""The embedded server of the test run, a migrated template database, and databases for tests: rolled back or cloned."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Callable, Iterator
from functools import cache
from pathlib import Path
from uuid import UUID

import psycopg
import pytest
from sqlalchemy import URL
from sqlalchemy.ext.asyncio import AsyncEngine
from sqlalchemy.pool import NullPool

from src.config import Settings, get_settings
from src.database import create_engine
from src.database.embedded import APP_ROLE, OWNER_ROLE, SUPERUSER, EmbeddedServer
from src.database.models import Tenant, User
from src.database.session import AsyncSession, forget_settings, reset_process_state
from src.database.testing import TestDatabases, TestRun, TestServer

# In memory, if there is room: cloning hundreds of databases takes a sixth of the time there.
MEMORY = Path("/dev/shm")  # noqa: S108 - a name of the test's own is made in it
HAS_ROOM = os.access(MEMORY, os.W_OK) and shutil.disk_usage(MEMORY).free > 4 * 2**30
# The main process creates and removes the folder; the workers get it through the environment.
IS_WORKER = "PYTEST_XDIST_WORKER" in os.environ
FOLDER = Path(os.environ.get("THEA_TEST_SERVER") or tempfile.mkdtemp(prefix="thea-", dir=MEMORY if HAS_ROOM else None))
os.environ["THEA_TEST_SERVER"] = str(FOLDER)
FOLDER.chmod(0o711)  # as root the server runs as another user, which must be able to enter the folder
# Further revisions, for the test that runs this release on the schema of the next one.
REVISIONS = Path(further) if (further := os.environ.get("THEA_TEST_REVISIONS")) else None
SERVER = TestServer(TestRun(FOLDER, worker=os.environ.get("PYTEST_XDIST_WORKER", "main")), revisions=REVISIONS)
SOCKETS = EmbeddedServer(FOLDER).target().host
LONGEST = {"test_demo.py"}


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--long", action="store_true", help="the long forms: thousands of rounds")
    parser.addoption("--slow", action="store_true", help="run both tiers; `-m slow` runs the second one alone")


def pytest_configure(config: pytest.Config) -> None:
    if config.getoption("--slow") and config.option.markexpr == "not slow":
        config.option.markexpr = ""


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_auto_num_workers() -> int:
    """One more than the number of cores, because many tests wait for a server or for time to pass."""
    return (os.cpu_count() or 1) + 1


def pytest_sessionstart() -> None:
    for name in [name for name in os.environ if name.startswith(("DATABASE_", "DB_", "ENV_FILE"))]:
        if name != "DATABASE_FAST_PATH":  # CI runs the tests with and without it
            del os.environ[name]
    os.environ["ENVIRONMENT"] = "test"
    # A test that chooses no database must find none, in particular not an embedded server in the working directory.
    os.environ["DATABASE_URL"] = "postgresql://nobody@127.0.0.1:1/none_chosen"
    SERVER.start()


@pytest.hookimpl(trylast=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Run the longest tests first, because a long test at the end delays the whole run."""
    items.sort(key=lambda item: item.path.name not in LONGEST)


@pytest.hookimpl(trylast=True)  # after the teardown of session fixtures, which use the server
def pytest_sessionfinish() -> None:
    SERVER.stop()
    if not IS_WORKER:
        shutil.rmtree(FOLDER, ignore_errors=True)


def url_of(dbname: str, user: str = APP_ROLE) -> URL:
    return URL.create("postgresql+asyncpg", username=user, database=dbname, query={"host": SOCKETS})


@pytest.fixture(scope="session")
def _test_databases() -> TestDatabases:
    """The databases of the plugin's fixtures, on the server that all tests of the run share."""
    return TestDatabases(SERVER)


@pytest.fixture(scope="session")
def template_database() -> str:
    """The migrated database that others are cloned from; nothing may connect to it while it is cloned."""
    return SERVER.template


@pytest.fixture(scope="session")
def shared_database() -> str:
    """A migrated database of the worker, for tests that leave nothing in it."""
    return SERVER.clone()


@pytest.fixture(scope="session")
def is_long(request: pytest.FixtureRequest) -> bool:
    """True with `--long`."""
    return bool(request.config.getoption("--long"))


@pytest.fixture
def open_folder() -> Iterator[Path]:
    """A folder that the user of the embedded server can enter, unlike those of pytest."""
    with tempfile.TemporaryDirectory(prefix="thea-", dir=MEMORY if HAS_ROOM else None) as name:
        Path(name).chmod(0o755)
        yield Path(name)


@pytest.fixture
def use_database(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[..., Settings]]:
    """A function that sets the environment variables of a database for `get_db` and `engine`, as an operator does."""

    def use(url: URL, **variables: str) -> Settings:
        monkeypatch.setenv("DATABASE_URL", url.render_as_string(hide_password=False))
        for name, value in variables.items():
            monkeypatch.setenv(name, value)
        forget_settings()
        return get_settings()

    yield use
    monkeypatch.undo()
    reset_process_state()


@pytest.fixture
def clone_name() -> Iterator[str]:
    """The name of a new migrated database, for tests that commit."""
    name = SERVER.clone()
    yield name
    SERVER.release(name)


@pytest.fixture
def cloned_database(clone_name: str, use_database: Callable[..., Settings]) -> URL:
    """The URL of a new migrated database, which `get_db` uses."""
    url = url_of(clone_name)
    use_database(url)
    return url


@pytest.fixture
def superuser(clone_name: str) -> Iterator[psycopg.Connection]:
    """A superuser's connection to the cloned database, to which row-level security does not apply."""
    with psycopg.connect(host=SOCKETS, user=SUPERUSER, dbname=clone_name, autocommit=True) as connection:
        yield connection


@pytest.fixture
def empty_database(superuser: psycopg.Connection) -> Iterator[str]:
    """The URL of an empty database, as its owner."""
    name = f"empty_{os.getpid()}"
    superuser.execute(f"CREATE DATABASE {name} OWNER {OWNER_ROLE}")
    yield url_of(name, OWNER_ROLE).render_as_string()
    superuser.execute(f"DROP DATABASE {name} WITH (FORCE)")


@pytest.fixture(scope="session")
def engine_of(shared_database: str) -> Callable[[str], AsyncEngine]:
    """A function that returns the engine of a role for the shared database.

    An engine keeps no connection, so that every event loop can use it. It is shared because compiling statements took
    a third of the time of many tests.
    """

    @cache
    def engine_of(role: str) -> AsyncEngine:
        settings = Settings(ENVIRONMENT="test", DATABASE_URL=url_of(shared_database, role))
        return create_engine(settings, poolclass=NullPool)

    return engine_of


@pytest.fixture
def shared_engine(engine_of: Callable[[str], AsyncEngine]) -> AsyncEngine:
    return engine_of(APP_ROLE)


@pytest.fixture
def tenant_id(tenant: Tenant) -> UUID:
    """The id of the tenant of the tests."""
    return tenant.id


@pytest.fixture
def session(db_session: AsyncSession) -> AsyncSession:
    """The session of the plugin, with the tenant of the tests."""
    return db_session


@pytest.fixture
async def user(session: AsyncSession) -> User:
    row = User(display_name="Ada")
    session.add(row)
    await session.flush()
    return row
