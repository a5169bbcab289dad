"""A server of Debian's PostgreSQL 15, the oldest supported version."""

from __future__ import annotations

import os
import shutil
import subprocess
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from src.database.embedded import APP_ROLE, OWNER_ROLE, SUPERUSER

SYSTEM = Path("/usr/lib/postgresql/15/bin")
GRANTS = f"""
CREATE ROLE {OWNER_ROLE} LOGIN; CREATE ROLE {APP_ROLE} LOGIN;
ALTER DEFAULT PRIVILEGES FOR ROLE {OWNER_ROLE} GRANT SELECT, INSERT, UPDATE, DELETE ON TABLES TO {APP_ROLE};
ALTER DEFAULT PRIVILEGES FOR ROLE {OWNER_ROLE} GRANT USAGE ON SEQUENCES TO {APP_ROLE};
GRANT CREATE ON SCHEMA public TO {OWNER_ROLE}; GRANT CREATE ON DATABASE postgres TO {OWNER_ROLE};
"""


@contextmanager
def system_server(env: Mapping[str, str] | None = None) -> Iterator[str]:
    """Start a server, yield the directory of its socket, then stop and remove the server; skip without PostgreSQL 15.

    Args:
        env: Variables for the server, in addition to those of this process.
    """
    if not (SYSTEM / "initdb").exists():
        pytest.skip(f"no PostgreSQL 15 in {SYSTEM}")
    folder = Path(tempfile.mkdtemp(prefix="thea-15-"))
    identity: dict[str, Any] = {"user": "postgres", "group": "postgres"} if os.geteuid() == 0 else {}
    if identity:
        shutil.chown(folder, "postgres", "postgres")

    def run(program: str, *arguments: str) -> None:
        subprocess.run(
            [SYSTEM / program, "-D", folder / "data", *arguments],
            check=True,
            stdout=subprocess.DEVNULL,
            cwd=folder,
            env={**os.environ, **(env or {})},
            **identity,
        )

    run("initdb", "-U", SUPERUSER, "--auth=trust", "--no-sync", "--no-instructions", "--encoding=UTF8", "--locale=C")
    flags = f"-k {folder} -c listen_addresses= -c fsync=off -c full_page_writes=off"
    run("pg_ctl", "-w", "-l", str(folder / "log"), "-o", flags, "start")
    try:
        yield str(folder)
    finally:
        run("pg_ctl", "-w", "-m", "immediate", "stop")
        shutil.rmtree(folder)
