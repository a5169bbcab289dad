"""The folder of an embedded server: its parts, their rights, its locks, and what is wrong with a folder that fails."""

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
from pathlib import Path
from typing import Final
from uuid import uuid4

from src.database.embedded import keeper
from src.database.embedded.process import give, make_reachable, programs, server_uid
from src.database.errors import ConfigurationError, ConnectionFailed, DatabaseError

LOCK_TIMEOUT_SECONDS: Final = 90
_LOCK_POLL_SECONDS: Final = 0.05
_SOCKET_PATH_BYTES: Final = 103  # the size of sockaddr_un on macOS; Linux has four more
_MISREAD: Final = '"$`\n\r'
_PORT_LINE: Final = 3  # of postmaster.pid
_FULL: Final = (errno.ENOSPC, errno.EDQUOT) if sys.platform != "win32" else (errno.ENOSPC,)
_WAL_SEGMENT_MB: Final = 16
"""PostgreSQL cannot go on without space for the next segment."""
_SAYS_FULL: Final = ("No space left", "free disk space")
_REMEDY: Final = "or set DATABASE_EMBEDDED_DIR to another folder"


class UserMark:
    """A file whose lock marks this process as a user of the server; the kernel drops the lock when the process ends.

    Args:
        folder: The server's folder, whose lock the caller holds.
    """

    def __init__(self, folder: Path) -> None:
        self._pid = os.getpid()
        self._path = folder / "users" / f"{self._pid}-{uuid4().hex}"
        self._lock = keeper.try_lock(self._path, create=True)

    @property
    def is_own(self) -> bool:
        """Whether this process created the mark: after a fork, the child's copy is still the parent's mark."""
        return self._pid == os.getpid()

    @property
    def is_held(self) -> bool:
        """Whether other processes count this process as a user."""
        return self.is_own and self._path.exists()

    def release(self) -> None:
        """Drop the lock."""
        if self._lock is not None:
            os.close(self._lock)


@contextmanager
def locked(folder: Path) -> Iterator[None]:
    """Lock a folder, which is created if it is missing: one process at a time starts or stops its server.

    Raises:
        ConnectionFailed: Another process holds the lock for too long.
    """
    deadline = time.monotonic() + LOCK_TIMEOUT_SECONDS
    folder.mkdir(parents=True, exist_ok=True)
    while (lock := keeper.try_lock(folder / "lock", create=True)) is None:
        if time.monotonic() > deadline:
            raise ConnectionFailed(
                f"the embedded PostgreSQL in {folder} was being started or stopped by another process for"
                f" {LOCK_TIMEOUT_SECONDS} s",
                hint=f"check which process holds {folder / 'lock'}, and end that process if it hangs",
            )
        time.sleep(_LOCK_POLL_SECONDS)
        folder.mkdir(parents=True, exist_ok=True)  # it may have been removed
    try:
        yield
    finally:
        os.close(lock)


def prepare(folder: Path) -> None:
    """Create what the server writes to, for the server's user alone."""
    make_reachable(folder)
    (folder / "users").mkdir(exist_ok=True)
    log = folder / "server.log"
    log.touch(mode=0o600)
    give(log)
    if sys.platform != "win32":
        sockets = socket_folder(folder)
        sockets.mkdir(mode=0o700, exist_ok=True)
        if sockets.is_symlink() or (os.geteuid() != 0 and sockets.lstat().st_uid != os.geteuid()):
            raise ConfigurationError(
                f"{sockets} must be a folder of this user's, and is not",
                hint="set DATABASE_EMBEDDED_DIR to a folder in this user's home; find out who made that one",
            )
        give(sockets)


def check_path(folder: Path) -> None:
    """Check that PostgreSQL's own programs, which pass the path to a shell, do not misread it.

    Raises:
        ConfigurationError: The path has a quote, a dollar sign, a backquote or a line break in it.
    """
    if bad := sorted(set(str(folder)) & set(_MISREAD)):
        raise ConfigurationError(f"DATABASE_EMBEDDED_DIR must be a path without any of {_MISREAD!r}, got {bad}")


def check_cluster(data: Path) -> None:
    """Check that a cluster belongs to this user and to this major version; nothing in it is touched.

    Raises:
        ConfigurationError: It does not; the message has the owner or the version, and the remedy.
    """
    try:
        owner = data.stat().st_uid
    except FileNotFoundError:
        return
    if sys.platform != "win32" and owner != server_uid():
        raise ConfigurationError(
            f"DATABASE_EMBEDDED_DIR must be a folder of {_user_name(server_uid())}, the user that the server runs as"
            f" here, got {str(data.parent)!r}, which has the data of {_user_name(owner)}",
            hint=f"run this as the user who made the folder, {_REMEDY}",
        )
    major, wanted = _major(data / "PG_VERSION"), _wanted_major()
    if major is not None and wanted is not None and major != wanted:
        raise ConfigurationError(
            f"DATABASE_EMBEDDED_DIR must be a folder of PostgreSQL {wanted}, got {str(data.parent)!r},"
            f" which PostgreSQL {major} made",
            hint=f"dump it with the programs of {major} (pg_dumpall) and load that into a fresh folder, {_REMEDY}",
        )


def socket_folder(folder: Path) -> Path:
    """Return the folder of the Unix socket: inside the server's folder, or a short private one if that is too long."""
    inside = folder / "run"
    is_short = len(os.fsencode(inside / ".s.PGSQL.5432")) <= _SOCKET_PATH_BYTES
    if sys.platform == "win32" or (is_short and "," not in str(inside)):
        return inside
    name = hashlib.sha256(os.fsencode(folder)).hexdigest()[:16]
    return Path(tempfile.gettempdir()) / f"thea-{os.geteuid()}-{name}"


def remove_short_socket_folder(folder: Path) -> None:
    """Remove the socket's folder if it is not inside the server's own."""
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
def empty_folder(folder: Path) -> Iterator[Path]:
    """Create an empty private folder beside the data, and remove what is left of it afterwards."""
    for left in folder.glob("data.new*"):
        shutil.rmtree(left, ignore_errors=True)
    # Its own name each time: the program that was filling the last one may outlive the process that started it.
    new = folder / f"data.new-{uuid4().hex}"
    new.mkdir(mode=0o700)
    give(new)
    try:
        yield new
    finally:
        shutil.rmtree(new, ignore_errors=True)


def write_private(path: Path, text: str) -> None:
    """Write a file that only its owner can read."""
    path.unlink(missing_ok=True)
    path.touch(mode=0o600)
    path.write_text(text)
    give(path)


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
    """Return the error, with its remedy, for what the operating system refused in the folder."""
    if error.errno in _FULL:
        return ConnectionFailed(_no_space(folder), hint="free some space, and try again")
    owner = ""
    if isinstance(error, PermissionError) and error.filename is not None:
        owner = f" ({error.filename})"
        with suppress(OSError):
            owner = f" ({error.filename} belongs to {_user_name(Path(error.filename).stat().st_uid)})"
    return ConfigurationError(
        f"DATABASE_EMBEDDED_DIR must be a folder that this user can write to, got {str(folder)!r}:"
        f" {error.strerror or type(error).__name__}{owner}",
        hint="name another folder, or set DATABASE_URL to a server that runs",
    )


def describe_space(folder: Path, reported: str) -> str | None:
    """Return the remedy for a full disk, or None if there is space.

    Args:
        folder: A folder on the disk.
        reported: The output of the program that failed; it may have removed its own files since.
    """
    is_full = _free_megabytes(folder) < _WAL_SEGMENT_MB or any(words in reported for words in _SAYS_FULL)
    return f"{_no_space(folder)}; free some, and try again" if is_full else None


def _no_space(folder: Path) -> str:
    return f"no space left on device in {folder}: {_free_megabytes(folder):.1f} MB free"


def _free_megabytes(folder: Path) -> float:
    return shutil.disk_usage(folder).free / 2**20


def _major(version_file: Path) -> str | None:
    try:
        return version_file.read_text().strip()
    except (OSError, UnicodeDecodeError):
        return None


def _wanted_major() -> str | None:
    """Return the major version by which `initdb` goes: the first line of its catalog, ``# PostgreSQL 18``."""
    for catalogue in (programs().parent / "share").glob("**/postgres.bki"):
        with catalogue.open() as lines:
            return lines.readline().split()[-1]
    return None


def _user_name(uid: int) -> str:
    if sys.platform == "win32":
        return str(uid)
    import pwd  # noqa: PLC0415 - not on Windows

    try:
        return pwd.getpwuid(uid).pw_name
    except KeyError:
        return str(uid)
