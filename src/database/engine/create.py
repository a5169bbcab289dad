"""create_engine_for: from a Target and its options to an engine; DatabaseEngine, and what its connections share."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, Final

import asyncpg
from sqlalchemy import URL, Engine, Pool, event
from sqlalchemy.ext.asyncio import AsyncEngine, create_async_engine
from sqlalchemy.pool import AsyncAdaptedQueuePool

from src.config import get_logger
from src.database.connect import (
    DRIVER_ERRORS,
    Connector,
    PasswordProvider,
    connection_name,
    decode_jsonb,
    search_temporary_last,
)
from src.database.embedded import connect_embedded
from src.database.engine.listeners import LOGGING_NAME, register_listeners
from src.database.engine.pool import SizedPool, replace_stale_connections
from src.database.engine.sqlalchemy_internals import FAST_PATH, FairPool
from src.database.errors import ConfigurationError, DatabaseError
from src.database.target import Host, PoolLimits, Target
from src.database.translation import translate_connect

_Opener = Callable[..., Awaitable["asyncpg.Connection[Any]"]]

OLDEST_SERVER: Final = 15
FILL_SECONDS: Final = 2.0
"""How long a connection that is opened ahead waits for the others to open."""
DISPOSE_SECONDS: Final = 3.0
"""How long connections may take to close, and after them the tunnel or the connector half of that."""
SEES_EVERY_ROW: Final = "SELECT rolsuper OR rolbypassrls FROM pg_catalog.pg_roles WHERE rolname = current_user"
"""Whether the current role bypasses row-level security."""

_SCHEMAS: Final = """
SELECT trim(both ' "' from split_part(current_setting('search_path'), ',', 1)),
       quote_ident(current_user), quote_ident(current_database()), quote_ident($1),
       ARRAY(SELECT name FROM unnest(current_schemas(false)) AS name
              WHERE name <> $1 AND to_regprocedure(format('%I.app_set_tenant(uuid)', name)) IS NOT NULL)
"""


@dataclass(frozen=True, slots=True, kw_only=True)
class EngineOptions:
    """The options of an engine besides its target.

    Attributes:
        name: The name of the pool in errors and in the server's `application_name`.
        environment: The environment: in production a role that bypasses row-level security is refused.
        poolclass: The class of the pool.
        limits: The limits of the pool.
        driver_arguments: Further keyword arguments of `asyncpg.connect`.
        password: Called for the password of each connection, in place of the target's.
        has_fast_path: False to avoid most private names of SQLAlchemy.
        is_read_only: Every transaction is READ ONLY.
        is_pooled_elsewhere: Behind PgBouncer in transaction mode: a connection keeps nothing after its transaction.
        checks_role: Check that row-level security binds the role.
        schema: The schema of this installation's tables; None: the first schema of the search path that has them.
    """

    name: str
    environment: str
    poolclass: type[Pool]
    limits: PoolLimits
    driver_arguments: Mapping[str, Any]
    password: PasswordProvider | None
    has_fast_path: bool
    is_read_only: bool
    is_pooled_elsewhere: bool
    checks_role: bool
    schema: str | None = None


class DatabaseEngine(AsyncEngine):
    """SQLAlchemy's async engine, with the SSH tunnel or the Cloud SQL connector that its connections share.

    Attributes:
        limits: The limits of the pool.
        is_pooled_elsewhere: Behind PgBouncer in transaction mode.
        attached: Objects with the lifetime of the engine, by the name of their package. They may refer to the engine:
            as values of a weak dictionary by engine they would then never be released.
    """

    __slots__ = (
        "_close_callbacks",
        "_connector",
        "_filling",
        "_open_connection",
        "attached",
        "is_pooled_elsewhere",
        "limits",
    )

    def __init__(
        self,
        sync_engine: Engine,
        connector: Connector,
        open_connection: _Opener,
        *,
        limits: PoolLimits,
        is_pooled_elsewhere: bool,
    ) -> None:
        super().__init__(sync_engine)
        self._connector = connector
        self._open_connection = open_connection
        self._close_callbacks: list[Callable[[], Awaitable[None]]] = []
        self.limits = limits
        self.is_pooled_elsewhere = is_pooled_elsewhere
        self._filling: asyncio.Task[None] | None = None
        self.attached: dict[str, Any] = {}

    async def open_connection(self) -> asyncpg.Connection[Any]:
        """Open a driver connection outside of the pool; the caller closes it.

        Raises:
            ConnectionFailed: The database cannot be reached.
            ConfigurationError: The server is too old, or the role bypasses row-level security in production.
        """
        return await self._open_connection()

    @property
    def tunnel_is_up(self) -> bool | None:
        """True if the SSH tunnel is up; None if there is no tunnel."""
        return self._connector.tunnel_is_up

    async def local_addresses(self, target: Target) -> tuple[Host, ...]:
        """Return the addresses at which this machine reaches the hosts of a target, until `dispose`.

        Raises:
            TunnelFailed: The SSH tunnel cannot be opened.
        """
        return await self._connector.local_addresses(target)

    def close_with(self, close: Callable[[], Awaitable[None]]) -> None:
        """Register a function that `dispose` calls, before it closes the pool."""
        self._close_callbacks.append(close)

    def shut_down_sockets(self) -> None:
        """Shut down the sockets of an engine whose event loop is closed, where nothing can be awaited any more."""
        self._connector.shut_down_sockets()

    async def start(self) -> None:
        """Open the pool's minimum, at least one connection; a service that calls this fails at its start, not later.

        Raises:
            ConnectionFailed: The database cannot be reached.
            ConfigurationError: The server is too old, or the role bypasses row-level security in production.
        """
        await self._open(max(1, self._missing()))

    def fill_in_background(self) -> None:
        """Open the connections that the pool lacks to its minimum in a task; the caller does not wait for them."""
        self._filling = asyncio.get_running_loop().create_task(self._fill())

    async def _fill(self) -> None:
        try:
            await self._open(self._missing())
        except DatabaseError as error:  # a later checkout tries again, and raises
            get_logger(__name__).warning("pool_minimum_not_opened", error=type(error).__name__)

    def _missing(self) -> int:
        """Return how many checkouts at the same time leave the pool with its minimum of open connections.

        A checkout opens a connection only if none is idle: so the idle ones are checked out too.
        """
        if not isinstance(self.pool, SizedPool):
            return 0
        idle = self.pool.checkedin()
        missing = self.limits.minimum - self.pool.checkedout() - idle
        return idle + missing if missing > 0 else 0

    async def _open(self, count: int) -> None:
        """Check out a number of connections at the same time, and return them to the pool, also after an error."""
        if count < 1:
            return
        all_open = asyncio.Barrier(count)

        async def hold() -> None:
            async with self.connect():
                with suppress(TimeoutError):  # a caller may have taken one of the idle connections meanwhile
                    async with asyncio.timeout(FILL_SECONDS):
                        await all_open.wait()

        fault: BaseException | None = None
        try:
            async with asyncio.TaskGroup() as group:
                for _ in range(count):
                    group.create_task(hold())
        except BaseExceptionGroup as failed:
            fault = failed.exceptions[0]
        if fault is not None:
            raise fault

    async def dispose(self, close: bool = True) -> None:
        """Close the idle connections and what they share, within 5 s even if the server does not answer."""
        if self._filling is not None and self._filling.cancel():
            await asyncio.wait([self._filling])
        try:
            async with asyncio.timeout(DISPOSE_SECONDS):
                await asyncio.gather(*(close() for close in self._close_callbacks))
                await super().dispose(close)
                await self._connector.wait_for_cancellations()
        except TimeoutError:
            self._connector.terminate_all()
        finally:
            with suppress(TimeoutError):
                async with asyncio.timeout(DISPOSE_SECONDS / 2):
                    await self._connector.close()


def create_engine_for(target: Target, options: EngineOptions) -> DatabaseEngine:
    """Create an engine. Nothing is opened before its first use; the caller disposes of it."""
    connector = Connector(
        target,
        driver_arguments=options.driver_arguments,
        name=partial(connection_name, target.application_name or "", options.environment, options.name),
        password=options.password,
    )
    opener = _opener(connector, target, options)
    poolclass = FairPool if options.poolclass is SizedPool and options.has_fast_path else options.poolclass
    created = create_async_engine(
        _display_url(target),
        connect_args=_connect_args(opener, options),
        poolclass=poolclass,
        hide_parameters=True,
        logging_name=LOGGING_NAME,
        **_pool_options(poolclass, options),
        execution_options={FAST_PATH: options.has_fast_path},
    )
    limits = options.limits
    engine = DatabaseEngine(
        created.sync_engine, connector, opener, limits=limits, is_pooled_elsewhere=options.is_pooled_elsewhere
    )
    writes = not options.is_read_only
    needs_writable_server = writes and target.target_session_attrs in {"read-write", "primary"}
    created.dialect.setup_asyncpg_jsonb_codec = decode_jsonb  # type: ignore[attr-defined] # a hook for other dialects
    register_listeners(engine.sync_engine, writes=writes, needs_writable_server=needs_writable_server)
    replace_stale_connections(engine.sync_engine, limits, pings_each=not options.has_fast_path)
    if limits.minimum > 1 and issubclass(poolclass, SizedPool):
        event.listen(engine.sync_engine, "connect", lambda *_: engine.fill_in_background(), once=True)
    return engine


def _connect_args(opener: _Opener, options: EngineOptions) -> dict[str, Any]:
    arguments: dict[str, Any] = {"async_creator_fn": opener}
    if options.driver_arguments.get("statement_cache_size") == 0:
        # SQLAlchemy has a cache of its own. Behind a transaction pooler, the server connection of the next transaction
        # lacks the statements that the previous one prepared.
        arguments["prepared_statement_cache_size"] = 0
    return arguments


def _pool_options(poolclass: type[Pool], options: EngineOptions) -> dict[str, Any]:
    if not issubclass(poolclass, AsyncAdaptedQueuePool):
        return {}
    limits = options.limits
    return {
        "pool_size": limits.size,
        "max_overflow": limits.overflow,
        "pool_recycle": limits.lifetime,
        "pool_timeout": limits.timeout,
        "pool_logging_name": options.name,
    }


def _display_url(target: Target) -> URL:
    """Return the value of `engine.url`: without the password, and without parameters other than host and port."""
    url = replace(target, password=None).url
    return url.set(query={name: value for name, value in url.query.items() if name in {"host", "port"}})


def _opener(connector: Connector, target: Target, options: EngineOptions) -> _Opener:
    """Return the function that opens the connections of an engine; the first one checks the server and the role."""
    is_checked = False

    async def open_connection(*_arguments: Any, **_options: Any) -> asyncpg.Connection[Any]:
        nonlocal is_checked
        connection = await (connect_embedded(connector) if target.embedded else connector.connect())
        try:
            async with asyncio.timeout(target.connect_seconds):
                if not options.is_pooled_elsewhere:  # else the tenant binding sets the path in each transaction
                    await search_temporary_last(connection)
                if not is_checked:
                    await _check_server(connection, options)
        except BaseException as error:
            connection.terminate()
            if isinstance(error, DRIVER_ERRORS):
                raise translate_connect(error, where=str(connector)) from error
            raise
        is_checked = True
        return connection

    return open_connection


async def _check_schema(connection: asyncpg.Connection[Any], schema: str) -> None:
    """Check that the connection finds the tables of its own schema, and of no other installation.

    Raises:
        ConfigurationError: Behind PgBouncer the role has another search path, or the path has another installation.
    """
    first, user, database, quoted, others = await connection.fetchrow(_SCHEMAS, schema)
    if first != schema:
        raise ConfigurationError(
            f"the search_path of {user} must begin with DATABASE_SCHEMA, {schema}, got {first}: PgBouncer passes no"
            " search_path on, so that the role has to have it",
            hint="run `thea-db bootstrap`, or as an administrator:"
            f" ALTER ROLE {user} IN DATABASE {database} SET search_path = {quoted}",
        )
    if others:
        raise ConfigurationError(
            f"only the schema of DATABASE_SCHEMA, {schema}, may have thea-database's tables, and the search_path has"
            f" {', '.join(others)} too, with the tables of another installation",
            hint="remove that schema from the search_path; move extensions that are in it to a schema of their own:"
            " ALTER EXTENSION ... SET SCHEMA",
        )


async def _check_server(connection: asyncpg.Connection[Any], options: EngineOptions) -> None:
    """Check the version of the server, and that row-level security binds the role.

    Raises:
        ConfigurationError: The server is too old, or the role bypasses row-level security in production.
    """
    major = connection.get_server_version().major
    if major < OLDEST_SERVER:
        raise ConfigurationError(f"the server must be PostgreSQL {OLDEST_SERVER} or later, got {major}")
    if options.schema is not None:
        await _check_schema(connection, options.schema)
    if not options.checks_role or not await connection.fetchval(SEES_EVERY_ROW):
        return
    if options.environment == "production":
        raise ConfigurationError(
            "the application's role must be neither a superuser nor BYPASSRLS: row-level security does not bind"
            " such a role",
            hint="connect as a role that is NOSUPERUSER NOBYPASSRLS",
        )
    get_logger(__name__).warning("role_bypasses_row_level_security", environment=options.environment)
