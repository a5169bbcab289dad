"""Connections of the driver's own for administration: no pool, no time limit, nothing of the engine's."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace
from typing import Any, Final

import asyncpg

from src.config import Settings
from src.config.environment import Purpose, named_target
from src.database.connect import command_connection
from src.database.embedded import embedded_server
from src.database.resolve import resolve_target
from src.database.target import Target

__all__ = ["open_connection", "reach_target"]

CLOSE_TIMEOUT_SECONDS: Final = 5.0
# A role's own limits are for whoever serves requests.
_UNLIMITED: Final = {"statement_timeout": "0", "idle_in_transaction_session_timeout": "0", "lock_timeout": "0"}


async def reach_target(settings: Settings, purpose: Purpose) -> Target:
    """Return the target of a purpose; the embedded server runs from here on.

    Raises:
        ConfigurationError: The settings name none that can be right.
        ConnectionFailed: The embedded server does not start.
    """
    if named_target(settings, purpose) is None:
        await asyncio.to_thread(embedded_server(settings.DATABASE_EMBEDDED_DIR).acquire)
    return resolve_target(settings, purpose=purpose)


@asynccontextmanager
async def open_connection(target: Target, *, database: str | None = None) -> AsyncIterator[asyncpg.Connection[Any]]:
    """Connect, over whatever route the target has; what the driver raises inside comes out as ours.

    Args:
        target: Where to.
        database: Another one of the same server.

    Raises:
        ConnectionFailed: Or the child of it that says why.
    """
    target = target if database is None else replace(target, database=database)
    connecting = command_connection(target, server_settings=_UNLIMITED, close_seconds=CLOSE_TIMEOUT_SECONDS)
    async with connecting as connection:
        yield connection
