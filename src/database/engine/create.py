"""create_engine: settings into an engine. It keeps no state of its own."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from contextlib import suppress
from dataclasses import replace
from typing import TYPE_CHECKING, Any, Final

import asyncpg
from sqlalchemy import URL, Engine, Pool, event
from sqlalchemy.ext.asyncio import AsyncEngine, create_async_engine
from sqlalchemy.pool import AsyncAdaptedQueuePool, NullPool

from src.config import get_logger
from src.config.profiles import Purpose, named_target
from src.database.connect import (
    DRIVER_ERRORS,
    Connector,
    PasswordProvider,
    connection_name,
    decode_jsonb,
    search_temporary_last,
)
from src.database.embedded import connect_embedded
from src.database.engine.listeners import LOGGING_NAME, listen
from src.database.engine.pool import SizedPool, keep_fresh
from src.database.engine.sqlalchemy_internals import FAST_PATH, FairPool
from src.database.errors import ConfigurationError, DatabaseError
from src.database.resolve import driver_arguments, is_pooled_elsewhere, named_provider, pool_limits, resolve_target
from src.database.target import PoolLimits, Target
from src.database.translation import translate_connect

if TYPE_CHECKING:
    from src.config import Settings

_Opener = Callable[..., Awaitable["asyncpg.Connection[Any]"]]

OLDEST_SERVER: Final = 15
FILL_SECONDS: Final = 2.0
"""How long the connections that are opened ahead wait for one another."""
DISPOSE_SECONDS: Final = 3.0
"""How long connections have to close politely, and after them the tunnel or the connector half of that."""
SEES_EVERY_ROW: Final = "SELECT rolsuper OR rolbypassrls FROM pg_catalog.pg_roles WHERE rolname = current_user"
"""Whether row-level security spares the role that asks."""


class DatabaseEngine(AsyncEngine):
    """SQLAlchemy's, with what its connections share: a tunnel or a connector goes with it."""

    __slots__ = ("_connector", "_filling", "_open_connection", "_others", "attached", "is_pooled_elsewhere", "limits")

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
        self._others: list[Callable[[], Awaitable[None]]] = []
        self.limits = limits
        self.is_pooled_elsewhere = is_pooled_elsewhere
        self._filling: asyncio.Task[None] | None = None
        self.attached: dict[str, Any] = {}
        """Objects with the lifetime of the engine. They may refer to it, which would leak in a weak dictionary."""

    async def open_connection(self) -> asyncpg.Connection[Any]:
        """Open a connection of the driver's, which no pool knows; whoever asks for it closes it.

        Raises:
            ConnectionFailed: The database cannot be reached.
            ConfigurationError: It is not what the settings ask for.
        """
        return await self._open_connection()

    @property
    def tunnel_is_up(self) -> bool | None:
        """Whether the SSH tunnel stands; None where none has been asked for."""
        return self._connector.tunnel_is_up

    def close_with(self, close: Callable[[], Awaitable[None]]) -> None:
        """Register a function that is called when the engine is disposed of."""
        self._others.append(close)

    def hang_up(self) -> None:
        """Shut down the sockets of an engine whose event loop is closed: nothing can be awaited there any more."""
        self._connector.hang_up()

    async def start(self) -> None:
        """Open the pool's minimum, at least one connection: a service learns at its start what it would learn later.

        Raises:
            ConnectionFailed: The database cannot be reached.
            ConfigurationError: It is not what the settings ask for.
        """
        await self._open(max(1, self._missing()))

    def fill_in_background(self) -> None:
        """Open what is missing to the pool's minimum, while the one who opened the first goes on."""
        self._filling = asyncio.get_running_loop().create_task(self._fill())

    async def _fill(self) -> None:
        try:
            await self._open(self._missing())
        except DatabaseError as error:  # whoever needs them will see it for himself
            get_logger(__name__).warning("pool_minimum_not_opened", error=type(error).__name__)

    def _missing(self) -> int:
        """Return how many have to be in use at once for the minimum to be open: those that are idle, and the rest."""
        if not isinstance(self.pool, SizedPool):
            return 0
        idle = self.pool.checkedin()
        missing = self.limits.minimum - self.pool.checkedout() - idle
        return idle + missing if missing > 0 else 0

    async def _open(self, count: int) -> None:
        """Open a number of connections at the same time, and release them, also after an error."""
        if count < 1:
            return
        all_open = asyncio.Barrier(count)

        async def hold() -> None:
            async with self.connect():
                with suppress(TimeoutError):  # others may have taken what we counted on: they come first
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
        """Close the idle connections and what they share, within 5 s whatever the server does."""
        if self._filling is not None and self._filling.cancel():
            await asyncio.wait([self._filling])
        try:
            async with asyncio.timeout(DISPOSE_SECONDS):
                await asyncio.gather(*(close_other() for close_other in self._others))
                await super().dispose(close)
                await self._connector.part()
        except TimeoutError:
            self._connector.terminate_all()
        finally:
            with suppress(TimeoutError):
                async with asyncio.timeout(DISPOSE_SECONDS / 2):
                    await self._connector.close()


def create_engine(
    settings: Settings,
    *,
    poolclass: type[Pool] | None = None,
    purpose: Purpose = "application",
    name: str = "default",
    password: PasswordProvider | None = None,
) -> DatabaseEngine:
    """Make an engine; nothing is opened before its first use.

    Args:
        settings: Where to, and how many connections.
        poolclass: A pool class in place of the environment's: none in development and test, unless the URL has a
            parameter for one, and a sized one elsewhere.
        purpose: ``application``; ``reading``, on the replica where there is one, and the server
            takes no writes from it; ``migrations``, as the one who owns the tables and without a limit for a
            statement.
        name: What errors and the server call its pool.
        password: Asked for the password at each connect, with the user, the host and the port; it may be async. By
            default what DATABASE_PASSWORD_PROVIDER names, where the URL has no password of its own.

    Raises:
        ConfigurationError: The target cannot be right.
    """
    target = resolve_target(settings, purpose=purpose)
    limits = pool_limits(target, settings)
    connector = Connector(
        (lambda: resolve_target(settings, purpose=purpose)) if target.embedded else (lambda: target),
        driver_arguments=driver_arguments(target, settings, purpose=purpose),
        name=lambda: connection_name(target.application_name or "", settings.ENVIRONMENT, name),
        password=password or named_provider(target, settings),
    )
    is_pooled = target.has_pool_parameters or not settings.is_local
    poolclass = poolclass or (SizedPool if is_pooled else NullPool)
    if poolclass is SizedPool and settings.DATABASE_FAST_PATH:
        poolclass = FairPool
    opener = _opener(connector, settings, purpose=purpose)
    made = create_async_engine(
        _display_url(target),
        connect_args=_connect_args(opener, settings, purpose=purpose),
        poolclass=poolclass,
        hide_parameters=True,
        logging_name=LOGGING_NAME,
        **_pool_options(poolclass, limits, name),
        execution_options={FAST_PATH: settings.DATABASE_FAST_PATH},
    )
    engine = DatabaseEngine(
        made.sync_engine,
        connector,
        opener,
        limits=limits,
        is_pooled_elsewhere=is_pooled_elsewhere(settings, purpose),
    )
    writes = purpose != "reading"
    needs_a_writer = writes and target.target_session_attrs in {"read-write", "primary"}
    made.dialect.setup_asyncpg_jsonb_codec = decode_jsonb  # type: ignore[attr-defined] # a hook for other dialects
    listen(engine.sync_engine, writes=writes, needs_a_writer=needs_a_writer)
    keep_fresh(engine.sync_engine, limits, pings_each=not settings.DATABASE_FAST_PATH)
    if limits.minimum > 1 and issubclass(poolclass, SizedPool):
        event.listen(engine.sync_engine, "connect", lambda *_: engine.fill_in_background(), once=True)
    return engine


def _connect_args(opener: _Opener, settings: Settings, *, purpose: Purpose) -> dict[str, Any]:
    arguments: dict[str, Any] = {"async_creator_fn": opener}
    if is_pooled_elsewhere(settings, purpose) and not settings.DATABASE_PGBOUNCER_PREPARED:
        # The server connection of the next transaction has not prepared the statements of the previous one.
        arguments["prepared_statement_cache_size"] = 0
    return arguments


def _pool_options(poolclass: type[Pool], limits: PoolLimits, name: str) -> dict[str, Any]:
    if not issubclass(poolclass, AsyncAdaptedQueuePool):
        return {}
    return {
        "pool_size": limits.size,
        "max_overflow": limits.overflow,
        "pool_recycle": limits.lifetime,
        "pool_timeout": limits.timeout,
        "pool_logging_name": name,
    }


def _display_url(target: Target) -> URL:
    """Render the target for `engine.url`; the password is not in it at all."""
    url = replace(target, password=None).url
    return url.set(query={name: value for name, value in url.query.items() if name in {"host", "port"}})


def _opener(connector: Connector, settings: Settings, *, purpose: Purpose) -> _Opener:
    is_embedded = named_target(settings, purpose) is None
    has_own_connections = not is_pooled_elsewhere(settings, purpose)  # else the binding sets the path per transaction
    is_checked = False

    async def open_connection(*_arguments: Any, **_options: Any) -> asyncpg.Connection[Any]:
        nonlocal is_checked
        connection = await (
            connect_embedded(connector, settings.DATABASE_EMBEDDED_DIR) if is_embedded else connector.connect()
        )
        try:
            async with asyncio.timeout(connector.connect_timeout):
                if has_own_connections:
                    await search_temporary_last(connection)
                if not is_checked:
                    await _check_server(connection, settings, purpose=purpose)
        except BaseException as error:
            connection.terminate()
            if isinstance(error, DRIVER_ERRORS):
                raise translate_connect(error, where=str(connector)) from error
            raise
        is_checked = True
        return connection

    return open_connection


async def _check_server(connection: asyncpg.Connection[Any], settings: Settings, *, purpose: Purpose) -> None:
    """Check, once an engine, the age of the server, and that row-level security binds the role."""
    major = connection.get_server_version().major
    if major < OLDEST_SERVER:
        raise ConfigurationError(f"the server must be PostgreSQL {OLDEST_SERVER} or later, got {major}")
    if purpose not in {"application", "reading"} or not await connection.fetchval(SEES_EVERY_ROW):
        return
    if settings.ENVIRONMENT == "production":
        raise ConfigurationError(
            "the application's role must be neither a superuser nor BYPASSRLS: row-level security would not bind it",
            hint="connect as a role made with NOSUPERUSER NOBYPASSRLS",
        )
    get_logger(__name__).warning("role_bypasses_row_level_security", environment=settings.ENVIRONMENT)
