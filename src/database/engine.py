"""create_engine: settings into an engine. It keeps no state of its own."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from contextlib import suppress
from dataclasses import replace
from typing import Any, Final, cast

import asyncpg
from sqlalchemy import URL, Engine, Pool, event
from sqlalchemy.ext.asyncio import AsyncEngine, create_async_engine
from sqlalchemy.pool import AsyncAdaptedQueuePool, NullPool

from src.config import Settings, get_logger
from src.config.environment import Purpose, complete, named_target
from src.database import engine_events
from src.database.connect import DRIVER_ERRORS, Connector, PgBouncerConnection, connect_embedded, embedded_server
from src.database.errors import ConfigurationError, DatabaseError
from src.database.pool import PoolLimits, SizedPool, keep_fresh
from src.database.target import SessionAttributes, Target
from src.database.translation import translate_connect

__all__ = ["DatabaseEngine", "create_engine", "pool_limits", "resolve_target", "transaction_limits"]

OLDEST_SERVER: Final = 15
COMMAND_MARGIN_SECONDS: Final = 5.0
"""How much later than the server the driver gives a statement up: the server's answer says more."""
DISPOSE_SECONDS: Final = 3.0
"""How long connections have to close politely, and after them the tunnel or the connector half of that."""
_OF_A_SERVER: Final[dict[SessionAttributes | None, SessionAttributes]] = {
    "read-write": "primary",
    "read-only": "standby",
}
"""What to ask for where all our sessions are read-only by our own wish: what the driver looks at tells nothing then."""
_ROLE_RIGHTS: Final = "SELECT rolsuper OR rolbypassrls FROM pg_catalog.pg_roles WHERE rolname = current_user"


class DatabaseEngine(AsyncEngine):
    """SQLAlchemy's, with what its connections share: a tunnel or a connector goes with it."""

    __slots__ = ("_connector", "_filling", "_minimum")

    def __init__(self, sync_engine: Engine, connector: Connector, *, minimum: int = 0) -> None:
        super().__init__(sync_engine)
        self._connector = connector
        self._minimum = minimum
        self._filling: asyncio.Task[None] | None = None

    async def start(self) -> None:
        """Open the pool's minimum, at least one connection: a service learns at its start what it would learn later.

        Raises:
            ConnectionFailed: The database cannot be reached.
            ConfigurationError: It is not what the settings ask for.
        """
        await self._open(max(1, self._minimum))

    def fill_in_background(self) -> None:
        """Open what is missing to the pool's minimum, while the one who opened the first goes on."""
        self._filling = asyncio.get_running_loop().create_task(self._fill())

    async def _fill(self) -> None:
        missing = self._minimum - cast("SizedPool", self.pool).checkedout()
        try:
            await self._open(missing)
        except DatabaseError as error:  # whoever needs them will see it for himself
            get_logger(__name__).warning("pool_minimum_not_opened", error=type(error).__name__)

    async def _open(self, count: int) -> None:
        """Have so many connections in use at once, and give them back, however this ends."""
        if count < 1:
            return
        all_open = asyncio.Barrier(count)

        async def hold() -> None:
            async with self.connect():
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
                await super().dispose(close)
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
) -> DatabaseEngine:
    """Make an engine; nothing is opened before its first use.

    Args:
        settings: Where to, and how many connections.
        poolclass: A pool class in place of the environment's: none in development and test, unless the URL has a
            parameter for one, and a sized one elsewhere.
        purpose: ``application``; ``reading``, on the replica where there is one, outside of transactions, and the
            server takes no writes from it; ``migrations``, as the one who owns the tables and without time limits.
        name: What errors and the server call its pool.

    Raises:
        ConfigurationError: The target cannot be right.
    """
    target = resolve_target(settings, purpose=purpose)
    limits = pool_limits(target, settings)
    connector = Connector(
        (lambda: resolve_target(settings, purpose=purpose)) if target.embedded else (lambda: target),
        driver_arguments=_driver_arguments(target, settings, purpose=purpose, name=name),
    )
    is_pooled = target.has_pool_parameters or not settings.is_local
    poolclass = poolclass or (SizedPool if is_pooled else NullPool)
    options: dict[str, Any] = {}
    if issubclass(poolclass, AsyncAdaptedQueuePool):
        options = {
            "pool_size": limits.size,
            "max_overflow": limits.overflow,
            "pool_recycle": limits.lifetime,
            "pool_timeout": limits.timeout,
            "pool_logging_name": name,
        }
    if purpose == "reading" and not settings.DATABASE_PGBOUNCER:
        options["isolation_level"] = "AUTOCOMMIT"
    elif purpose == "reading":
        options["execution_options"] = {"postgresql_readonly": True}
    made = create_async_engine(
        _display_url(target),
        connect_args={
            "async_creator_fn": _opener(connector, settings, purpose=purpose),
            # What PgBouncer hands the next transaction to has not prepared what the last one's server has.
            **({"prepared_statement_cache_size": 0} if _is_pooled_elsewhere(settings, purpose) else {}),
        },
        poolclass=poolclass,
        echo=settings.DATABASE_ECHO,
        hide_parameters=True,
        **options,
    )
    engine = DatabaseEngine(made.sync_engine, connector, minimum=limits.minimum)
    writes = purpose != "reading"
    needs_a_writer = writes and target.target_session_attrs in {"read-write", "primary"}
    engine_events.listen(engine.sync_engine, writes=writes, needs_a_writer=needs_a_writer)
    keep_fresh(engine.sync_engine, limits)
    if limits.minimum > 1 and issubclass(poolclass, SizedPool):
        event.listen(engine.sync_engine, "connect", lambda *_: engine.fill_in_background(), once=True)
    return engine


def resolve_target(settings: Settings, *, purpose: Purpose = "application") -> Target:
    """Return the target that the settings name; the embedded server's may not run yet.

    Raises:
        ConfigurationError: The target cannot be right.
    """
    target = named_target(settings, purpose)
    if target is None:
        if settings.DB_SSH_TUNNEL:
            raise ConfigurationError("DB_SSH_TUNNEL must be false where the embedded server serves")
        target = embedded_server(settings.DATABASE_EMBEDDED_DIR).target(as_owner=purpose == "migrations")
    target = complete(target, settings)
    if purpose == "reading":
        attributes = target.target_session_attrs
        return replace(target, target_session_attrs=_OF_A_SERVER.get(attributes, attributes))
    return target


def pool_limits(target: Target, settings: Settings) -> PoolLimits:
    """Return how many connections there may be, and for how long; the URL's own word counts before the settings'."""
    size, overflow = settings.DATABASE_POOL_SIZE, settings.DATABASE_MAX_OVERFLOW
    if target.pool_max is not None:
        size, overflow = target.pool_max, 0
    minimum = target.pool_min or 0
    return PoolLimits(
        size=max(size, minimum),
        overflow=overflow,
        timeout=settings.DATABASE_POOL_TIMEOUT,
        lifetime=target.max_lifetime or settings.DATABASE_POOL_RECYCLE,
        idle=None if target.pool_idle is None else target.pool_idle / 1000,
        minimum=minimum,
    )


def _driver_arguments(target: Target, settings: Settings, *, purpose: Purpose, name: str) -> dict[str, Any]:
    application = target.application_name or ""
    server = {"application_name": application if name == "default" else f"{application}:{name}"[:63]}
    if _is_pooled_elsewhere(settings, purpose):  # it refuses all other parameters: they are set per transaction
        return {
            "server_settings": server,
            "statement_cache_size": 0,
            "command_timeout": _command_timeout(target),
            "connection_class": PgBouncerConnection,
        }
    if purpose == "migrations":
        return {"server_settings": {**server, "statement_timeout": "0", "idle_in_transaction_session_timeout": "0"}}
    server |= _limits(target, settings)
    if purpose == "reading":
        server["default_transaction_read_only"] = "on"
    return {"server_settings": server, "command_timeout": _command_timeout(target)}


def transaction_limits(settings: Settings) -> dict[str, str]:
    """Return what has to be set with each transaction, since the connection cannot have it: behind PgBouncer."""
    if not settings.DATABASE_PGBOUNCER:
        return {}
    return _limits(resolve_target(settings), settings)


def _limits(target: Target, settings: Settings) -> dict[str, str]:
    return {
        "statement_timeout": str(target.statement_timeout),
        "lock_timeout": str(target.lock_timeout),
        "idle_in_transaction_session_timeout": str(settings.DATABASE_IDLE_TRANSACTION_TIMEOUT),
    }


def _is_pooled_elsewhere(settings: Settings, purpose: Purpose) -> bool:
    """Say whether the connection is PgBouncer's; migrations go to the server itself."""
    return settings.DATABASE_PGBOUNCER and purpose != "migrations"


def _command_timeout(target: Target) -> float | None:
    return target.statement_timeout / 1000 + COMMAND_MARGIN_SECONDS if target.statement_timeout else None


def _display_url(target: Target) -> URL:
    """Render the target for `engine.url`; the password is not in it at all."""
    url = replace(target, password=None).url
    return url.set(query={name: value for name, value in url.query.items() if name in {"host", "port"}})


def _opener(
    connector: Connector, settings: Settings, *, purpose: Purpose
) -> Callable[..., Awaitable[asyncpg.Connection[Any]]]:
    is_embedded = named_target(settings, purpose) is None
    is_checked = False

    async def open_connection(*_arguments: Any, **_options: Any) -> asyncpg.Connection[Any]:
        nonlocal is_checked
        connection = await (
            connect_embedded(connector, settings.DATABASE_EMBEDDED_DIR) if is_embedded else connector.connect()
        )
        if not is_checked:
            try:
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
    """Look once an engine at what it is connected to: too old a server, or a role that row-level security spares."""
    major = connection.get_server_version().major
    if major < OLDEST_SERVER:
        raise ConfigurationError(f"the server must be PostgreSQL {OLDEST_SERVER} or later, got {major}")
    if purpose == "migrations" or not await connection.fetchval(_ROLE_RIGHTS):
        return
    if settings.ENVIRONMENT == "production":
        raise ConfigurationError(
            "the application's role must be neither a superuser nor BYPASSRLS: row-level security would not bind it",
            hint="connect as a role made with NOSUPERUSER NOBYPASSRLS",
        )
    get_logger(__name__).warning("role_bypasses_row_level_security", environment=settings.ENVIRONMENT)
