"""create_engine: settings into an engine. It keeps no state of its own."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import replace
from typing import Any, Final

import asyncpg
from sqlalchemy import URL, Pool
from sqlalchemy.ext.asyncio import AsyncEngine, create_async_engine
from sqlalchemy.pool import AsyncAdaptedQueuePool, NullPool

from src.config import Settings, get_logger
from src.database import engine_events
from src.database.connect import connect, embedded_server
from src.database.errors import ConfigurationError
from src.database.target import Target

__all__ = ["create_engine", "resolve_target"]

OLDEST_SERVER: Final = 15
_ROLE_RIGHTS: Final = "SELECT rolsuper OR rolbypassrls FROM pg_catalog.pg_roles WHERE rolname = current_user"


def create_engine(
    settings: Settings, *, poolclass: type[Pool] | None = None, for_migrations: bool = False
) -> AsyncEngine:
    """Make an engine; nothing is opened before its first use.

    Args:
        settings: Where to, and how many connections.
        poolclass: A pool class in place of the environment's: none in development and test, a sized one elsewhere.
        for_migrations: Connect as the one who owns the tables, not as the application.

    Raises:
        ConfigurationError: The target cannot be right.
    """
    poolclass = poolclass or (NullPool if settings.is_local else AsyncAdaptedQueuePool)
    sizes: dict[str, Any] = {}
    if issubclass(poolclass, AsyncAdaptedQueuePool):
        sizes = {
            "pool_size": settings.DATABASE_POOL_SIZE,
            "max_overflow": settings.DATABASE_MAX_OVERFLOW,
            "pool_recycle": settings.DATABASE_POOL_RECYCLE,
            "pool_timeout": settings.DATABASE_POOL_TIMEOUT,
        }
    engine = create_async_engine(
        _display_url(resolve_target(settings, for_migrations=for_migrations)),
        connect_args={"async_creator_fn": _connector(settings, for_migrations=for_migrations)},
        poolclass=poolclass,
        echo=settings.DATABASE_ECHO,
        hide_parameters=True,
        **sizes,
    )
    engine_events.listen(engine.sync_engine)
    return engine


def resolve_target(settings: Settings, *, for_migrations: bool = False) -> Target:
    """Return the target that the settings name; the embedded server's may not run yet.

    Raises:
        ConfigurationError: The target cannot be right.
    """
    url = _url(settings, for_migrations=for_migrations)
    if url is None:
        target = embedded_server(settings.DATABASE_EMBEDDED_DIR).target(as_owner=for_migrations)
    else:
        target = Target.from_url(url)
    mode = target.ssl_mode or settings.DATABASE_SSL_MODE or ("disable" if settings.is_local else "require")
    if mode == "disable" and not settings.is_local and not target.is_socket:
        raise ConfigurationError(
            f"sslmode must be require, verify-ca or verify-full where ENVIRONMENT={settings.ENVIRONMENT}, got {mode!r}"
        )
    return replace(
        target,
        ssl_mode=mode,
        ssl_ca=target.ssl_ca or settings.DATABASE_SSL_CA,
        application_name=target.application_name or settings.DATABASE_APPLICATION_NAME,
        connect_timeout=target.connect_timeout or settings.DATABASE_CONNECT_TIMEOUT,
    )


def _display_url(target: Target) -> URL:
    """Render the target for `engine.url`; the password is not in it at all."""
    return URL.create(
        "postgresql+asyncpg",
        username=target.user,
        host=None if target.is_socket else target.host,
        port=None if target.is_socket else target.port,
        database=target.database,
        query={"host": target.host} if target.is_socket else {},
    )


def _url(settings: Settings, *, for_migrations: bool) -> URL | None:
    """Return the URL that the settings have for this purpose; without one it is the embedded server's."""
    return (settings.DATABASE_MIGRATION_URL if for_migrations else None) or settings.DATABASE_URL


def _connector(settings: Settings, *, for_migrations: bool) -> Callable[..., Awaitable[asyncpg.Connection[Any]]]:
    is_embedded = _url(settings, for_migrations=for_migrations) is None
    is_checked = False

    async def open_connection(*_arguments: Any, **_options: Any) -> asyncpg.Connection[Any]:
        nonlocal is_checked
        if is_embedded:
            await asyncio.to_thread(embedded_server(settings.DATABASE_EMBEDDED_DIR).acquire)
        connection = await connect(resolve_target(settings, for_migrations=for_migrations))
        if not is_checked:
            try:
                await _check_server(connection, settings, for_migrations=for_migrations)
            except BaseException:
                connection.terminate()
                raise
            is_checked = True
        return connection

    return open_connection


async def _check_server(connection: asyncpg.Connection[Any], settings: Settings, *, for_migrations: bool) -> None:
    """Look once an engine at what it is connected to: too old a server, or a role that row-level security spares."""
    major = connection.get_server_version().major
    if major < OLDEST_SERVER:
        raise ConfigurationError(f"the server must be PostgreSQL {OLDEST_SERVER} or later, got {major}")
    if for_migrations or not await connection.fetchval(_ROLE_RIGHTS):
        return
    if settings.ENVIRONMENT == "production":
        raise ConfigurationError(
            "the application's role must be neither a superuser nor BYPASSRLS: row-level security would not bind it",
            hint="connect as a role made with NOSUPERUSER NOBYPASSRLS",
        )
    get_logger(__name__).warning("role_bypasses_row_level_security", environment=settings.ENVIRONMENT)
