"""A temporary database on the server of the settings, or on the embedded server, in which migrations are built."""

from __future__ import annotations

import asyncio
import secrets
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace
from typing import Any, Final

import asyncpg

from src.config import Settings
from src.config.profiles import named_target
from src.database.connect import command_connection, run_shielded
from src.database.embedded import embedded_server
from src.database.errors import ConfigurationError
from src.database.session import named_provider, resolve_target
from src.database.target import Target

SCRATCH_PREFIX: Final = "thea_scratch_"


@asynccontextmanager
async def scratch_database(settings: Settings) -> AsyncIterator[Settings]:
    """Create an empty database beside the one that the settings name, yield the settings for it, and drop it.

    Raises:
        ConfigurationError: The role that migrates may not create databases.
        ConnectionFailed: The server cannot be reached.
    """
    variable = "DATABASE_MIGRATION_URL"
    creator, owner = await _roles(settings)
    target = resolve_target(_settings_of(settings, creator), purpose="migrations")
    async with (
        command_connection(target, password=named_provider(target, settings)) as connection,
        temporary_database(connection, SCRATCH_PREFIX, variable=variable, owner=owner.user) as name,
    ):
        yield _settings_of(settings, replace(owner, database=name))


@asynccontextmanager
async def temporary_database(
    connection: asyncpg.Connection[Any], prefix: str, *, variable: str, owner: str | None = None, options: str = ""
) -> AsyncIterator[str]:
    """Create an empty database, yield its name, and drop it, also on cancellation.

    Args:
        connection: The connection that creates and drops the database.
        prefix: The beginning of its name.
        variable: The setting that names the connected role, for the error.
        owner: The role that owns it; by default the connected one.
        options: Further options of CREATE DATABASE.

    Raises:
        ConfigurationError: The server refused to create the database.
    """
    name = prefix + secrets.token_hex(6)
    roles = "SELECT quote_ident(current_user), quote_ident(coalesce($1, current_user))"
    creator, quoted_owner = await connection.fetchrow(roles, owner)
    try:
        await connection.execute(f"CREATE DATABASE {name} OWNER {quoted_owner} TEMPLATE template0 {options}")
    except asyncpg.PostgresError as error:
        raise ConfigurationError(
            f"{creator} could not create a scratch database: {error.args[0]}",
            hint=f"as a superuser: ALTER ROLE {creator} CREATEDB; or name one who may in {variable}",
        ) from error
    try:
        yield name
    finally:
        await run_shielded(connection.execute(f"DROP DATABASE IF EXISTS {name} WITH (FORCE)"))


async def _roles(settings: Settings) -> tuple[Target, Target]:
    """Return the role that creates the database and the one that migrates it; only on the embedded server two."""
    named = named_target(settings, "migrations")
    if named is not None:
        return named, named
    server = embedded_server(settings.DATABASE_EMBEDDED_DIR)
    await asyncio.to_thread(server.acquire)
    from src.database.embedded import SUPERUSER  # noqa: PLC0415 - an extra, imported where it is used

    return server.target_as(SUPERUSER, SUPERUSER), server.target(as_owner=True)


def _settings_of(settings: Settings, target: Target) -> Settings:
    one = {"DATABASE_URL": target.url, "DATABASE_MIGRATION_URL": target.url}
    return settings.model_copy(update={**one, "DATABASE_REPLICA_URL": None, "DATABASE_PGBOUNCER": False})
