"""Run thea-db as a user does: in an own folder and an own process."""

from __future__ import annotations

import atexit
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Any

from sqlalchemy import URL

ROOT = Path(__file__).parents[2]
CANARY = "c4n4ry-p4ss"


def run(*arguments: str | Path, folder: Path, output: Any = None, **variables: str) -> subprocess.CompletedProcess[str]:
    """Run the command with these variables instead of the suite's; write its output to `output`, or return it."""
    unset = ("DATABASE_", "DB_", "ENVIRONMENT")
    inherited = {name: value for name, value in os.environ.items() if not name.startswith(unset)}
    environment = {**inherited, "PYTHONPATH": str(ROOT), "COLUMNS": "120", **variables}
    command = list(map(str, arguments))
    if output is None and sys.platform != "win32":
        return run_forked("thea-db", command, folder, environment)
    return subprocess.run(
        [sys.executable, "-W", "error", "-c", "from src.database.cli import main; main()", *command],
        cwd=folder,
        env=environment,
        stdout=output or subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        check=False,
    )


def run_forked(
    program: str | Path, arguments: Sequence[str], folder: Path, environment: Mapping[str, str]
) -> subprocess.CompletedProcess[str]:
    """Run `thea-db`, `alembic` or a script in a process forked after the imports, which take a second."""
    server = _forking_server()
    assert server.stdin is not None
    assert server.stdout is not None
    with tempfile.TemporaryDirectory(prefix="thea-") as printed:
        server.stdin.write(json.dumps([str(program), arguments, str(folder), dict(environment), printed]) + "\n")
        server.stdin.flush()
        code = int(server.stdout.readline())
        streams = [Path(printed, stream).read_bytes().decode() for stream in ("stdout", "stderr")]
    return subprocess.CompletedProcess(arguments, code, *streams)


@cache
def _forking_server() -> subprocess.Popen[str]:
    environment = {"PATH": os.environ["PATH"], "PYTHONPATH": str(ROOT)}
    server = subprocess.Popen(
        [sys.executable, "-W", "error", str(Path(__file__).with_name("forking_server.py"))],
        env=environment,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    atexit.register(_end, server)
    return server


def _end(server: subprocess.Popen[str]) -> None:
    server.communicate()  # the server ends at the end of its input


def database(url: URL) -> str:
    """Return a URL as text with its password, for an environment variable."""
    return url.render_as_string(hide_password=False)
