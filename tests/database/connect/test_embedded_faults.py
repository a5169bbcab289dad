"""Faults of an embedded server that cannot be repaired: they are explained, and nothing is changed."""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest

from src.database.embedded import EmbeddedServer
from src.database.embedded import process as embedded_process
from src.database.errors import ConfigurationError, ConnectionFailed
from tests.database.connect.conftest import are_all_gone, query

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="the tests use POSIX owners and mounts")
needs_root = pytest.mark.skipif(not hasattr(os, "geteuid") or os.geteuid() != 0, reason="only root gives files away")
OLD_PROGRAMS = sorted(Path("/usr/lib/postgresql").glob("1[0-7]/bin/initdb"))


@pytest.fixture
def small_disk() -> Iterator[Callable[[int], Path]]:
    """Mount a disk of some megabytes; a second call changes its size."""
    # Not pytest's folder, which other users may not enter: if the tests run as root, the server is another user's.
    disk = Path(tempfile.mkdtemp(prefix="thea-"))

    def mount(megabytes: int) -> Path:
        options = f"size={megabytes}m,mode=711" + (",remount" if disk.is_mount() else "")
        done = subprocess.run(
            ["mount", "-t", "tmpfs", "-o", options, "tmpfs", disk],  # noqa: S607 - wherever it is
            check=False,
            capture_output=True,
            text=True,
        )
        if done.returncode != 0:
            pytest.skip(f"a disk of our own cannot be mounted here: {done.stderr.strip()}")
        return disk

    yield mount
    if disk.is_mount():
        subprocess.run(["umount", "--lazy", disk], check=True)  # noqa: S607 - wherever it is
    disk.rmdir()


def states(folder: Path) -> dict[Path, tuple[int, int]]:
    return {path: (path.stat().st_mtime_ns, path.stat().st_uid) for path in sorted(folder.rglob("*"))}


@pytest.mark.slow
def test_a_full_disk_is_reported_and_leaves_no_partial_cluster(small_disk: Callable[[int], Path]) -> None:
    server = EmbeddedServer(small_disk(20) / "postgres")
    with pytest.raises(ConnectionFailed, match="cannot be set up: initdb") as caught:
        server.acquire()
    assert f"no space left on device in {server.folder}" in str(caught.value)
    assert "MB free; free some space, and connect again" in str(caught.value)
    assert not (server.folder / "data").exists()

    small_disk(200)
    server.acquire()
    assert query(server, "SELECT 1") == 1
    server.release()
    assert are_all_gone(server.folder)


@pytest.mark.slow
def test_no_data_is_lost_on_a_disk_that_fills_up(small_disk: Callable[[int], Path]) -> None:
    disk = small_disk(200)
    server = EmbeddedServer(disk / "postgres")
    server.acquire()
    query(server, "CREATE TABLE kept AS SELECT 42 AS n")
    subprocess.run(["dd", "if=/dev/zero", f"of={disk / 'filler'}"], check=False, capture_output=True)  # noqa: S607
    with suppress(Exception):  # a PANIC at the write-ahead log ends the whole server
        query(server, "CREATE TABLE lost AS SELECT repeat('x', 1000) FROM generate_series(1, 20000)")
    server.release()

    with pytest.raises(ConnectionFailed, match="does not start") as caught:
        server.acquire()
    assert f"no space left on device in {server.folder}: 0.0 MB free" in str(caught.value)

    (disk / "filler").unlink()
    server.acquire()
    assert query(server, "SELECT n FROM kept") == 42
    server.release()
    assert are_all_gone(server.folder)


def test_a_full_disk_is_reported_for_files_of_this_package(used_folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(_folder: Path) -> None:
        raise OSError(28, os.strerror(28))

    monkeypatch.setattr("src.database.embedded.files.prepare", fail)

    with pytest.raises(ConnectionFailed, match=f"no space left on device in {used_folder}: [0-9.]+ MB free"):
        EmbeddedServer(used_folder).acquire()


@pytest.mark.slow
@pytest.mark.skipif(not OLD_PROGRAMS, reason="no older PostgreSQL is installed")
def test_the_cluster_of_an_older_postgresql_is_refused_unchanged(folder: Path) -> None:
    data = folder / "data"
    data.mkdir(parents=True)
    for parent in (folder, folder.parent, folder.parent.parent):
        parent.chmod(0o711)
    embedded_process.chown_to_server(data)
    identity: dict[str, Any] = {"user": embedded_process.server_uid()} if os.geteuid() == 0 else {}
    subprocess.run([OLD_PROGRAMS[0], "-D", data, "-N"], check=True, capture_output=True, cwd="/", **identity)
    before = states(data)

    with pytest.raises(
        ConfigurationError, match=r"must be a folder of PostgreSQL 18, got .* PostgreSQL 1\d created"
    ) as it:
        EmbeddedServer(folder).acquire()

    assert "pg_dumpall" in str(it.value)
    assert "set DATABASE_EMBEDDED_DIR to another folder" in str(it.value)
    assert states(data) == before
    assert are_all_gone(folder)


@needs_root
def test_a_folder_of_another_user_is_refused_unchanged(used_folder: Path) -> None:
    subprocess.run(["chown", "-R", "daemon", used_folder], check=True)  # noqa: S607 - wherever it is
    before = states(used_folder / "data") | states(used_folder / "run")

    with pytest.raises(ConfigurationError, match="which has the data of daemon") as caught:
        EmbeddedServer(used_folder).acquire()

    assert "run this as the user who created the folder" in str(caught.value)
    assert states(used_folder / "data") | states(used_folder / "run") == before


@needs_root
def test_a_folder_of_root_is_refused_to_another_user(used_folder: Path) -> None:
    used_folder.parent.parent.chmod(0o711)
    code = (
        "import os, sys; from pathlib import Path\n"
        "from src.database.embedded import EmbeddedServer\n"
        "import pwd; from src.database.errors import ConfigurationError; os.setgid(1); os.setuid(1)\n"
        "try: EmbeddedServer(Path(sys.argv[1])).acquire()\n"
        "except ConfigurationError as error: print(error)\n"
    )

    printed = subprocess.run(
        [sys.executable, "-c", code, used_folder], capture_output=True, text=True, check=True
    ).stdout

    assert f"must be a folder that this user can write to, got {str(used_folder)!r}: Permission denied" in printed
    assert "lock belongs to root)" in printed
