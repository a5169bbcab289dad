"""A server of the benchmark's own, in a temporary folder, with databases that are made for it."""

from __future__ import annotations

import asyncio
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

import psycopg
from sqlalchemy import URL

from benchmarks.contenders.base import POOL_SIZE
from src.config import Settings
from src.database.connect.embedded import APP_ROLE, OWNER_ROLE, SUPERUSER, EmbeddedServer
from src.database.schema import upgrade

__all__ = ["BenchmarkServer", "running_server"]

CONFIG: Final = {"fsync": "off", "synchronous_commit": "off", "shared_buffers": "1GB", "max_wal_size": "4GB"}


class BenchmarkServer:
    """A running server; its databases end with it."""

    def __init__(self, socket_folder: str) -> None:
        self._socket_folder = socket_folder

    def create(self, database: str) -> psycopg.Connection:
        """Create and migrate a database, and return a connection of its superuser's."""
        with self.superuser("postgres") as server:
            server.execute(f"CREATE DATABASE {database} OWNER {OWNER_ROLE}")
        connection = self.superuser(database)
        connection.execute(
            f"ALTER DEFAULT PRIVILEGES FOR ROLE {OWNER_ROLE}"
            f" GRANT SELECT, INSERT, UPDATE, DELETE ON TABLES TO {APP_ROLE}"
        )
        asyncio.run(upgrade(self.settings(database, role=OWNER_ROLE)))
        return connection

    def superuser(self, database: str) -> psycopg.Connection:
        """Connect as the one whom row-level security does not bind."""
        return psycopg.connect(host=self._socket_folder, user=SUPERUSER, dbname=database, autocommit=True)

    def environment(self, database: str, tenant_id: str) -> dict[str, str]:
        """Return the settings of a service that acts for one tenant, as environment variables."""
        url = self._url(database, APP_ROLE, pool_max=POOL_SIZE)
        return {
            "ENVIRONMENT": "test",
            "DATABASE_URL": url.render_as_string(hide_password=False),
            "DATABASE_DEFAULT_TENANT": tenant_id,
        }

    def settings(self, database: str, *, role: str = APP_ROLE) -> Settings:
        """Return the settings of a service that uses the database."""
        return Settings(ENVIRONMENT="test", DATABASE_URL=self._url(database, role, pool_max=2))

    def _url(self, database: str, role: str, *, pool_max: int) -> URL:
        query = {"host": self._socket_folder, "pool_max": str(pool_max)}
        return URL.create("postgresql+asyncpg", username=role, database=database, query=query)


@contextmanager
def running_server() -> Iterator[BenchmarkServer]:
    """Start the embedded server, and remove it with all that is in it."""
    with tempfile.TemporaryDirectory(prefix="thea-bench-", ignore_cleanup_errors=True) as name:
        folder = Path(name)
        folder.chmod(0o711)  # as root the server is another user's, and has to pass through
        server = EmbeddedServer(folder / "server", config=CONFIG)
        server.acquire()
        try:
            yield BenchmarkServer(server.target().host)
        finally:
            server.release()
