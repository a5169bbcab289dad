"""The state of a process of a test run: its server, the engine of db_session, and the statements that are counted."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from sqlalchemy import URL
from sqlalchemy.pool import NullPool

from src.config import Settings
from src.database.engine import DatabaseEngine
from src.database.observability import use_observer, watch
from src.database.session import (
    AsyncSession,
    TenantBinding,
    create_engine,
    dispose_engines,
    forget_settings,
    replace_sessions,
    reset_process_state,
)
from src.database.testing import queries
from src.database.testing.rolled_back import RolledBackDatabase
from src.database.testing.server import TestServer
from src.database.testing.settings import variables_of_tests
from src.database.testing.tenants import TENANT, TENANTS


class TestDatabases:
    """The databases of the tests of one process.

    Args:
        server: The server; its template has the tenants of the tests.
    """

    __test__ = False  # pytest would collect the class

    def __init__(self, server: TestServer) -> None:
        self.server = server
        self.queries = queries.Queries()
        self._tenant_id = TENANTS[TENANT]
        self._rolled_back: tuple[DatabaseEngine, TenantBinding] | None = None

    @contextmanager
    def running(self, folder: Path) -> Iterator[TestDatabases]:
        """Start the server for this block, and set the environment variables of the tests.

        Args:
            folder: The folder of the run.

        Raises:
            ConfigurationError: There is no server, or a `.env` file of the service is not valid.
            ConnectionFailed: The server cannot be reached, or does not start.
        """
        folder.mkdir(mode=0o711, exist_ok=True)  # as root the server runs as another user, who enters it
        empty_file = folder / "no.env"
        empty_file.touch()
        with environment(variables_of_tests(os.environ, empty_file)):
            try:
                self.server.start()
                yield self
            finally:
                self.server.stop()
                reset_process_state()

    @contextmanager
    def rolled_back(self) -> Iterator[AsyncSession]:
        """Yield the session of a test, which get_db, get_read_db and run_transaction yield too in this block."""
        engine, binding = self._rolled_back or self._prepare()
        database = RolledBackDatabase(engine, binding, self._tenant_id)
        with self._variables(), replace_sessions(database):
            try:
                yield database.session_of(None)
            finally:
                database.close()

    @contextmanager
    def committed(self) -> Iterator[URL]:
        """Yield the URL of a new migrated database, which the settings name in this block."""
        name = self.server.clone()
        url = self.server.url_of(name)
        try:
            with self._variables(DATABASE_URL=url.render_as_string(hide_password=False)):
                use_observer(queries.NAME, self.queries)
                yield url
                dispose_engines()
        finally:
            self.server.release(name)

    @contextmanager
    def _variables(self, **variables: str) -> Iterator[None]:
        with environment({"DATABASE_DEFAULT_TENANT": str(self._tenant_id), **variables}):
            forget_settings()
            try:
                yield
            finally:
                reset_process_state()

    def _prepare(self) -> tuple[DatabaseEngine, TenantBinding]:
        """Create the engine of db_session. It keeps no connection, so that every event loop can use it.

        Compiling the statements again for each test would take a third of the time. Each process has a database of its
        own: the tests of another process would wait for the locks of this one's rows.
        """
        url = self.server.url_of(self.server.clone())
        settings = Settings(ENVIRONMENT="test", DATABASE_URL=url)
        engine = create_engine(settings, poolclass=NullPool, name=queries.NAME)
        use_observer(queries.NAME, self.queries)
        watch(engine, settings, name="db_session")
        binding = TenantBinding(self._tenant_id)
        self.server.run(_check_schema(engine, binding))
        self._rolled_back = engine, binding
        return self._rolled_back


async def _check_schema(engine: DatabaseEngine, binding: TenantBinding) -> None:
    """Bind a transaction, so that the binding has checked the schema: inside the tests' transactions it would again."""
    async with AsyncSession(engine, binding=binding) as session:
        await session.connection()


@contextmanager
def environment(changes: dict[str, str | None] | dict[str, str]) -> Iterator[None]:
    """Change environment variables in this block; None removes a variable."""
    before = {name: os.environ.get(name) for name in changes}
    _set(changes)
    try:
        yield
    finally:
        _set(before)


def _set(variables: dict[str, str | None] | dict[str, str]) -> None:
    for name, value in variables.items():
        if value is None:
            os.environ.pop(name, None)
        else:
            os.environ[name] = value
