"""How a Target becomes a connection of the driver's."""

from __future__ import annotations

from typing import Any

import asyncpg

from src.database.connect.tls import create_ssl_context
from src.database.errors import translate_connect
from src.database.target import Target

__all__ = ["connect"]


async def connect(target: Target) -> asyncpg.Connection[Any]:
    """Open one connection.

    Raises:
        ConnectionFailed: Or the child of it that says why; never a bare ``OSError``.
    """
    try:
        return await asyncpg.connect(
            host=target.host,
            port=target.port,
            user=target.user,
            password=target.password,
            database=target.database,
            timeout=target.connect_timeout,
            # A plain False: without it the driver would try TLS, take plaintext for an answer, and not say so.
            ssl=False
            if target.is_socket
            else create_ssl_context(target.ssl_mode or "disable", ca=target.ssl_ca),
            server_settings={"application_name": target.application_name}
            if target.application_name
            else None,
        )
    except (asyncpg.PostgresError, asyncpg.InterfaceError, OSError, EOFError) as error:
        raise translate_connect(error, where=str(target)) from error
