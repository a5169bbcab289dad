"""Fixtures for the tests of services: `pip install thea-database` registers this plugin, and no conftest is needed.

Loading the plugin imports nothing of `src` and starts nothing; the first fixture does. docs/testing.md is the guide.
"""

from __future__ import annotations

import os
import shutil
import sys
import tempfile
from collections.abc import Iterator
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final
from uuid import uuid4

import pytest

if TYPE_CHECKING:
    from sqlalchemy import URL

    from src.database.models import Tenant
    from src.database.session import AsyncSession
    from src.database.testing import (
        AssertIsolated,
        AssertQueries,
        Factories,
        MakeConversation,
        MakeEvent,
        MakeMessage,
        MakeNote,
        MakeUser,
        ReminderClock,
        TestDatabases,
        TestRun,
    )

_FOLDER: Final = "thea_test_folder"
"""The key of the run's folder in the input that xdist passes to its workers."""
_NEEDED_BYTES: Final = 4 * 2**30
_RUN: Final = pytest.StashKey[str]()


def pytest_addoption(parser: pytest.Parser) -> None:
    """Register the ini option that names an existing server."""
    parser.addini(
        "thea_test_database_url",
        "the URL of a PostgreSQL server for the tests, as a role that may create databases and roles;"
        " THEA_TEST_DATABASE_URL takes precedence. By default the tests start a server of their own.",
        default="",
    )


@pytest.hookimpl(optionalhook=True)
def pytest_configure_node(node: Any) -> None:
    """Pass the folder of the run to a worker of xdist."""
    node.workerinput[_FOLDER] = _folder(node.config)


def pytest_unconfigure(config: pytest.Config) -> None:
    """Remove what the run has left, also after Ctrl-C, and what a worker left that was killed."""
    folder = config.stash.get(_RUN, None)
    if folder is not None and not hasattr(config, "workerinput") and Path(folder).exists():
        from thea_database.errors import DatabaseError
        from thea_database.testing import TestServer

        try:
            TestServer(_test_run(config)).remove()
        except DatabaseError as error:  # the tests that need the server have failed with the same error
            prefix = Path(folder).name.replace("-", "_")
            sys.stderr.write(f"databases whose names begin with {prefix} may be left: {error}\n")


def _folder(config: pytest.Config) -> str:
    """Return the folder of the run; nothing is created."""
    if hasattr(config, "workerinput"):
        return str(config.workerinput[_FOLDER])
    if _RUN not in config.stash:
        config.stash[_RUN] = _new_folder()
    return config.stash[_RUN]


def _new_folder() -> str:
    """Return a new name, in memory if there is room: cloning a database takes a sixth of the time there."""
    memory = Path("/dev/shm")  # noqa: S108 - the name is random
    has_room = os.access(memory, os.W_OK) and shutil.disk_usage(memory).free > _NEEDED_BYTES
    return str((memory if has_room else Path(tempfile.gettempdir())) / f"thea-test-{uuid4().hex}")


def _url(config: pytest.Config) -> str | None:
    return os.environ.get("THEA_TEST_DATABASE_URL") or config.getini("thea_test_database_url") or None


def _test_run(config: pytest.Config) -> TestRun:
    from thea_database.testing import TestRun

    return TestRun(Path(_folder(config)), _url(config), os.environ.get("PYTEST_XDIST_WORKER", "main"))


def _starting(config: pytest.Config) -> AbstractContextManager[None]:
    """Start the run's own server, unless there is an existing one."""
    from thea_database.embedded import starting

    return nullcontext() if _url(config) else starting(Path(_folder(config)))


@pytest.fixture(scope="session")
def _test_databases(pytestconfig: pytest.Config) -> Iterator[TestDatabases]:
    """The server of the run, which the first test that needs it starts."""
    with _starting(pytestconfig):
        from thea_database.testing import TestDatabases, TestServer  # takes as long as the start of the server

        run = _test_run(pytestconfig)
        with TestDatabases(TestServer(run)).running(run.folder) as databases:
            yield databases


@pytest.fixture
def db_session(_test_databases: TestDatabases, request: pytest.FixtureRequest) -> Iterator[AsyncSession]:
    """A session of `tenant`, which get_db and get_read_db yield too; everything is rolled back, commits included."""
    if "committed_database" in request.fixturenames:
        pytest.fail("a test must use one of db_session and committed_database, and uses both", pytrace=False)
    with _test_databases.rolled_back() as session:
        yield session


@pytest.fixture
def committed_database(_test_databases: TestDatabases) -> Iterator[URL]:
    """The URL of a new migrated database, to which get_db, get_store and the engines connect; it is dropped later."""
    with _test_databases.committed() as url:
        yield url


@pytest.fixture
def _test_database(request: pytest.FixtureRequest) -> None:
    """The database that the test has chosen; db_session if it has chosen none."""
    request.getfixturevalue("committed_database" if "committed_database" in request.fixturenames else "db_session")


@pytest.fixture
def tenant() -> Tenant:
    """The current tenant of the tests, as the registry has it."""
    from thea_database.testing import TENANT, tenant_of

    return tenant_of(TENANT)


@pytest.fixture
def other_tenant() -> Tenant:
    """Another registered tenant; it has no rows."""
    from thea_database.testing import OTHER_TENANT, tenant_of

    return tenant_of(OTHER_TENANT)


@pytest.fixture
def assert_queries(_test_databases: TestDatabases, _test_database: None) -> AssertQueries:
    """A context manager that fails if its block sends more than `max` statements."""
    return _test_databases.queries.assert_at_most


@pytest.fixture
def assert_isolated(_test_database: None, tenant: Tenant, other_tenant: Tenant) -> AssertIsolated:
    """A coroutine function that runs a call as another tenant, and fails if the call returns anything."""
    from thea_database.testing import Isolation

    return Isolation(tenant, other_tenant).assert_isolated


@pytest.fixture
def _factories(_test_database: None) -> Factories:
    from thea_database.testing import Factories

    return Factories()


@pytest.fixture
def make_user(_factories: Factories) -> MakeUser:
    """A coroutine function that creates a user."""
    return _factories.make_user


@pytest.fixture
def make_conversation(_factories: Factories) -> MakeConversation:
    """A coroutine function that creates a conversation."""
    return _factories.make_conversation


@pytest.fixture
def make_message(_factories: Factories) -> MakeMessage:
    """A coroutine function that appends a message."""
    return _factories.make_message


@pytest.fixture
def make_event(_factories: Factories) -> MakeEvent:
    """A coroutine function that creates an event."""
    return _factories.make_event


@pytest.fixture
def make_note(_factories: Factories) -> MakeNote:
    """A coroutine function that creates a note."""
    return _factories.make_note


@pytest.fixture
def reminder_clock(_test_database: None) -> ReminderClock:
    """A clock that lets time pass for the events and reminders of the current tenant."""
    from thea_database.testing import ReminderClock

    return ReminderClock()
