"""What cannot be healed, in words: a folder of another PostgreSQL or of another user, a full disk."""

from __future__ import annotations

import errno
import shutil
import sys
from pathlib import Path
from typing import Final

from src.database.connect.embedded_process import programs, server_uid
from src.database.errors import ConfigurationError, ConnectionFailed, DatabaseError

__all__ = ["check_cluster", "describe_os_error", "describe_space"]

_FULL: Final = (errno.ENOSPC, errno.EDQUOT) if sys.platform != "win32" else (errno.ENOSPC,)
_WAL_SEGMENT_MB: Final = 16
"""PostgreSQL cannot go on without room for the next one."""
_SAYS_FULL: Final = ("No space left", "free disk space")
_REMEDY: Final = "or set DATABASE_EMBEDDED_DIR to another folder"


def check_cluster(data: Path) -> None:
    """Refuse a cluster that is not this PostgreSQL's or not this user's; nothing in it is touched.

    Raises:
        ConfigurationError: It says whose it is, and what to do.
    """
    try:
        owner = data.stat().st_uid
    except FileNotFoundError:
        return
    if sys.platform != "win32" and owner != server_uid():
        raise ConfigurationError(
            f"DATABASE_EMBEDDED_DIR must be a folder of {_name(server_uid())}, the user that the server runs as here,"
            f" got {str(data.parent)!r}, which has the data of {_name(owner)}",
            hint=f"run this as the user who made the folder, {_REMEDY}",
        )
    major, wanted = _major(data / "PG_VERSION"), _wanted_major()
    if major is not None and wanted is not None and major != wanted:
        raise ConfigurationError(
            f"DATABASE_EMBEDDED_DIR must be a folder of PostgreSQL {wanted}, got {str(data.parent)!r},"
            f" which PostgreSQL {major} made",
            hint=f"dump it with the programs of {major} (pg_dumpall) and load that into a fresh folder, {_REMEDY}",
        )


def describe_os_error(error: OSError, folder: Path) -> DatabaseError:
    """Turn what the system said of the folder into an error that names the remedy."""
    if error.errno in _FULL:
        return ConnectionFailed(_no_space(folder), hint="free some space, and try again")
    owner = ""
    if isinstance(error, PermissionError) and error.filename is not None:
        try:
            owner = f" ({error.filename} belongs to {_name(Path(error.filename).stat().st_uid)})"
        except OSError:
            owner = f" ({error.filename})"
    return ConfigurationError(
        f"DATABASE_EMBEDDED_DIR must be a folder that this user can write to, got {str(folder)!r}:"
        f" {error.strerror or type(error).__name__}{owner}",
        hint="name another folder, or set DATABASE_URL to a server that runs",
    )


def describe_space(folder: Path, told: str) -> str | None:
    """Return the remedy for a full disk, where there is next to no room or a program told of none; else None.

    Args:
        folder: Names the disk.
        told: What the program that failed said; it may have freed its own files since.
    """
    is_full = _free_megabytes(folder) < _WAL_SEGMENT_MB or any(words in told for words in _SAYS_FULL)
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
    """Return what `initdb` itself goes by: the first line of its catalogue, ``# PostgreSQL 18``."""
    for catalogue in (programs().parent / "share").glob("**/postgres.bki"):
        with catalogue.open() as lines:
            return lines.readline().split()[-1]
    return None


def _name(uid: int) -> str:
    if sys.platform == "win32":
        return str(uid)
    import pwd  # noqa: PLC0415 - not on Windows

    try:
        return pwd.getpwuid(uid).pw_name
    except KeyError:
        return str(uid)
