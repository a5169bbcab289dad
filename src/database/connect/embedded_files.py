"""The folder of an embedded server: its parts, their rights, and who uses it."""

from __future__ import annotations

import hashlib
import os
import shutil
import socket
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Final
from uuid import uuid4

from filelock import FileLock, Timeout

from src.database.connect.embedded_process import give, make_reachable
from src.database.errors import ConfigurationError

__all__ = [
    "check_path",
    "count_users",
    "create_user_lock",
    "find_passed_over",
    "free_port",
    "fresh_folder",
    "prepare",
    "read_port",
    "remove_short_socket_folder",
    "socket_folder",
    "write_private",
]

_SOCKET_PATH_BYTES: Final = 103  # what sockaddr_un holds on macOS; Linux has four more
_MISREAD: Final = '"$`\n\r'
_PORT_LINE: Final = 3  # of postmaster.pid


def prepare(folder: Path) -> None:
    """Make what the server writes to, its own and nobody else's."""
    make_reachable(folder)
    (folder / "users").mkdir(exist_ok=True)
    log = folder / "server.log"
    log.touch(mode=0o600)
    give(log)
    if sys.platform != "win32":
        sockets = socket_folder(folder)
        sockets.mkdir(mode=0o700, exist_ok=True)
        _refuse_a_trap(sockets)
        give(sockets)


def check_path(folder: Path) -> None:
    """Refuse a path that PostgreSQL's own programs would misread: they hand it to a shell.

    Raises:
        ConfigurationError: There is a quote, a dollar sign, a backquote or a line break in it.
    """
    if bad := sorted(set(str(folder)) & set(_MISREAD)):
        raise ConfigurationError(f"DATABASE_EMBEDDED_DIR must be a path without any of {_MISREAD!r}, got {bad}")


def socket_folder(folder: Path) -> Path:
    """Return where the Unix socket lives: in the folder, or in a short private one where that cannot be an address."""
    inside = folder / "run"
    is_short = len(os.fsencode(inside / ".s.PGSQL.5432")) <= _SOCKET_PATH_BYTES
    if sys.platform == "win32" or (is_short and "," not in str(inside)):
        return inside
    name = hashlib.sha256(os.fsencode(folder)).hexdigest()[:16]
    return Path(tempfile.gettempdir()) / f"thea-{os.geteuid()}-{name}"


def remove_short_socket_folder(folder: Path) -> None:
    """Remove the socket's folder where it is not inside the server's own."""
    if sys.platform != "win32" and (sockets := socket_folder(folder)).parent != folder:
        shutil.rmtree(sockets, ignore_errors=True)


def find_passed_over(folder: Path) -> list[Path]:
    """Return the servers' folders that lie between the working directory and the project whose server is used.

    A program that was started in a directory below the project may have left a database there, under the same name.

    Args:
        folder: The resolved folder of the project's server.
    """
    try:
        working = Path.cwd()
    except OSError:  # the working directory was deleted
        return []
    below: list[Path] = []
    for directory in (working, *working.parents):
        if folder.is_relative_to(directory):
            same_name = folder.relative_to(directory)
            return [one / same_name for one in below if (one / same_name).is_dir()]
        below.append(directory)
    return []


@contextmanager
def fresh_folder(folder: Path) -> Iterator[Path]:
    """Hand out an empty private folder beside the data; what is left of it after a failure goes."""
    for left in folder.glob("data.new*"):
        shutil.rmtree(left, ignore_errors=True)
    # Its own name each time: the program that was filling the last one may outlive whoever started it.
    fresh = folder / f"data.new-{uuid4().hex}"
    fresh.mkdir(mode=0o700)
    give(fresh)
    try:
        yield fresh
    finally:
        shutil.rmtree(fresh, ignore_errors=True)


def write_private(path: Path, text: str) -> None:
    """Write a file that its owner alone can read."""
    with suppress(FileNotFoundError):
        path.unlink()
    path.touch(mode=0o600)
    path.write_text(text)
    give(path)


def create_user_lock(folder: Path) -> FileLock:
    """Return the lock that says, while it is held, that this process uses the server."""
    return FileLock(folder / "users" / f"{os.getpid()}-{uuid4().hex}", thread_local=False)


def count_users(folder: Path) -> int:
    """Count the processes that use the server, and clear away the marks of those that ended."""
    users = 0
    for mark in (folder / "users").glob("*"):  # none where the folder was removed under us
        lock = FileLock(mark, timeout=0, thread_local=False)
        try:
            with lock:
                pass
        except Timeout:
            users += 1
        else:
            mark.unlink(missing_ok=True)
    return users


def free_port() -> int:
    """Return a loopback port that is free now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def read_port(data: Path) -> int:
    """Return the port that the server wrote down."""
    return int((data / "postmaster.pid").read_text().splitlines()[_PORT_LINE])


def _refuse_a_trap(sockets: Path) -> None:
    """Refuse a folder in a shared place that somebody else made first."""
    state = sockets.lstat()
    if sockets.is_symlink() or (os.geteuid() != 0 and state.st_uid != os.geteuid()):
        raise ConfigurationError(
            f"{sockets} must be a folder of this user's, and is not",
            hint="set DATABASE_EMBEDDED_DIR to a folder in this user's home; find out who made that one",
        )
