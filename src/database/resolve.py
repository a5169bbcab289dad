"""From the settings to the target, the pool's limits and the driver's arguments for one purpose."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from typing import TYPE_CHECKING, Any, Final

from src.config.profiles import Purpose, complete, named_target
from src.database.connect import PasswordProvider, PgBouncerConnection, find_provider
from src.database.embedded import embedded_server
from src.database.errors import ConfigurationError
from src.database.target import PoolLimits, SessionAttributes, Target

if TYPE_CHECKING:
    from src.config import Settings

_UNLIMITED: Final = ("migrations", "administration", "backup")
"""Purposes without a time limit, which connect to the server itself."""
_SUPERUSER: Final = "postgres"
"""The embedded server's."""
COMMAND_MARGIN_SECONDS: Final = 5.0
"""How much later than the server the driver gives a statement up: the server's answer says more."""
_OF_A_SERVER: Final[dict[SessionAttributes | None, SessionAttributes]] = {
    "read-write": "primary",
    "read-only": "standby",
}
"""The attributes to require for reading: the driver checks read-only, which this package sets itself."""


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
        target = replace(target, user=_SUPERUSER) if purpose in {"administration", "backup"} else target
    target = complete(target, settings)
    if purpose == "reading":
        attributes = target.target_session_attrs
        return replace(target, target_session_attrs=_OF_A_SERVER.get(attributes, attributes))
    return target


async def reach_target(settings: Settings, purpose: Purpose) -> Target:
    """Return the target of a purpose; if it is the embedded server, start it.

    Raises:
        ConfigurationError: The target cannot be right.
        ConnectionFailed: The embedded server does not start.
    """
    if named_target(settings, purpose) is None:
        await asyncio.to_thread(embedded_server(settings.DATABASE_EMBEDDED_DIR).acquire)
    return resolve_target(settings, purpose=purpose)


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


def driver_arguments(target: Target, settings: Settings, *, purpose: Purpose) -> dict[str, Any]:
    """Return what `asyncpg.connect` is told beside the target and a name: time limits, what PgBouncer needs."""
    if is_pooled_elsewhere(settings, purpose):  # it refuses all parameters but a name: they are set per transaction
        arguments: dict[str, Any] = {
            "command_timeout": _command_timeout(target),
            "connection_class": PgBouncerConnection,
        }
        return arguments if settings.DATABASE_PGBOUNCER_PREPARED else {**arguments, "statement_cache_size": 0}
    server = _limits(target, settings)
    if purpose in _UNLIMITED:  # an index may take hours; who holds locks and does nothing is ended as anybody is
        server["statement_timeout"] = "0"
        if purpose != "migrations":  # a snapshot waits in its transaction for pg_dump
            server |= dict.fromkeys(("lock_timeout", "idle_in_transaction_session_timeout"), "0")
        return {"server_settings": server}
    if purpose == "reading":
        server["default_transaction_read_only"] = "on"
    return {"server_settings": server, "command_timeout": _command_timeout(target)}


def transaction_limits(settings: Settings, *, purpose: Purpose = "application") -> dict[str, str]:
    """Return what has to be set with each transaction, since the connection cannot have it: behind PgBouncer."""
    if not settings.DATABASE_PGBOUNCER:
        return {}
    return _limits(resolve_target(settings, purpose=purpose), settings)


def _limits(target: Target, settings: Settings) -> dict[str, str]:
    limits = {
        "statement_timeout": str(target.statement_timeout),
        "lock_timeout": str(target.lock_timeout),
        "idle_in_transaction_session_timeout": str(settings.DATABASE_IDLE_TRANSACTION_TIMEOUT),
    }
    return limits if target.search_path is None else {**limits, "search_path": target.search_path}


def is_pooled_elsewhere(settings: Settings, purpose: Purpose) -> bool:
    """Return True if the connection is PgBouncer's; migrations and administration connect to the server itself."""
    return settings.DATABASE_PGBOUNCER and purpose not in _UNLIMITED


def _command_timeout(target: Target) -> float | None:
    return target.statement_timeout / 1000 + COMMAND_MARGIN_SECONDS if target.statement_timeout else None


def named_provider(target: Target, settings: Settings) -> PasswordProvider | None:
    """Return what the settings have asked for each password, where the target has none of its own.

    Raises:
        ConfigurationError: There is no such function.
    """
    name = settings.DATABASE_PASSWORD_PROVIDER
    if name is None or target.password is not None or target.embedded is not None:
        return None
    return find_provider(name)
