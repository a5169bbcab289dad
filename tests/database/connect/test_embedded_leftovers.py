"""Leftovers in the folder of an embedded server: stale files, copies, other paths, other servers."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from src.database.embedded import EmbeddedServer
from src.database.embedded import process as embedded_process
from src.database.embedded.keeper import PID_FILE
from src.database.errors import ConnectionFailed
from tests.database.connect.conftest import (
    are_all_gone,
    copy,
    kill_server_processes,
    pid_of,
    processes_of,
    query,
)

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="the tests send POSIX signals")


@contextmanager
def other_process(*, is_zombie: bool) -> Iterator[int]:
    """Run a program as the server's user: PostgreSQL takes the pid of any such program for a server's."""
    user: dict[str, Any] = {"user": embedded_process.server_uid()} if os.geteuid() == 0 else {}
    process = subprocess.Popen(["sleep", "0" if is_zombie else "60"], cwd="/", **user)  # noqa: S607 - wherever it is
    if is_zombie:
        os.waitid(os.P_PID, process.pid, os.WEXITED | os.WNOWAIT)
    try:
        yield process.pid
        assert is_zombie or process.poll() is None, "the process of another program still runs"
    finally:
        process.kill()
        process.wait()


@pytest.mark.parametrize(
    "is_zombie",
    [pytest.param(True, id="a zombie's", marks=pytest.mark.slow), pytest.param(False, id="another program's")],
)
def test_a_pid_of_another_program_does_not_prevent_the_start(used_folder: Path, *, is_zombie: bool) -> None:
    server = EmbeddedServer(used_folder)
    server.acquire()
    socket_lock = used_folder / "run" / ".s.PGSQL.5432.lock"
    pid_file = used_folder / "data" / PID_FILE
    stale = [(path, path.read_text(), str(pid_of(used_folder))) for path in (pid_file, socket_lock)]
    kill_server_processes(used_folder)

    with other_process(is_zombie=is_zombie) as pid:
        for path, text, dead in stale:
            path.write_text(text.replace(dead, str(pid), 1))
        assert not server.is_running()
        assert server.unkeep() == 1
        server.release()

        server.acquire()
        assert query(server, "SELECT n FROM kept") == 42
        server.release()


@pytest.mark.parametrize("text", ["", pytest.param("x\n", marks=pytest.mark.slow), "99999999999999999999\n"])
def test_a_pid_file_without_a_pid_does_not_prevent_the_start(used_folder: Path, text: str) -> None:
    (used_folder / "data" / PID_FILE).write_text(text)
    server = EmbeddedServer(used_folder)
    server.acquire()

    assert query(server, "SELECT n FROM kept") == 42
    server.release()


@pytest.mark.slow
def test_other_files_among_the_marks_are_not_users(used_folder: Path) -> None:
    for name in ("lock", "keeper", "users/1-0", "data.new/base", "data.new-1/base"):
        (used_folder / name).parent.mkdir(exist_ok=True)
        (used_folder / name).write_text("")
    server = EmbeddedServer(used_folder)
    server.acquire()
    server.release()

    assert are_all_gone(used_folder)


def test_the_lock_file_of_a_running_server_is_not_removed(used_folder: Path) -> None:
    """The server has another address, like one that was started by hand."""
    by_hand = EmbeddedServer(used_folder, over_tcp=True)
    by_hand.acquire()
    first = pid_of(used_folder)
    try:
        with pytest.raises(ConnectionFailed, match=f"already runs as process {first}, with another address"):
            EmbeddedServer(used_folder, over_tcp=False).acquire()

        assert pid_of(used_folder) == first
        assert by_hand.is_running()
    finally:
        by_hand.release()


@pytest.mark.slow
def test_another_server_on_the_port_of_a_dead_one_is_not_used(used_folder: Path) -> None:
    other_folder = used_folder.with_name("other")
    copy(used_folder, other_folder)
    one, other = EmbeddedServer(used_folder, over_tcp=True), EmbeddedServer(other_folder, over_tcp=True)
    one.acquire()
    other.acquire()
    try:
        kill_server_processes(used_folder)
        pid_file = used_folder / "data" / PID_FILE
        pid_file.write_text(pid_file.read_text().replace(str(one.target().port), str(other.target().port)))
        assert not one.is_running()

        one.acquire()
        query(one, "UPDATE kept SET n = 1")
        assert query(other, "SELECT n FROM kept") == 42
    finally:
        one.release()
        other.release()


@pytest.mark.slow
def test_a_folder_with_several_paths_has_one_server(used_folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    link = used_folder.with_name("link")
    link.symlink_to(used_folder)
    monkeypatch.chdir(used_folder.parent)
    servers = [EmbeddedServer(path) for path in (used_folder, link, Path("postgres"), Path("link/../postgres"))]
    for server in servers:
        server.acquire()

    assert len(processes_of(used_folder)) == 2, "a server and its keeper"
    assert len({server.target() for server in servers}) == 1
    for server in servers:
        server.release()


@pytest.mark.slow
def test_a_copy_of_the_folder_of_a_running_server_is_refused_unchanged(used_folder: Path) -> None:
    server = EmbeddedServer(used_folder)
    server.acquire()
    copied = used_folder.with_name("copied")
    copy(used_folder, copied)
    try:
        with pytest.raises(ConnectionFailed, match=r"was copied from .* while the server there ran") as caught:
            EmbeddedServer(copied).acquire()

        assert "stop that server, and copy the folder again" in str(caught.value)
        assert pid_of(copied) == pid_of(used_folder)
        assert server.is_running()
        assert query(server, "SELECT n FROM kept") == 42
    finally:
        server.release()
    assert are_all_gone(copied)


@pytest.mark.slow
def test_a_folder_that_was_moved_after_a_crash_starts_in_its_new_place(used_folder: Path) -> None:
    server = EmbeddedServer(used_folder)
    server.acquire()
    kill_server_processes(used_folder)
    moved = used_folder.with_name("moved")
    used_folder.rename(moved)
    server.release()

    server = EmbeddedServer(moved)
    server.acquire()
    assert query(server, "SELECT n FROM kept") == 42
    server.release()


@pytest.mark.slow
def test_a_removed_folder_with_its_socket_elsewhere_is_created_again(used_folder: Path) -> None:
    folder = used_folder.parent / ("x" * 60) / "postgres"
    folder.parent.mkdir()
    used_folder.rename(folder)
    server = EmbeddedServer(folder)
    server.acquire()
    for keeper in processes_of(folder, "embedded/keeper"):
        os.kill(keeper, 9)
    shutil.rmtree(folder)

    server.acquire()
    assert query(server, "SELECT to_regclass('kept')") is None
    server.release()
    assert are_all_gone(folder)
    assert not Path(server.target().host).exists()
