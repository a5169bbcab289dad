"""The life of an embedded server: its users and its processes are killed, and no process is left."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from src.database.embedded import EmbeddedServer
from tests.database.connect.conftest import (
    are_all_gone,
    children_of,
    end,
    has_keeper,
    kill_server_processes,
    pid_of,
    processes_of,
    query,
    start,
    wait_for_use,
)

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="the tests send POSIX signals")


@pytest.mark.parametrize("number", [signal.SIGKILL, pytest.param(signal.SIGTERM, marks=pytest.mark.slow)])
def test_the_server_ends_after_its_last_user_was_killed(used_folder: Path, number: signal.Signals) -> None:
    users = [start(used_folder, "wait") for _ in range(2)]
    assert wait_for_use(users[0]) == wait_for_use(users[1])
    (keeper,) = processes_of(used_folder, "embedded/keeper")
    os.kill(keeper, signal.SIGINT)
    os.kill(keeper, signal.SIGHUP)

    os.killpg(users[0].pid, number)
    users[0].communicate()
    assert not has_keeper(lambda: not EmbeddedServer(used_folder).is_running(), within_seconds=1.2), (
        "another process still uses it"
    )
    os.killpg(users[1].pid, number)
    users[1].communicate()

    assert are_all_gone(used_folder)
    assert "database system is shut down" in (used_folder / "server.log").read_text()


@pytest.mark.slow
def test_the_end_of_the_last_user_stops_the_server_and_its_keeper(used_folder: Path) -> None:
    user = start(used_folder, "wait")
    wait_for_use(user)
    (keeper,) = processes_of(used_folder, "embedded/keeper")
    end(user)

    assert processes_of(used_folder) in ([keeper], [])
    assert are_all_gone(used_folder)


@pytest.mark.slow
def test_a_killed_keeper_is_replaced_by_the_next_user(used_folder: Path) -> None:
    server = EmbeddedServer(used_folder)
    server.acquire()
    (keeper,) = processes_of(used_folder, "embedded/keeper")
    os.kill(keeper, signal.SIGKILL)
    assert has_keeper(lambda: keeper not in processes_of(used_folder))

    user = start(used_folder, "wait")
    wait_for_use(user)
    assert len(processes_of(used_folder, "embedded/keeper")) == 1
    server.release()
    user.kill()
    user.communicate()

    assert are_all_gone(used_folder)


def test_the_last_user_stops_the_server_without_a_keeper(used_folder: Path) -> None:
    server = EmbeddedServer(used_folder)
    server.acquire()
    (keeper,) = processes_of(used_folder, "embedded/keeper")
    os.kill(keeper, signal.SIGKILL)
    server.release()

    assert are_all_gone(used_folder)


@pytest.mark.slow
def test_a_kept_server_outlives_killed_users_and_a_restart_of_the_machine(used_folder: Path) -> None:
    server = EmbeddedServer(used_folder)
    server.keep()
    user = start(used_folder, "wait")
    wait_for_use(user)
    user.kill()
    user.communicate()
    assert not has_keeper(lambda: not server.is_running(), within_seconds=1.2)

    kill_server_processes(used_folder)
    assert not server.is_running()
    end(start(used_folder))
    assert server.is_running(), "the server must still be kept"
    kill_server_processes(used_folder)
    assert server.unkeep() == 0

    assert not (used_folder / "keep").exists()
    assert are_all_gone(used_folder)


@pytest.mark.slow
def test_the_next_connection_restarts_a_killed_server(used_folder: Path) -> None:
    server = EmbeddedServer(used_folder)
    server.acquire()
    try:
        query(server, "INSERT INTO kept VALUES (43)")
        kill_server_processes(used_folder)
        server.acquire()
        assert query(server, "SELECT sum(n) FROM kept") == 85

        os.kill(pid_of(used_folder), signal.SIGKILL)  # only the postmaster: the next start has to wait for its children
        server.revive()
        assert query(server, "SELECT sum(n) FROM kept") == 85
    finally:
        server.release()

    assert are_all_gone(used_folder)


def test_a_connection_waits_for_the_recovery_after_a_killed_backend(used_folder: Path) -> None:
    server = EmbeddedServer(used_folder)
    server.acquire()
    first = pid_of(used_folder)
    os.kill(children_of(first)[0], signal.SIGKILL)
    server.revive()

    assert query(server, "SELECT n FROM kept") == 42
    assert pid_of(used_folder) == first
    server.release()


@pytest.mark.slow
def test_a_server_in_smart_shutdown_is_restarted(used_folder: Path) -> None:
    server = EmbeddedServer(used_folder)
    server.acquire()
    target = server.target()
    code = (
        "import psycopg, sys; c = psycopg.connect(host=sys.argv[1], user='thea_app', dbname='thea'); print(); input()"
    )
    client = subprocess.Popen(
        [sys.executable, "-c", code, target.host], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    try:
        wait_for_use(client)
        first = pid_of(used_folder)
        os.kill(first, signal.SIGTERM)
        assert has_keeper(lambda: not server.is_running())
        assert first in processes_of(used_folder)

        server.acquire()
        assert query(server, "SELECT n FROM kept") == 42
        assert first not in processes_of(used_folder)
    finally:
        client.kill()
        client.communicate()
        server.release()


@pytest.mark.slow
def test_a_backend_without_a_postmaster_does_not_prevent_the_start(used_folder: Path) -> None:
    server = EmbeddedServer(used_folder)
    server.acquire()
    code = (
        "import psycopg, sys; c = psycopg.connect(host=sys.argv[1], user='thea_app', dbname='thea')\n"
        "print(c.info.backend_pid, flush=True); c.execute('SELECT count(*) FROM generate_series(1, 1000000000000)')"
    )
    client = subprocess.Popen(
        [sys.executable, "-c", code, server.target().host],
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
    )
    try:
        backend = int(wait_for_use(client))
        os.kill(pid_of(used_folder), signal.SIGKILL)
        os.kill(backend, 0)

        server.revive()
        assert query(server, "SELECT n FROM kept") == 42
    finally:
        client.kill()
        client.communicate()
        server.release()


@pytest.mark.slow
def test_a_folder_that_was_removed_under_its_server_is_created_again(used_folder: Path) -> None:
    server = EmbeddedServer(used_folder)
    server.acquire()
    first = processes_of(used_folder)
    assert len(first) == 2, "the server and its keeper"
    shutil.rmtree(used_folder)

    server.acquire()
    assert query(server, "SELECT to_regclass('kept')") is None
    assert pid_of(used_folder) not in first
    assert has_keeper(lambda: not set(first) & set(processes_of(used_folder)))
    assert query(server, "SELECT 1") == 1, "the end of the old server must not remove the socket"
    assert len(processes_of(used_folder, "embedded/keeper")) == 1
    server.release()

    assert are_all_gone(used_folder)


@pytest.mark.parametrize(
    "is_moved", [pytest.param(False, id="removed"), pytest.param(True, id="moved", marks=pytest.mark.slow)]
)
def test_the_keeper_stops_the_server_of_a_removed_folder(used_folder: Path, is_moved: bool) -> None:
    user = start(used_folder, "wait")
    wait_for_use(user)
    elsewhere = used_folder.with_name("elsewhere")
    if is_moved:
        used_folder.rename(elsewhere)
    else:
        while used_folder.exists():  # the server may write while the folder is removed
            shutil.rmtree(used_folder, ignore_errors=True)

    assert are_all_gone(used_folder)
    end(user)
    assert not used_folder.exists()
    if is_moved:
        server = EmbeddedServer(elsewhere)
        server.acquire()
        assert query(server, "SELECT n FROM kept") == 42
        server.release()


@pytest.mark.slow
@pytest.mark.skipif(not hasattr(os, "fork"), reason="the system has no fork")
def test_a_forked_worker_that_uses_the_server_outlives_its_parent(used_folder: Path) -> None:
    code = (
        "import os, sys; from pathlib import Path; from src.database.embedded import embedded_server\n"
        "server = embedded_server(Path(sys.argv[1])); server.acquire(); read, write = os.pipe()\n"
        "if os.fork() == 0:\n"
        "    server.acquire(); os.write(write, b'.'); sys.stdin.readline(); os._exit(0)\n"
        "os.read(read, 1); print(flush=True); os.kill(os.getpid(), 9)\n"
    )
    parent = subprocess.Popen(
        [sys.executable, "-c", code, str(used_folder)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    wait_for_use(parent)
    parent.wait()
    assert not has_keeper(lambda: not EmbeddedServer(used_folder).is_running(), within_seconds=1.2)
    parent.communicate("\n")

    assert are_all_gone(used_folder)


@pytest.mark.slow
def test_a_killed_test_run_leaves_no_process(folder: Path) -> None:
    folder.mkdir(parents=True)
    folder.parent.chmod(0o711)
    environment = {name: value for name, value in os.environ.items() if not name.startswith("PYTEST_")}
    run = subprocess.Popen(
        [sys.executable, "-m", "pytest", "-q", "tests/config"],
        env={**environment, "THEA_TEST_SERVER": str(folder)},
        stdout=subprocess.DEVNULL,
        cwd=Path(__file__).parents[3],
    )
    assert has_keeper(lambda: bool(list((folder / "users").glob("*"))), within_seconds=20)
    run.kill()
    run.wait()

    assert are_all_gone(folder)


@pytest.mark.skipif(sys.platform != "linux", reason="/proc and /dev/shm are Linux's")
def test_a_killed_server_of_the_suite_leaves_no_shared_memory(used_folder: Path) -> None:
    """The suite's servers have no segment in /dev/shm, which would remain after the folder is deleted."""
    server = EmbeddedServer(used_folder)
    server.acquire()
    try:
        mapped = Path(f"/proc/{pid_of(used_folder)}/maps").read_text()
    finally:
        server.release()

    assert "/dev/shm/PostgreSQL" not in mapped  # noqa: S108 - the name of a segment
    assert "pg_dynshmem" in mapped
