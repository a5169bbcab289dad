"""Runs the migrations: from the checkout or from the wheel, one migrator at a time."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Final

from alembic import command
from alembic.config import Config
from alembic.util import CommandError
from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncConnection
from sqlalchemy.pool import NullPool

from src.config import Settings
from src.database.engine import create_engine
from src.database.errors import ConfigurationError, LockNotAvailable

__all__ = ["alembic_config", "migration_connection", "upgrade"]

LOCK_KEY: Final = 0x7468_6561  # "thea"
LOCK_WAIT_SECONDS: Final = 120.0
LOCK_POLL_SECONDS: Final = 0.2
TABLE_LOCK_TIMEOUT: Final = "5s"

_PACKAGE: Final = Path(__file__).parents[1]
_CHECKOUT: Final = _PACKAGE.parents[1]


def alembic_config() -> Config:
    """Return Alembic's configuration: the checkout's where there is one, else the one inside the wheel."""
    # The checkout first: an editable install has a copy too, made once, and it goes stale.
    for home in (_CHECKOUT, _PACKAGE / "_packaged"):
        if (home / "alembic.ini").is_file() and (home / "migrations" / "env.py").is_file():
            return Config(home / "alembic.ini")
    raise ConfigurationError("the migrations are not in this installation", hint="reinstall thea-database")


async def upgrade(settings: Settings, revision: str = "head") -> None:
    """Bring the database that the settings name up to a revision; does nothing where it is there already.

    Raises:
        ConfigurationError: The revision is unknown, or the target cannot be right.
        ConnectionFailed: The database cannot be reached.
        LockNotAvailable: Somebody else has been migrating for too long.
    """

    def run(connection: object) -> None:
        config = alembic_config()
        config.attributes["connection"] = connection
        command.upgrade(config, revision)

    try:
        async with migration_connection(settings) as connection:
            await connection.run_sync(run)
    except CommandError as error:
        raise ConfigurationError(f"Alembic: {error}") from error


@asynccontextmanager
async def migration_connection(settings: Settings) -> AsyncIterator[AsyncConnection]:
    """Connect as the owner of the tables, alone: two migrators at once would trip over each other."""
    engine = create_engine(settings, poolclass=NullPool, purpose="migrations")
    try:
        async with engine.connect() as connection:
            await _lock(connection)
            await connection.execute(text(f"SET lock_timeout = '{TABLE_LOCK_TIMEOUT}'"))
            await connection.commit()
            yield connection  # the lock goes with the connection
    finally:
        await engine.dispose()


async def _lock(connection: AsyncConnection) -> None:
    """Take the advisory lock by asking for it: who waits inside a statement blocks CREATE INDEX CONCURRENTLY."""
    try:
        async with asyncio.timeout(LOCK_WAIT_SECONDS):
            while not await connection.scalar(text(f"SELECT pg_try_advisory_lock({LOCK_KEY})")):
                await connection.commit()
                await asyncio.sleep(LOCK_POLL_SECONDS)
    except TimeoutError as error:
        raise LockNotAvailable(
            f"another migration has held the lock for {LOCK_WAIT_SECONDS:.0f} s",
            hint=f"pg_locks tells who: locktype 'advisory', objid {LOCK_KEY}",
        ) from error
