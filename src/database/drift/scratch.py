"""Temporary databases: on the server of the settings, or on the embedded server; dropped after their use."""

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
from src.database.embedded import SUPERUSER, embedded_server
from src.database.errors import ConfigurationError
from src.database.session import named_provider, resolve_target
from src.database.target import Target

SCRATCH_PREFIX: Final = "thea_scratch_"


@asynccontextmanager
async def scratch_database(settings: Settings) -> AsyncIterator[Settings]:
    """Create an empty database on the server of the settings, yield the settings that name it, and drop it.

    Raises:
        ConfigurationError: The role of DATABASE_MIGRATION_URL may not create databases.
        ConnectionFailed: The server cannot be reached.
    """
    variable = "DATABASE_MIGRATION_URL"
    creator = owner = named_target(settings, "migrations")
    if creator is None or owner is None:
        server = embedded_server(settings.DATABASE_EMBEDDED_DIR)
        await asyncio.to_thread(server.acquire)
        # The owner of the tables may not create databases there.
        creator, owner = server.target_as(SUPERUSER, SUPERUSER), server.target(as_owner=True)
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

    A process that is killed leaves its database behind.

    Args:
        connection: The connection that creates and drops the database.
        prefix: The beginning of the name; a random part follows.
        variable: The setting that names the connected role, for the error.
        owner: The role that owns the database; by default the connected role.
        options: Further options of CREATE DATABASE.

    Raises:
        ConfigurationError: The server refused to create the database.
    """
    name = prefix + secrets.token_hex(6)
    roles = "SELECT quote_ident(current_user), quote_ident(coalesce($1, current_user))"
    creator, quoted_owner = await connection.fetchrow(roles, owner)
    try:
        # template0: template1 can contain objects that an administrator has added, which would look like drift.
        await connection.execute(f"CREATE DATABASE {name} OWNER {quoted_owner} TEMPLATE template0 {options}")
    except asyncpg.PostgresError as error:
        raise ConfigurationError(
            f"{creator} could not create a scratch database: {error.args[0]}",
            hint=f"as a superuser: ALTER ROLE {creator} CREATEDB; or name a role with CREATEDB in {variable}",
        ) from error
    try:
        yield name
    finally:
        # WITH (FORCE) ends the sessions that a cancelled task has left in the database.
        await run_shielded(connection.execute(f"DROP DATABASE IF EXISTS {name} WITH (FORCE)"))


def _settings_of(settings: Settings, target: Target) -> Settings:
    urls = {"DATABASE_URL": target.url, "DATABASE_MIGRATION_URL": target.url, "DATABASE_REPLICA_URL": None}
    # Without DATABASE_SCHEMA: the snapshot is of `public`, and `compare` translates the names of schemas.
    return settings.model_copy(update={**urls, "DATABASE_PGBOUNCER": False, "DATABASE_SCHEMA": None})
