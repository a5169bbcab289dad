"""The server of the soak, which can be killed, and the final check of its rows."""

from __future__ import annotations

import os
import signal
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import psycopg
from sqlalchemy import URL

from src.config import Settings
from src.database.embedded import APP_ROLE, DATABASE, OWNER_ROLE, SUPERUSER, EmbeddedServer
from src.database.embedded.keeper import find_postmaster
from src.database.embedded.process import run
from src.database.migrate import upgrade

# Acknowledged commits survive a crash of the server, not of the machine: `synchronous_commit` stays on.
CONFIG = {
    "fsync": "off",
    "full_page_writes": "off",
    "io_method": "sync",
    "shared_buffers": "64MB",
    "dynamic_shared_memory_type": "mmap",  # a killed server leaves its segments behind: not in /dev/shm
}
_BACKENDS = "SELECT count(*) FROM pg_stat_activity WHERE datname = %s AND pid <> pg_backend_pid()"
_TERMINATE = (
    "SELECT pg_terminate_backend(pid) FROM"
    " (SELECT pid FROM pg_stat_activity WHERE usename = %s ORDER BY random() LIMIT %s) AS chosen"
)
_CHECKS = {
    "acknowledged messages that are not stored": (
        "SELECT count(*) FROM acknowledged WHERE NOT EXISTS"
        " (SELECT FROM message_history AS m WHERE m.message_id = acknowledged.key)"
    ),
    "messages that are stored more than once": (
        "SELECT count(*) - count(DISTINCT (tenant_id, message_id)) FROM message_history"
    ),
    "conversations with a gap or a doubled number": (
        "SELECT count(*) FROM (SELECT FROM message_history GROUP BY tenant_id, conversation_id"
        " HAVING min(seq) <> 1 OR max(seq) <> count(*) OR count(DISTINCT seq) <> count(*)) AS wrong"
    ),
    "conversations whose last number is not their last message's": (
        "SELECT count(*) FROM conversations AS c WHERE last_seq <> COALESCE((SELECT max(seq) FROM message_history AS m"
        " WHERE (m.tenant_id, m.conversation_id) = (c.tenant_id, c.id)), 0)"
    ),
    "rows that are stored for another tenant": "SELECT count(*) FROM message_history WHERE content <> tenant_id::text",
    "prepared transactions": "SELECT count(*) FROM pg_prepared_xacts",
}


@dataclass
class SoakServer:
    """A running server that can be killed and restarted."""

    server: EmbeddedServer

    @property
    def url(self) -> URL:
        return self._url_of(APP_ROLE)

    def settings(self, role: str) -> Settings:
        return Settings(ENVIRONMENT="test", DATABASE_URL=self._url_of(role))

    def _url_of(self, role: str) -> URL:
        query = {"host": self.server.target().host}
        return URL.create("postgresql+asyncpg", username=role, database=DATABASE, query=query)

    def superuser(self) -> psycopg.Connection:
        host = self.server.target().host
        return psycopg.connect(host=host, user=SUPERUSER, dbname=DATABASE, autocommit=True)

    def count_backends(self) -> int | None:
        """Return the number of backends of the database, or None while the server is down."""
        try:
            with self.superuser() as connection:
                return int(connection.execute(_BACKENDS, [DATABASE]).fetchall()[0][0])
        except psycopg.OperationalError:
            return None

    def terminate_some(self, count: int) -> None:
        with self.superuser() as connection:
            connection.execute(_TERMINATE, [APP_ROLE, count])

    def kill(self) -> None:
        """Kill the server with SIGKILL, and start it again."""
        postmaster = find_postmaster(self._data)
        assert postmaster is not None
        os.kill(postmaster.pid, signal.SIGKILL)
        self.server.revive()

    def restart(self) -> None:
        """Restart the server with pg_ctl: every connection is closed."""
        run("pg_ctl", "stop", "-D", str(self._data), "-w", "-m", "fast", capture=False)
        self.server.revive()

    @property
    def _data(self) -> Path:
        return self.server.folder / "data"

    def faults_found(self, journal: Path) -> tuple[int, int, dict[str, int]]:
        """Check the rows of all tenants, as a superuser.

        Returns:
            The numbers of acknowledged and of stored messages, and the number of faulty rows for each check.
        """
        with self.superuser() as connection:
            connection.execute("CREATE TEMP TABLE acknowledged (key text)")
            with connection.cursor().copy("COPY acknowledged FROM STDIN") as copy:
                copy.write(journal.read_bytes())
            acknowledged = connection.execute("SELECT count(DISTINCT key) FROM acknowledged").fetchall()[0][0]
            there = connection.execute("SELECT count(*) FROM message_history").fetchall()[0][0]
            found = {check: int(connection.execute(sql).fetchall()[0][0]) for check, sql in _CHECKS.items()}
        return int(acknowledged), int(there), found


@contextmanager
def running_server() -> Iterator[SoakServer]:
    """Start a new server, and remove it with its data at the end."""
    with tempfile.TemporaryDirectory(prefix="thea-soak-", ignore_cleanup_errors=True) as name:
        folder = Path(name)
        folder.chmod(0o711)  # as root the server runs as another user, which must be able to enter the directory
        server = EmbeddedServer(folder / "server", config=CONFIG)
        server.acquire()
        try:
            yield SoakServer(server)
        finally:
            server.release()


async def migrate(server: SoakServer) -> None:
    await upgrade(server.settings(OWNER_ROLE))
