"""A connection of the driver's for a command: no engine, no pool, and its route is closed with it."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager, suppress
from typing import Any, Final

import asyncpg

from src.database.connect.connection import DRIVER_ERRORS
from src.database.connect.connector import Connector
from src.database.connect.password import PasswordProvider
from src.database.target import Target
from src.database.translation import translate_connect

__all__ = ["command_connection"]

_NAME_BYTES: Final = 63


@asynccontextmanager
async def command_connection(
    target: Target,
    *,
    close_seconds: float,
    server_settings: Mapping[str, str] | None = None,
    command_timeout: float | None = None,
    password: PasswordProvider | None = None,
) -> AsyncIterator[asyncpg.Connection[Any]]:
    """Connect, over whatever route the target has; what the driver raises inside comes out as ours.

    Args:
        target: Where to.
        close_seconds: How long the connection has to close politely, and its route once more as long.
        server_settings: What the server is told of the session, beside its name.
        command_timeout: Seconds for each statement; by default it may take its time.
        password: Asked for the password, in place of the target's.

    Raises:
        ConnectionFailed: Or the child of it that says why.
    """
    name = f"{target.application_name}:thea-db"[:_NAME_BYTES]
    connector = Connector(
        lambda: target,
        driver_arguments={
            "server_settings": {"application_name": name, **(server_settings or {})},
            "statement_cache_size": 0,  # PgBouncer may stand between, whatever the settings say
            "command_timeout": command_timeout,
        },
        password=password,
    )
    try:
        connection = await connector.connect()
        try:
            yield connection
        except DRIVER_ERRORS as error:
            raise translate_connect(error, where=str(target)) from error
        finally:
            with suppress(*DRIVER_ERRORS):
                await connection.close(timeout=close_seconds)
    finally:
        with suppress(TimeoutError):
            async with asyncio.timeout(close_seconds):
                await connector.close()
