"""One connection of the driver's, over the engine's routes and without its refusals: those are what we diagnose."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any, Final

import asyncpg

from src.config import Settings
from src.config.environment import Purpose
from src.database.connect import command_connection
from src.database.operations.administration import reach_target
from src.database.resolve import named_provider
from src.database.target import Target

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
    target = await reach_target(settings, purpose)
    # A pooler refuses it as a parameter of the connection, and kept by the session it would reach other clients.
    search_path = None if settings.DATABASE_PGBOUNCER else target.search_path
    connecting = command_connection(
        target,
        server_settings=None if search_path is None else {"search_path": search_path},
        command_timeout=COMMAND_TIMEOUT_SECONDS,
        close_seconds=CLOSE_TIMEOUT_SECONDS,
        password=named_provider(target, settings),
    )
    async with connecting as connection:
        yield Reached(connection, target)
