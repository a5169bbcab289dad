"""Embedded servers that tests damage, and checks of their processes; an SSH gateway, and temporary files."""

from __future__ import annotations

import asyncio
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path

import pytest

from src.database.embedded import EmbeddedServer
from src.database.embedded.keeper import PID_FILE
from tests.connecting import connect
from tests.database.connect.gateway import Gateway

USE_IT = """
import asyncio, os, sys
from pathlib import Path
from tests.connecting import connect
from src.database.embedded import embedded_server

async def main():
    server = embedded_server(Path(sys.argv[1]))
    server.acquire()
    connection = await connect(server.target())
    print(await connection.fetchval("SELECT pg_postmaster_start_time()::text"), flush=True)
    await connection.close()
    if len(sys.argv) > 2:
        sys.stdin.readline()

asyncio.run(main())
"""


def find_memory() -> str | None:
    """Return a folder in memory if there is enough of it: a cluster has a thousand files."""
    memory = Path("/dev/shm")  # noqa: S108 - a folder of its own is made there
    if memory.is_dir() and os.access(memory, os.W_OK) and shutil.disk_usage(memory).free > 2**30:
        return str(memory)
    return None


@pytest.fixture
def folder() -> Iterator[Path]:
    with tempfile.TemporaryDirectory(prefix="thea-", dir=find_memory()) as name:
        yield Path(name).resolve() / "a folder's name" / "postgres"


@pytest.fixture(scope="session")
def stopped_server() -> Iterator[Path]:
    """A folder whose server has run and is stopped, with a table `kept` that contains 42."""
    with tempfile.TemporaryDirectory(prefix="thea-", dir=find_memory()) as name:
        server = EmbeddedServer(Path(name) / "postgres")
        server.acquire()
        query(server, "CREATE TABLE kept AS SELECT 42 AS n")
        server.release()
        with (server.folder / "data" / "postgresql.conf").open("a") as configuration:
            configuration.write("fsync = off\n")  # the tests kill processes, not the system: written data is kept
            configuration.write("dynamic_shared_memory_type = mmap\n")  # a kill leaves its segments: not in /dev/shm
        yield server.folder


@pytest.fixture
def used_folder(folder: Path, stopped_server: Path) -> Path:
    """A copy of the stopped server's folder for one test: it starts in a fifth of the time of a new one."""
    folder.parent.mkdir(parents=True)
    copy(stopped_server, folder)
    return folder


def copy(folder: Path, to: Path) -> None:
    subprocess.run(["cp", "-a", folder, to], check=True)  # noqa: S607 - wherever it is


def start(folder: Path, *more: str) -> subprocess.Popen[str]:
    """Start a process that uses the server, in its own process group; with `wait` it continues to use the server."""
    return subprocess.Popen(
        [sys.executable, "-c", USE_IT, str(folder), *more],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )


def wait_for_use(process: subprocess.Popen[str]) -> str:
    """Wait until the process uses the server, and return the start time of the server."""
    assert process.stdout is not None
    return process.stdout.readline().strip()


def end(process: subprocess.Popen[str]) -> str:
    out, err = process.communicate("\n", timeout=60)
    assert process.returncode == 0, err
    return out.strip()


def query(server: EmbeddedServer, statement: str) -> object:
    async def run() -> object:
        connection = await connect(server.target(as_owner=True))
        try:
            return await connection.fetchval(statement)
        finally:
            await connection.close()

    return asyncio.run(run())


def pid_of(folder: Path) -> int:
    return int((folder / "data" / PID_FILE).read_text().split()[0])


def processes_of(folder: Path, what: str = "") -> list[int]:
    """Return the running servers and keepers of a folder."""
    listing = subprocess.run(
        ["ps", "-axww", "-o", "pid=,state=,command="],  # noqa: S607 - wherever it is
        capture_output=True,
        text=True,
        check=True,
    )
    lines = [line.split(None, 2) for line in listing.stdout.splitlines()]
    return [
        int(pid)
        for pid, state, command in (line for line in lines if len(line) == 3)
        if not state.startswith("Z")
        and what in command
        and (f"-D {folder}/data" in command or is_keeper(command, folder))
    ]


def is_keeper(command: str, folder: Path) -> bool:
    return f"embedded/keeper.py {folder} " in command


def has_keeper(condition: Callable[[], bool], *, within_seconds: float = 8) -> bool:
    deadline = time.monotonic() + within_seconds
    while not condition():
        if time.monotonic() > deadline:
            return False
        time.sleep(0.05)
    return True


def are_all_gone(folder: Path) -> bool:
    """Return True if no server and no keeper of a folder is left, after a few seconds at most."""
    return has_keeper(lambda: not processes_of(folder))


def children_of(pid: int) -> list[int]:
    listing = subprocess.run(
        ["ps", "-ax", "-o", "pid=,ppid="],  # noqa: S607 - wherever it is
        capture_output=True,
        text=True,
        check=True,
    )
    pairs = [line.split() for line in listing.stdout.splitlines()]
    return [int(child) for child, parent in pairs if int(parent) == pid]


def kill_server_processes(folder: Path) -> None:
    """Kill all processes of the server, as a power failure does."""
    postmaster = pid_of(folder)
    for pid in (postmaster, *children_of(postmaster)):
        os.kill(pid, 9)
    assert has_keeper(lambda: not processes_of(folder, "postgres -D"))


@pytest.fixture
async def gateway(tmp_path: Path) -> AsyncIterator[Gateway]:
    made = Gateway(tmp_path)
    await made.start()
    yield made
    await made.stop()


@pytest.fixture
def temporary_files(monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """The folder of the temporary files of the code under test."""
    folder = Path(tempfile.mkdtemp(prefix="t-"))
    monkeypatch.setattr(tempfile, "tempdir", str(folder))
    yield folder
    shutil.rmtree(folder)
