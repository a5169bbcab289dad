"""One connection of the driver's, over the engine's routes and without its refusals: those are what we diagnose."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from typing import Any, Final

import asyncpg

from src.config import Settings
from src.config.environment import Purpose, named_target
from src.database.connect import DRIVER_ERRORS, Connector, embedded_server
from src.database.resolve import resolve_target
from src.database.target import Target
from src.database.translation import translate_connect

__all__ = ["Reached", "reach"]

COMMAND_TIMEOUT_SECONDS: Final = 10.0
CLOSE_TIMEOUT_SECONDS: Final = 2.0


@dataclass(frozen=True, slots=True)
class Reached:
    """A server, and the way to it."""

    connection: asyncpg.Connection[Any]
    target: Target


@asynccontextmanager
async def reach(settings: Settings, purpose: Purpose = "application") -> AsyncIterator[Reached]:
    """Connect as one who uses the database for this purpose; the embedded server is started.

    Raises:
        ConfigurationError: The settings name no target that can be right.
        ConnectionFailed: Or the child of it that says why there is no connection.
    """
    if named_target(settings, purpose) is None:
        await asyncio.to_thread(embedded_server(settings.DATABASE_EMBEDDED_DIR).acquire)
    target = resolve_target(settings, purpose=purpose)
    connector = Connector(
        lambda: target,
        driver_arguments={
            "server_settings": {"application_name": f"{target.application_name}:thea-db"[:63]},
            "statement_cache_size": 0,  # PgBouncer may stand between, whatever the settings say
            "command_timeout": COMMAND_TIMEOUT_SECONDS,
        },
    )
    try:
        connection = await connector.connect()
        try:
            yield Reached(connection, target)
        except DRIVER_ERRORS as error:
            raise translate_connect(error, where=str(target)) from error
        finally:
            with suppress(*DRIVER_ERRORS):
                await connection.close(timeout=CLOSE_TIMEOUT_SECONDS)
    finally:
        with suppress(TimeoutError):
            async with asyncio.timeout(CLOSE_TIMEOUT_SECONDS):
                await connector.close()
