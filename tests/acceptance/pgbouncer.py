"""Debian's PgBouncer in transaction mode in front of a server."""

from __future__ import annotations

import os
import re
import shutil
import socket
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import URL

from src.database.embedded import APP_ROLE, OWNER_ROLE

PROGRAM = shutil.which("pgbouncer", path=f"{os.environ.get('PATH', '')}:/usr/sbin")
needs_pgbouncer = pytest.mark.skipif(PROGRAM is None, reason="pgbouncer is not installed: apt install pgbouncer")
START_SECONDS = 10
FIRST_TO_KEEP = (1, 21)
"""The first release that keeps prepared statements of clients."""


def _version() -> tuple[int, ...]:
    if PROGRAM is None:
        return ()
    printed = subprocess.run([PROGRAM, "--version"], capture_output=True, text=True, check=True).stdout
    return tuple(int(number) for number in re.findall(r"\d+", printed.splitlines()[0]))


needs_kept_statements = pytest.mark.skipif(
    _version() < FIRST_TO_KEEP,
    reason=f"PgBouncer {'.'.join(map(str, _version())) or 'is missing, and'} keeps no prepared statements: 1.21 does",
)


@dataclass(frozen=True)
class PgBouncer:
    """The address of a PgBouncer: a Unix socket in this folder."""

    sockets: Path

    def url(self, database: str, *, user: str = APP_ROLE, **parameters: str) -> URL:
        return URL.create(
            "postgresql+asyncpg", username=user, database=database, query={"host": str(self.sockets), **parameters}
        )


@contextmanager
def pgbouncer(servers: str, *, pool_size: int = 4, prepared_statements: int | None = None) -> Iterator[PgBouncer]:
    """Start a PgBouncer in front of the server whose socket is in a folder, as the user of the server.

    Args:
        servers: The folder of the server's socket.
        pool_size: The maximum number of connections to a database.
        prepared_statements: The number of prepared statements for each connection, if the release supports them.
    """
    assert PROGRAM is not None
    with tempfile.TemporaryDirectory(prefix="thea-b-") as name:
        folder = Path(name)
        (folder / "users").write_text("".join(f'"{role}" ""\n' for role in (APP_ROLE, OWNER_ROLE)))
        kept = "" if prepared_statements is None else f"max_prepared_statements = {prepared_statements}\n"
        (folder / "ini").write_text(
            f"[databases]\n* = host={servers} port=5432\n"
            "[pgbouncer]\npool_mode = transaction\nauth_type = trust\n"
            f"auth_file = {folder}/users\nunix_socket_dir = {folder}\nlisten_port = 5432\n"
            f"default_pool_size = {pool_size}\nmax_client_conn = 500\nserver_login_retry = 1\n{kept}"
        )
        with (folder / "log").open("w") as log:
            process = subprocess.Popen(
                [PROGRAM, "-q", folder / "ini"],
                stdout=subprocess.DEVNULL,
                stderr=log,
                **_identity(Path(servers), folder),
            )
        try:
            _wait_for(folder / ".s.PGSQL.5432", process, folder / "log")
            yield PgBouncer(folder)
        finally:
            process.kill()
            process.wait()


def _identity(servers: Path, folder: Path) -> dict[str, Any]:
    """Return the user for PgBouncer, which refuses to run as root."""
    if os.geteuid() != 0:
        return {}
    owner = servers.stat()
    for path in (folder, *folder.iterdir()):
        os.chown(path, owner.st_uid, owner.st_gid)
    return {"user": owner.st_uid, "group": owner.st_gid, "extra_groups": []}


def _wait_for(address: Path, process: subprocess.Popen[bytes], log: Path) -> None:
    deadline = time.monotonic() + START_SECONDS
    while process.poll() is None and time.monotonic() < deadline:
        with socket.socket(socket.AF_UNIX) as probe:
            if address.exists() and probe.connect_ex(str(address)) == 0:
                return
        time.sleep(0.02)
    raise AssertionError(f"pgbouncer does not start: {log.read_text()}")
