"""A server of the benchmark's own, in a temporary folder, with the databases that are created for it."""

from __future__ import annotations

import asyncio
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Final

import psycopg
from sqlalchemy import URL

from benchmarks.contenders.base import POOL_SIZE
from src.config import Settings
from src.database.embedded import APP_ROLE, OWNER_ROLE, SUPERUSER, EmbeddedServer
from src.database.migrate import upgrade

__all__ = ["BenchmarkServer", "running_server"]

CONFIG: Final = {"fsync": "on", "synchronous_commit": "on", "shared_buffers": "1GB", "max_wal_size": "4GB"}
# The settings that decide durability and speed, and others that differ from PostgreSQL's defaults.
_SETTINGS: Final = """
SELECT name, current_setting(name) FROM pg_settings
 WHERE name = ANY ('{server_version, fsync, synchronous_commit, full_page_writes, wal_sync_method, data_checksums,
                     shared_buffers, work_mem, max_wal_size, checkpoint_timeout, autovacuum, jit, io_method}')
    OR (source NOT IN ('default', 'override') AND category SIMILAR TO '(Write-Ahead|Resource|Query|Vacuum|Autovacuum)%')
 ORDER BY name
"""
_BACKENDS: Final = "SELECT pid FROM pg_stat_activity WHERE backend_type = 'client backend' AND pid <> pg_backend_pid()"


class BenchmarkServer:
    """A running server; its databases are removed with it."""

    def __init__(self, socket_folder: str) -> None:
        self._socket_folder = socket_folder
        self._observer = self.superuser("postgres")

    def close(self) -> None:
        """Close the connection of `settings_in_force` and `backend_times`."""
        self._observer.close()

    def create_empty(self, database: str) -> psycopg.Connection:
        """Create a database, and return a connection of the superuser."""
        self._observer.execute(f"CREATE DATABASE {database} OWNER {OWNER_ROLE}")
        return self.superuser(database)

    def create(self, database: str) -> psycopg.Connection:
        """Create a database with this project's schema, and return a connection of the superuser."""
        connection = self.create_empty(database)
        connection.execute(
            f"ALTER DEFAULT PRIVILEGES FOR ROLE {OWNER_ROLE}"
            f" GRANT SELECT, INSERT, UPDATE, DELETE ON TABLES TO {APP_ROLE}"
        )
        url = self._url(database, OWNER_ROLE, pool_max=2)
        asyncio.run(upgrade(Settings(ENVIRONMENT="test", DATABASE_URL=url)))
        return connection

    def superuser(self, database: str) -> psycopg.Connection:
        """Connect as the superuser, whom row-level security does not apply to."""
        return psycopg.connect(host=self._socket_folder, user=SUPERUSER, dbname=database, autocommit=True)

    def environment(self, database: str) -> dict[str, str]:
        """Return the settings of a service that uses a database, as environment variables."""
        url = self._url(database, APP_ROLE, pool_max=POOL_SIZE)
        return {"ENVIRONMENT": "test", "DATABASE_URL": url.render_as_string(hide_password=False)}

    def settings_in_force(self) -> dict[str, str]:
        """Return the server's settings, as the server reports them."""
        return dict(self._observer.execute(_SETTINGS).fetchall())

    def backend_times(self) -> dict[int, int]:
        """Return the processor time of each client's backend, nanoseconds by process id; empty if not on Linux."""
        times = {}
        for (pid,) in self._observer.execute(_BACKENDS).fetchall():
            with suppress(OSError):  # it has ended, or the system does not report it
                times[pid] = int(Path(f"/proc/{pid}/schedstat").read_text().split()[0])
        return times

    def _url(self, database: str, role: str, *, pool_max: int) -> URL:
        query = {"host": self._socket_folder, "pool_max": str(pool_max)}
        return URL.create("postgresql+asyncpg", username=role, database=database, query=query)


@contextmanager
def running_server() -> Iterator[BenchmarkServer]:
    """Start the embedded server; stop and remove it at the end of the block."""
    with tempfile.TemporaryDirectory(prefix="thea-bench-", ignore_cleanup_errors=True) as name:
        folder = Path(name)
        folder.chmod(0o711)  # for root, the server runs as another user, who has to pass through
        server = EmbeddedServer(folder / "server", config=CONFIG)
        server.acquire()
        try:
            benchmark_server = BenchmarkServer(server.target().host)
            try:
                yield benchmark_server
            finally:
                benchmark_server.close()
        finally:
            server.release()
