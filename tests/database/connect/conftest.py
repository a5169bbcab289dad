"""Embedded servers to be ill-treated, and what is left of them; a gateway for each test, and its temporary files."""

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


def find_place() -> str | None:
    """Return memory to work in, where there is enough of it: a cluster has a thousand files."""
    memory = Path("/dev/shm")  # noqa: S108 - a folder of its own is made there
    if memory.is_dir() and os.access(memory, os.W_OK) and shutil.disk_usage(memory).free > 2**30:
        return str(memory)
    return None


@pytest.fixture
def folder() -> Iterator[Path]:
    with tempfile.TemporaryDirectory(prefix="thea-", dir=find_place()) as name:
        yield Path(name).resolve() / "a folder's name" / "postgres"


@pytest.fixture(scope="session")
def stopped_server() -> Iterator[Path]:
    """A folder whose server has run and been stopped; it has a table `kept` with 42 in it."""
    with tempfile.TemporaryDirectory(prefix="thea-", dir=find_place()) as name:
        server = EmbeddedServer(Path(name) / "postgres")
        server.acquire()
        query(server, "CREATE TABLE kept AS SELECT 42 AS n")
        server.release()
        with (server.folder / "data" / "postgresql.conf").open("a") as configuration:
            configuration.write("fsync = off\n")  # a kill is no power cut: the system has what was written
            configuration.write("dynamic_shared_memory_type = mmap\n")  # a kill leaves its segments: not in /dev/shm
        yield server.folder


@pytest.fixture
def used_folder(folder: Path, stopped_server: Path) -> Path:
    """The same in a folder of the test's own: a copy starts in a fifth of the time that a new one takes."""
    folder.parent.mkdir(parents=True)
    copy(stopped_server, folder)
    return folder


def copy(folder: Path, to: Path) -> None:
    subprocess.run(["cp", "-a", folder, to], check=True)  # noqa: S607 - wherever it is


def start(folder: Path, *more: str) -> subprocess.Popen[str]:
    """Start a process that uses the server, in a process group of its own; with one more word it goes on using it."""
    return subprocess.Popen(
        [sys.executable, "-c", USE_IT, str(folder), *more],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )


def wait_for_use(process: subprocess.Popen[str]) -> str:
    """Return when the server started, as soon as the process uses it."""
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
    """List the servers and keepers that were started for a folder and live."""
    told = subprocess.run(
        ["ps", "-axww", "-o", "pid=,state=,command="],  # noqa: S607 - wherever it is
        capture_output=True,
        text=True,
        check=True,
    )
    lines = [line.split(None, 2) for line in told.stdout.splitlines()]
    return [
        int(pid)
        for pid, state, command in (line for line in lines if len(line) == 3)
        if not state.startswith("Z")
        and what in command
        and (f"-D {folder}/data" in command or is_keeper(command, folder))
    ]


def is_keeper(command: str, folder: Path) -> bool:
    return f"embedded/keeper.py {folder} " in command


def has_come(condition: Callable[[], bool], *, within_seconds: float = 8) -> bool:
    deadline = time.monotonic() + within_seconds
    while not condition():
        if time.monotonic() > deadline:
            return False
        time.sleep(0.05)
    return True


def are_all_gone(folder: Path) -> bool:
    """Say whether no server and no keeper is left of a folder, after the few seconds that they may take."""
    return has_come(lambda: not processes_of(folder))


def children_of(pid: int) -> list[int]:
    told = subprocess.run(
        ["ps", "-ax", "-o", "pid=,ppid="],  # noqa: S607 - wherever it is
        capture_output=True,
        text=True,
        check=True,
    )
    pairs = [line.split() for line in told.stdout.splitlines()]
    return [int(child) for child, parent in pairs if int(parent) == pid]


def kill_whole_server(folder: Path) -> None:
    """As a power cut does: nobody of it gets to tidy up."""
    postmaster = pid_of(folder)
    for pid in (postmaster, *children_of(postmaster)):
        os.kill(pid, 9)
    assert has_come(lambda: not processes_of(folder, "postgres -D"))


@pytest.fixture
async def gateway(tmp_path: Path) -> AsyncIterator[Gateway]:
    made = Gateway(tmp_path)
    await made.start()
    yield made
    await made.stop()


@pytest.fixture
def temporary_files(monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """Where the code under test makes its temporary files."""
    folder = Path(tempfile.mkdtemp(prefix="t-"))
    monkeypatch.setattr(tempfile, "tempdir", str(folder))
    yield folder
    shutil.rmtree(folder)
