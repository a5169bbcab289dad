"""A database of a moment, on the server of the settings or on the embedded one: what migrations build is read there."""

from __future__ import annotations

import asyncio
import secrets
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace
from typing import Final

from sqlalchemy.ext.asyncio import AsyncEngine
from sqlalchemy.pool import NullPool

from src.config import Settings
from src.config.environment import named_target
from src.database.connect import run_shielded
from src.database.embedded import embedded_server
from src.database.engine import create_engine
from src.database.errors import ConfigurationError, DatabaseError
from src.database.target import Target

__all__ = ["SCRATCH_PREFIX", "scratch_database"]

SCRATCH_PREFIX: Final = "thea_scratch_"


@asynccontextmanager
async def scratch_database(settings: Settings) -> AsyncIterator[Settings]:
    """Make an empty database beside the one that the settings name, yield the settings for it, and drop it.

    Raises:
        ConfigurationError: The role that migrates may not create databases.
        ConnectionFailed: The server cannot be reached.
    """
    name = SCRATCH_PREFIX + secrets.token_hex(6)
    creator, owner = await _roles(settings)
    engine = create_engine(_settings_of(settings, creator), poolclass=NullPool, purpose="migrations")
    try:
        await _create(engine, name, owner=owner.user, creator=creator.user)
        try:
            yield _settings_of(settings, replace(owner, database=name))
        finally:
            await run_shielded(_run(engine, f"DROP DATABASE IF EXISTS {name} WITH (FORCE)"))
    finally:
        await engine.dispose()


async def _roles(settings: Settings) -> tuple[Target, Target]:
    """Return who creates the database, and who migrates in it: one and the same but on the embedded server."""
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


async def _create(engine: AsyncEngine, name: str, *, owner: str, creator: str) -> None:
    quote = engine.dialect.identifier_preparer.quote_identifier
    try:
        await _run(engine, f"CREATE DATABASE {name} OWNER {quote(owner)} TEMPLATE template0")
    except DatabaseError as error:
        raise ConfigurationError(
            f"{creator} could not create a scratch database: {error.args[0]}",
            hint=f"as a superuser: ALTER ROLE {quote(creator)} CREATEDB; or name one who may in DATABASE_MIGRATION_URL",
        ) from error


async def _run(engine: AsyncEngine, statement: str) -> None:
    async with engine.connect() as connection:
        await connection.execution_options(isolation_level="AUTOCOMMIT")
        await connection.exec_driver_sql(statement)
