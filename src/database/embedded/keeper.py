"""The keeper: a small process that stops a server without users, also if the last user was killed.

The keeper is run by its path and imports only the standard library: with the package it would need 60 MB and half a
second to start. The functions for the server's process and for the locks are therefore defined here.
"""

from __future__ import annotations

import os
import signal
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Final, NamedTuple

KEEPER_FILE: Final = "keeper"
PID_FILE: Final = "postmaster.pid"
TEMPORARY_FILE: Final = "temporary"
"""A folder with this file is removed after its last user."""
STOP_TIMEOUT_SECONDS: Final = 60
_POLL_SECONDS: Final = 0.5
_QUICK_POLL_SECONDS: Final = 0.05
_QUICK_POLLS: Final = 100
_NO_SERVER_SECONDS: Final = 2  # by then a server whose starter was killed has written its pid file
_DATA_LINE, _SOCKETS_LINE, _STATUS_LINE = 1, 4, 7  # the indexes of lines in the pid file


class Postmaster(NamedTuple):
    """The content of a server's pid file."""

    pid: int
    data: Path
    sockets: str
    status: str


def read_pid_file(path: Path) -> Postmaster | None:
    """Return the content of a pid file, or None if it names no process; the process may have ended since."""
    try:
        lines = path.read_text(errors="replace").splitlines()
        pid = abs(int(lines[0]))  # negative for a server in single-user mode
    except (FileNotFoundError, NotADirectoryError, ValueError, IndexError):
        return None
    lines += [""] * _STATUS_LINE
    data, sockets, status = lines[_DATA_LINE], lines[_SOCKETS_LINE], lines[_STATUS_LINE].strip()
    return Postmaster(pid, Path(data), sockets, status) if pid else None


def find_postmaster(data: Path) -> Postmaster | None:
    """Return the server that runs in a folder, or None. The pid in the file may now belong to another program."""
    postmaster = read_pid_file(data / PID_FILE)
    return postmaster if postmaster and is_postgres(postmaster.pid, data) else None


def is_postgres(pid: int, data: Path) -> bool:
    """Return True if a process is PostgreSQL and runs in this folder, as far as this user can see."""
    if sys.platform == "win32":
        return f"pgsignal_{pid}" in os.listdir(r"\\.\pipe")  # noqa: PTH208 - pathlib has no iterdir for named pipes
    runs_here = runs_in(pid, data)
    if runs_here is None:
        command = _command(pid)
        return _is_program(command) and (_names(command, data) or not _is_server(command))
    return runs_here


def runs_in(pid: int, data: Path) -> bool | None:
    """Return True if a process is PostgreSQL and its working directory is this folder; None if that is not visible."""
    if not _is_program(_command(pid)):
        return False
    try:
        return Path(f"/proc/{pid}/cwd").samefile(data)
    except OSError:  # not Linux, or root without the capability to read other users' processes
        return None


def is_postmaster(pid: int) -> bool:
    """Return True if a process is a postmaster, and not one of its children."""
    return _is_server(_command(pid))


def names_folder(pid: int, data: Path) -> bool:
    """Return True if a process is PostgreSQL and was started for a folder of this name, which may be deleted now."""
    if sys.platform == "win32":
        return is_postgres(pid, data)
    command = _command(pid)
    return _is_program(command) and _names(command, data)


def _names(command: str, data: Path) -> bool:
    return f" -D {data} " in f"{command} "


def _is_server(command: str) -> bool:
    return " -D " in command


def _is_program(command: str) -> bool:
    """Return True for ``/a/b/postgres -D …`` and ``postgres: checkpointer``."""
    return command.startswith("postgres: ") or "postgres -" in command or command.endswith("postgres")


def _command(pid: int) -> str:
    """Return a process's command line; empty if the process has ended, or is a zombie."""
    try:
        os.kill(pid, 0)
    except (ProcessLookupError, OverflowError):
        return ""
    except PermissionError:
        pass  # the process of another user
    if sys.platform != "linux":
        import subprocess  # noqa: PLC0415 - on Linux the keeper does not need it

        listed = subprocess.run(  # noqa: S603 - a fixed command
            ["/bin/ps", "-ww", "-p", str(pid), "-o", "state=,command="], capture_output=True, text=True, check=False
        ).stdout.strip()
        return "" if listed.startswith("Z") else listed.partition(" ")[2].strip()
    with suppress(FileNotFoundError, ProcessLookupError):
        state = Path(f"/proc/{pid}/stat").read_text(errors="replace").rpartition(")")[2].split()[0]
        if state not in "ZX":
            words = Path(f"/proc/{pid}/cmdline").read_bytes().split(b"\0")
            return " ".join(map(os.fsdecode, words)).strip()
    return ""


def stop(pid: int, is_alive: Callable[[], bool], *, programs: str, timeout: float = STOP_TIMEOUT_SECONDS) -> bool:
    """Stop a server and its sessions (PostgreSQL's fast shutdown), and return True if they ended in time."""
    if sys.platform == "win32":
        import subprocess  # noqa: PLC0415 - Windows alone

        command = [str(Path(programs) / "pg_ctl"), "kill", "INT", str(pid)]
        subprocess.run(command, check=False, capture_output=True)  # noqa: S603 - the wheel's program
    else:
        with suppress(ProcessLookupError):
            os.kill(pid, signal.SIGINT)
    deadline = time.monotonic() + timeout
    while is_alive() and time.monotonic() < deadline:
        time.sleep(0.02)
    return not is_alive()


def try_lock(path: Path, *, create: bool = False) -> int | None:
    """Lock a file and return its descriptor; None if it is locked already, or does not exist."""
    try:
        descriptor = os.open(path, os.O_RDWR | (os.O_CREAT if create else 0), 0o644)
    except FileNotFoundError:
        return None
    try:
        if sys.platform == "win32":
            import msvcrt  # noqa: PLC0415 - Windows alone

            msvcrt.locking(descriptor, msvcrt.LK_NBLCK, 1)
        else:
            import fcntl  # noqa: PLC0415 - everywhere else

            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except (BlockingIOError, PermissionError):
        os.close(descriptor)
        return None
    return descriptor


def count_users(folder: Path) -> int:
    """Return how many processes use the server, and remove the marks of processes that ended.

    The caller holds the folder's lock, so that no process is between the creation of its mark and the lock on it.
    """
    users = 0
    for mark in (folder / "users").glob("*"):  # none if the folder was removed
        if (lock := try_lock(mark)) is None:
            users += mark.exists()
        else:
            os.close(lock)
            mark.unlink(missing_ok=True)
    return users


class _Keeper:
    """Observes one folder; it holds the folder's keeper lock."""

    def __init__(self, folder: Path, sockets: Path, programs: str, lock: int) -> None:
        self.folder, self.sockets, self.programs, self.lock = folder, sockets, programs, lock
        self.data = folder / "data"
        self.server: int | None = None
        self.idle_since = time.monotonic()
        self.polls_without_server = 0

    def wait(self) -> None:
        """Wait before the next check. The first waits are short, to see the pid before the folder is removed."""
        self.polls_without_server = 0 if self.server else self.polls_without_server + 1
        time.sleep(_QUICK_POLL_SECONDS if 0 < self.polls_without_server <= _QUICK_POLLS else _POLL_SECONDS)

    def is_done(self) -> bool:
        """Check once, and stop a server without users. Return True if the keeper is no longer needed."""
        found = find_postmaster(self.data)
        if not self._has_its_folder():  # `found` may be the server of a new folder, which has its own keeper
            return self._stop_server()
        self._store_pid(found)
        folder_lock = try_lock(self.folder / "lock")
        if folder_lock is None:  # another process is starting or stopping the server
            self.idle_since = time.monotonic()
            return False
        try:
            is_done = self._is_done()
            if is_done:  # before the folder is unlocked, so that the next start sees that there is no keeper
                self._remove_temporary_folder()
                os.close(self.lock)
        finally:
            os.close(folder_lock)
        return is_done

    def _is_done(self) -> bool:
        if (self.folder / "keep").exists() or count_users(self.folder):
            self.idle_since = time.monotonic()
            return False
        self._store_pid(find_postmaster(self.data))
        if self.server is None:
            return time.monotonic() - self.idle_since > _NO_SERVER_SECONDS
        if not self._stop_server():
            return False
        with suppress(OSError):
            self.sockets.rmdir()
        return True

    def _remove_temporary_folder(self) -> None:
        if (self.folder / TEMPORARY_FILE).exists():
            import shutil  # noqa: PLC0415 - most keepers do not need it

            shutil.rmtree(self.folder, ignore_errors=True)

    def _store_pid(self, found: Postmaster | None) -> None:
        """Store the server's pid: the pid file may be removed before the process ends."""
        if found is not None:
            self.server = found.pid
        elif self.server is not None and not names_folder(self.server, self.data):
            self.server = None

    def _stop_server(self) -> bool:
        """Stop the server. The server of a removed folder would otherwise remove the socket of the next one."""
        if (pid := self.server) is None or not self._is_alive(pid):
            return True
        return stop(pid, lambda: self._is_alive(pid), programs=self.programs)

    def _is_alive(self, pid: int) -> bool:
        return names_folder(pid, self.data) or is_postgres(pid, self.data)

    def _has_its_folder(self) -> bool:
        try:
            return os.path.samestat((self.folder / KEEPER_FILE).stat(), os.fstat(self.lock))
        except OSError:
            return False


def main(folder: Path, sockets: Path, programs: str) -> None:
    """Observe a folder's server until it is stopped; return immediately if the folder has a keeper."""
    lock = try_lock(folder / KEEPER_FILE)
    if lock is None:
        return
    if sys.platform != "win32":
        for interruption in (signal.SIGINT, signal.SIGHUP):
            signal.signal(interruption, signal.SIG_IGN)
        if os.fork():  # the starter waits for this process only; the child stays, and init adopts it
            os._exit(0)
    keeper = _Keeper(folder, sockets, programs, lock)
    is_done = False
    while not is_done:
        keeper.wait()
        with suppress(FileNotFoundError):  # the folder is being removed; the next check notices
            is_done = keeper.is_done()


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]), sys.argv[3])
