"""From the settings to the target and the engine of each purpose; the code below this package knows no settings."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from typing import TYPE_CHECKING, Any, Final

from sqlalchemy import Pool
from sqlalchemy.pool import NullPool

from src.config.profiles import Purpose, complete, named_target
from src.database.connect import PasswordProvider, PgBouncerConnection, find_provider
from src.database.embedded import SUPERUSER, embedded_server
from src.database.engine import DatabaseEngine, EngineOptions, SizedPool, create_engine_for
from src.database.errors import ConfigurationError
from src.database.target import PoolLimits, SessionAttributes, Target

if TYPE_CHECKING:
    from src.config import Settings

_UNLIMITED: Final = ("migrations", "administration", "backup")
"""Purposes without a time limit for statements, which connect to the server itself."""
COMMAND_MARGIN_SECONDS: Final = 5.0
"""How much later than the server the driver cancels a statement: the server's own error has more detail."""
# The driver would check read-only by `default_transaction_read_only`, which this package itself sets for reading.
_ATTRIBUTES_FOR_READING: Final[dict[SessionAttributes | None, SessionAttributes]] = {
    "read-write": "primary",
    "read-only": "standby",
}


def resolve_target(settings: Settings, *, purpose: Purpose = "application") -> Target:
    """Return the target that the settings name for a purpose. If it is the embedded server, it may not run yet.

    Raises:
        ConfigurationError: The settings name no usable target.
    """
    target = named_target(settings, purpose)
    if target is None:
        if settings.DB_SSH_TUNNEL:
            raise ConfigurationError("DB_SSH_TUNNEL must be false if the embedded server is used")
        target = embedded_server(settings.DATABASE_EMBEDDED_DIR).target(as_owner=purpose == "migrations")
        target = replace(target, user=SUPERUSER) if purpose in {"administration", "backup"} else target
    target = complete(target, settings)
    if purpose == "reading":
        attributes = target.target_session_attrs
        return replace(target, target_session_attrs=_ATTRIBUTES_FOR_READING.get(attributes, attributes))
    return target


async def reach_target(settings: Settings, purpose: Purpose) -> Target:
    """Return the target of a purpose; if it is the embedded server, start the server.

    Raises:
        ConfigurationError: The settings name no usable target.
        ConnectionFailed: The embedded server does not start.
    """
    if named_target(settings, purpose) is None:
        await asyncio.to_thread(embedded_server(settings.DATABASE_EMBEDDED_DIR).acquire)
    return resolve_target(settings, purpose=purpose)


def create_engine(
    settings: Settings,
    *,
    poolclass: type[Pool] | None = None,
    purpose: Purpose = "application",
    name: str = "default",
    password: PasswordProvider | None = None,
) -> DatabaseEngine:
    """Create an engine. Nothing is opened before its first use; the caller disposes of it.

    Example:
        reports = create_engine(settings, name="reports")
        async with reports.connect() as connection:
            rows = (await connection.execute(select(User.id))).all()
        await reports.dispose()

    Args:
        settings: The target, the limits and the environment.
        poolclass: The pool class. By default `NullPool` in development and test, unless the URL has a parameter for
            the pool, and `SizedPool` elsewhere.
        purpose: ``application``; ``reading``, on the replica if there is one, in transactions that are READ ONLY;
            ``migrations``, as the owner of the tables and without a time limit for statements; ``administration`` or
            ``backup``, as their roles and without any time limit.
        name: The name of the pool in errors and in the server's `application_name`.
        password: Called at each connect with the user, the host and the port; returns the password, and may be async.
            By default the function that DATABASE_PASSWORD_PROVIDER names, if the URL has no password.

    Raises:
        ConfigurationError: The settings name no usable target.
    """
    target = resolve_target(settings, purpose=purpose)
    is_pooled = target.has_pool_parameters or not settings.is_local
    options = EngineOptions(
        name=name,
        environment=settings.ENVIRONMENT,
        poolclass=poolclass or (SizedPool if is_pooled else NullPool),
        limits=pool_limits(target, settings),
        driver_arguments=driver_arguments(target, settings, purpose=purpose),
        password=password or named_provider(target, settings),
        has_fast_path=settings.DATABASE_FAST_PATH,
        is_read_only=purpose == "reading",
        is_pooled_elsewhere=_is_pooled_elsewhere(settings, purpose),
        checks_role=purpose in {"application", "reading"},
        schema=settings.DATABASE_SCHEMA,
    )
    return create_engine_for(target, options)


def pool_limits(target: Target, settings: Settings) -> PoolLimits:
    """Return the limits of a target's pool. A parameter of its URL takes precedence over the settings."""
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


def transaction_limits(settings: Settings, *, purpose: Purpose = "application") -> dict[str, str]:
    """Return the server parameters to set in each transaction: behind PgBouncer a connection cannot keep them."""
    if not settings.DATABASE_PGBOUNCER:
        return {}
    return _limits(resolve_target(settings, purpose=purpose), settings)


def named_provider(target: Target, settings: Settings) -> PasswordProvider | None:
    """Return the function that DATABASE_PASSWORD_PROVIDER names, or None if the target needs none.

    Raises:
        ConfigurationError: There is no such function.
    """
    name = settings.DATABASE_PASSWORD_PROVIDER
    if name is None or target.password is not None or target.embedded is not None:
        return None
    return find_provider(name)


def driver_arguments(target: Target, settings: Settings, *, purpose: Purpose) -> dict[str, Any]:
    """Return the keyword arguments of `asyncpg.connect` for time limits and for PgBouncer."""
    if _is_pooled_elsewhere(settings, purpose):  # PgBouncer refuses startup parameters: they are set per transaction
        arguments: dict[str, Any] = {
            "command_timeout": _command_timeout(target),
            "connection_class": PgBouncerConnection,
        }
        return arguments if settings.DATABASE_PGBOUNCER_PREPARED else {**arguments, "statement_cache_size": 0}
    server = _limits(target, settings)
    if purpose in _UNLIMITED:  # building an index may take hours; an idle transaction that holds locks still ends
        server["statement_timeout"] = "0"
        if purpose != "migrations":  # the transaction of pg_dump's snapshot is idle as long as pg_dump runs
            server |= dict.fromkeys(("lock_timeout", "idle_in_transaction_session_timeout"), "0")
        return {"server_settings": server}
    if purpose == "reading":
        server["default_transaction_read_only"] = "on"
    return {"server_settings": server, "command_timeout": _command_timeout(target)}


def _limits(target: Target, settings: Settings) -> dict[str, str]:
    limits = {
        "statement_timeout": str(target.statement_timeout),
        "lock_timeout": str(target.lock_timeout),
        "idle_in_transaction_session_timeout": str(settings.DATABASE_IDLE_TRANSACTION_TIMEOUT),
    }
    return limits if target.search_path is None else {**limits, "search_path": target.search_path}


def _is_pooled_elsewhere(settings: Settings, purpose: Purpose) -> bool:
    return settings.DATABASE_PGBOUNCER and purpose not in _UNLIMITED


def _command_timeout(target: Target) -> float | None:
    return target.statement_timeout / 1000 + COMMAND_MARGIN_SECONDS if target.statement_timeout else None
