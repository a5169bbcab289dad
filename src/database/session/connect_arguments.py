"""get_connect_arguments: the database of the settings, for drivers that other libraries use."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import replace
from typing import Any, Literal, get_args

from src import config
from src.config.profiles import DatabaseConfig
from src.database.connect import (
    Driver,
    asyncpg_arguments,
    check_is_mounted,
    connection_name,
    psycopg_arguments,
    with_password,
)
from src.database.session.engines import DEFAULT, engine_of_loop
from src.database.session.targets import driver_arguments, named_provider, reach_target
from src.database.target import Target, options_of

OtherPurpose = Literal["application", "migrations"]


async def get_connect_arguments(driver: Driver, *, purpose: OtherPurpose = "application") -> DatabaseConfig:
    """Return the keyword arguments with which a driver connects to the database of the settings.

    The embedded server is started, and runs until this process ends. Behind an SSH tunnel the arguments have a local
    address, which belongs to the engine of `get_db` in the running event loop: it stays the same if the tunnel drops,
    and ends with `engine.dispose()` or with the event loop. The loop has to run while another thread connects through
    it. The caller closes the connections.

    Args:
        driver: ``asyncpg`` for `asyncpg.connect` and `asyncpg.create_pool`; ``psycopg`` for `psycopg.connect`,
            `psycopg.AsyncConnection.connect` and the `kwargs` of the pools of psycopg_pool.
        purpose: ``application``: row-level security binds this role, and it creates no tables. ``migrations``: the
            owner of the tables, with which another library creates its tables.

    Returns:
        The arguments; the dictionary's text masks the password. asyncpg calls DATABASE_PASSWORD_PROVIDER for each
        connection, with the first host. For psycopg the provider is called once: if its passwords expire, pass this
        function to the pool (psycopg_pool 3.3), as in the example.

    Raises:
        ConfigurationError: The settings name no usable target, or the driver cannot use its route.
        ConnectionFailed: The embedded server or the SSH tunnel cannot be started.
        ValueError: The driver is unknown.

    Example:
        from functools import partial
        from psycopg_pool import AsyncConnectionPool

        pool = AsyncConnectionPool(kwargs=partial(get_connect_arguments, "psycopg"), open=False)
        async with pool, pool.connection() as connection:
            await connection.execute("SELECT 1")
    """
    if driver not in get_args(Driver):
        raise ValueError(f"driver must be one of {', '.join(get_args(Driver))}, got {driver!r}")
    settings = config.get_settings()
    target = await reach_target(settings, purpose)
    check_is_mounted(target, driver)
    name = connection_name(target.application_name or "", settings.ENVIRONMENT, driver)
    target = replace(target, application_name=name)
    options = driver_arguments(target, settings, purpose=purpose)
    near = target.hosts if target.ssh is None else await engine_of_loop(DEFAULT).local_addresses(target)
    provider = named_provider(target, settings)
    if driver == "asyncpg":
        return _for_asyncpg(asyncpg_arguments(target, near), target, options, provider)
    if provider is not None:
        target = await with_password(provider, target, target.hosts[0])
    return _for_psycopg(psycopg_arguments(target, near), options)


def _for_asyncpg(arguments: dict[str, Any], target: Target, options: dict[str, Any], provider: Any) -> DatabaseConfig:
    names = {"application_name": target.application_name}
    shared = {name: value for name, value in options.items() if name != "connection_class"}
    made = DatabaseConfig(arguments | shared | {"server_settings": {**options.get("server_settings", {}), **names}})
    if provider is not None:
        made["password"] = _password_of(provider, target)
    return made


def _for_psycopg(arguments: dict[str, Any], options: dict[str, Any]) -> DatabaseConfig:
    made = DatabaseConfig(arguments, options=options_of(options.get("server_settings", {})))
    if options.get("statement_cache_size") == 0:
        made["prepare_threshold"] = None
    return made


def _password_of(provider: Any, target: Target) -> Callable[[], Awaitable[str | None]]:
    async def password() -> str | None:
        return (await with_password(provider, target, target.hosts[0])).password

    return password
