"""A primary and its streaming replica from the embedded binaries, copied from one prepared data directory."""

from __future__ import annotations

import asyncio
import os
import shlex
import shutil
import signal
import tempfile
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from threading import Thread

import psycopg
from filelock import FileLock
from sqlalchemy import URL

from src.config import Settings
from src.database.embedded import APP_ROLE, DATABASE, OWNER_ROLE, SERVER_PARAMETERS, SUPERUSER, EmbeddedServer
from src.database.embedded.process import chown_to_server, run
from src.database.migrate import upgrade
from tests.conftest import FOLDER

CATCH_UP_SECONDS = 10


@dataclass(frozen=True)
class Node:
    """A server with its data, log and socket in one folder."""

    folder: Path

    @property
    def data(self) -> Path:
        return self.folder / "data"

    def start(self, **config: str) -> None:
        # Not `off`, as in the suite: then the replica has a commit only when the WAL writer next wakes up.
        own = {"listen_addresses": "", "unix_socket_directories": str(self.folder), "synchronous_commit": "on"}
        options = {**SERVER_PARAMETERS, **own, **config}
        flags = " ".join(shlex.quote(f"--{name}={value}") for name, value in options.items())
        log = self.folder / "log"
        done = run("pg_ctl", "start", "-D", str(self.data), "-w", "-l", str(log), "-o", flags, capture=False)
        assert done.returncode == 0, log.read_text()

    def stop(self, mode: str = "fast") -> None:
        run("pg_ctl", "stop", "-D", str(self.data), "-w", "-m", mode, capture=False)

    def kill(self) -> None:
        """Kill the server with SIGKILL."""
        mark = self.data / "postmaster.pid"
        os.kill(int(mark.read_text().splitlines()[0]), signal.SIGKILL)
        mark.unlink()  # `stop` would wait for a process that is possibly not reaped

    def promote(self) -> None:
        assert run("pg_ctl", "promote", "-D", str(self.data), "-w").returncode == 0

    def follow(self, primary: Node) -> None:
        """Configure this server as a standby of another one, from the next start on."""
        (self.data / "standby.signal").touch()
        chown_to_server(self.data / "standby.signal")
        with (self.data / "postgresql.auto.conf").open("a") as config:
            config.write(
                f"primary_conninfo = 'host={primary.folder} user={SUPERUSER} application_name=replica'\n"
                "wal_retrieve_retry_interval = '100ms'\n"
            )

    def sql(self, statement: str) -> list[tuple[object, ...]]:
        """Run a statement on this server as its superuser, and return its rows."""
        with psycopg.connect(host=str(self.folder), user=SUPERUSER, dbname=DATABASE, autocommit=True) as connection:
            cursor = connection.execute(statement)
            return cursor.fetchall() if cursor.description else []


@dataclass(frozen=True)
class Pair:
    """Two servers; `first` starts as the primary."""

    first: Node
    second: Node

    def url(self, *nodes: Node, **parameters: str) -> URL:
        hosts = ",".join(str(node.folder) for node in nodes or (self.first, self.second))
        query = {"host": hosts, **parameters}
        return URL.create("postgresql+asyncpg", username=APP_ROLE, database=DATABASE, query=query)

    def change_roles(self) -> None:
        """Stop the first server, promote the second, and restart the first as its standby."""
        self.first.stop()
        self.second.promote()
        self.first.follow(self.second)
        self.first.start()

    def wait_until_streaming(self) -> None:
        """Wait until the second server streams from the first and has replayed its WAL."""
        deadline = time.monotonic() + CATCH_UP_SECONDS
        caught_up = "SELECT count(*) FROM pg_stat_replication WHERE replay_lsn >= pg_current_wal_flush_lsn()"
        while self.first.sql(caught_up) != [(1,)]:
            assert time.monotonic() < deadline, "the replica does not follow"
            time.sleep(0.02)


@contextmanager
def running_pair(*, synchronous: bool = False) -> Iterator[Pair]:
    """Start a primary and its replica; stop and remove both at the end.

    Args:
        synchronous: Acknowledge a commit after the replica has it.
    """
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="thea-r-", ignore_cleanup_errors=True)))
        folder.chmod(0o711)
        pair = Pair(Node(folder / "first"), Node(folder / "second"))
        nodes = (pair.first, pair.second)
        with ThreadPoolExecutor() as at_once:  # the file system is slow
            list(at_once.map(_copy_template, nodes))
        for node in nodes:
            stack.callback(node.stop, "immediate")
        pair.second.follow(pair.first)
        pair.first.start(**{"synchronous_standby_names": "replica"} if synchronous else {})
        pair.second.start()
        pair.wait_until_streaming()
        yield pair


def _copy_template(node: Node) -> None:
    node.folder.mkdir()
    shutil.copytree(_template(), node.data, copy_function=shutil.copy)
    for path in (node.folder, node.data, *node.data.rglob("*")):
        chown_to_server(path)


def _template() -> Path:
    """Return a migrated data directory without a running server, created once for all workers."""
    folder = FOLDER / "pair"
    with FileLock(FOLDER / "pair.lock", timeout=60):
        if not (folder / "ready").exists():
            server = EmbeddedServer(folder, config={**SERVER_PARAMETERS, "max_connections": "100"})
            server.acquire()
            host = server.target().host
            url = URL.create("postgresql", username=OWNER_ROLE, database=DATABASE, query={"host": host})
            thread = Thread(target=lambda: asyncio.run(upgrade(Settings(ENVIRONMENT="test", DATABASE_URL=url))))
            thread.start()
            thread.join()
            server.release()
            (folder / "ready").touch()
    return folder / "data"
