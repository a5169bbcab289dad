"""What stands in the way of a start: a server that does not answer, and what a dead one left behind."""

from __future__ import annotations

import os
import signal
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Final

from src.database.connect import embedded_keeper as keeper
from src.database.connect.embedded_process import programs
from src.database.errors import ConnectionFailed

__all__ = ["clear_leftovers", "end_server", "wait_for_answer"]

RECOVERY_TIMEOUT_SECONDS: Final = 60
SILENCE_TIMEOUT_SECONDS: Final = 5
LEFTOVERS_TIMEOUT_SECONDS: Final = 10
_REFUSES: Final = 1


def wait_for_answer(folder: Path, *, sockets: str, probe: Callable[[], int]) -> bool:
    """Wait for a server that runs and does not answer yet; end it where it never will, and say which it was.

    Args:
        folder: The embedded server's.
        sockets: Where we would have it listen; empty over TCP.
        probe: Asks the server, and returns what `pg_isready` does: 0 it answers, 1 not yet or no more, 2 silence.

    Raises:
        ConnectionFailed: It is not one that we started, or its recovery takes too long.
    """
    started = time.monotonic()
    while (postmaster := keeper.find_postmaster(folder / "data")) is not None:
        if (answer := probe()) == 0:
            return True
        waited = time.monotonic() - started
        is_ready = postmaster.status == "ready"
        if is_ready and postmaster.sockets != sockets:
            raise ConnectionFailed(
                f"a server of {folder} runs already as process {postmaster.pid}, and listens elsewhere",
                hint="stop it: whoever started it did so by hand, or with other options",
            )
        is_deaf = is_ready and answer != _REFUSES and waited > SILENCE_TIMEOUT_SECONDS  # its socket was removed
        if is_deaf or postmaster.status == "stopping":  # told to by a signal, it may wait for its clients for ever
            end_server(folder)
        elif waited > RECOVERY_TIMEOUT_SECONDS:
            raise ConnectionFailed(
                f"the embedded PostgreSQL in {folder} does not answer after {RECOVERY_TIMEOUT_SECONDS} s",
                hint=f"see {folder / 'server.log'}: it may be at its recovery still",
            )
        time.sleep(0.05)
    return False


def end_server(folder: Path) -> None:
    """Stop the folder's server, if one runs; never anybody else's process, whatever its pid file says.

    Raises:
        ConnectionFailed: It does not end.
    """
    data = folder / "data"
    if (postmaster := keeper.find_postmaster(data)) is None:
        return
    if not keeper.stop(postmaster.pid, lambda: keeper.is_postgres(postmaster.pid, data), programs=str(programs())):
        raise ConnectionFailed(
            f"the embedded PostgreSQL in {folder} does not stop: process {postmaster.pid} is still there",
            hint=f"its log is {folder / 'server.log'}; end the process yourself where it hangs",
        )


def clear_leftovers(folder: Path, sockets: Path) -> None:
    """Remove what makes PostgreSQL refuse to start and is no sign of a server; the caller holds the folder.

    PostgreSQL goes by the pid in its lock files alone. We have looked at the process itself: it is gone, or a zombie,
    or another program. Should we be wrong, the shared memory of the data folder's inode still stops a second server.

    Raises:
        ConnectionFailed: The folder is a copy of one whose server runs, or processes of an old server do not end.
    """
    data = folder / "data"
    pid_file = data / keeper.PID_FILE
    left = keeper.read_pid_file(pid_file)
    if left and left.data != data and keeper.is_postgres(left.pid, left.data):
        raise ConnectionFailed(
            f"{folder} was copied from {left.data.parent} while the server there ran: its files may not fit together",
            hint="stop that server, and copy its folder again",
        )
    _end_strays(data)
    for lock in sockets.glob(".s.PGSQL.*.lock"):
        # The server of a removed folder, where its working folder cannot be seen.
        owner = keeper.read_pid_file(lock)
        if owner and keeper.works_in(owner.pid, data) is None and keeper.names_folder(owner.pid, data):
            _end_server_of_removed_folder(owner.pid, data)
        lock.unlink(missing_ok=True)
    pid_file.unlink(missing_ok=True)


def _end_server_of_removed_folder(pid: int, data: Path) -> None:
    keeper.stop(pid, lambda: keeper.names_folder(pid, data), programs=str(programs()))


def _end_strays(data: Path) -> None:
    """End what an old server left running: backends of a postmaster that was killed, the server of a removed folder.

    Their work is lost already. Left alone, the former bar the start, and the latter takes the new socket away.
    """
    deadline = time.monotonic() + LEFTOVERS_TIMEOUT_SECONDS
    while strays := [pid for pid in _processes() if _is_stray(pid, data)]:
        servers = [pid for pid in strays if keeper.works_in(pid, data) and keeper.is_postmaster(pid)]
        if servers or time.monotonic() > deadline:
            raise ConnectionFailed(
                f"processes of another PostgreSQL work in {data.parent} and do not end: {servers or strays}",
                hint="end them yourself, and try again; a container that has the folder may have started them",
            )
        for pid in strays:
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGQUIT)
        time.sleep(0.05)


def _processes() -> list[int]:
    """List all processes, on Linux; elsewhere PostgreSQL's own check of the shared memory has to do."""
    return [int(entry.name) for entry in Path("/proc").glob("[0-9]*")] if sys.platform == "linux" else []


def _is_stray(pid: int, data: Path) -> bool:
    try:
        is_removed = str(Path(f"/proc/{pid}/cwd").readlink()) == f"{data} (deleted)"
    except OSError:  # it has ended, or is another user's
        return False
    # By inode where there is one: a container's process may work in another folder of the same name.
    return keeper.names_folder(pid, data) if is_removed else keeper.works_in(pid, data) is True
