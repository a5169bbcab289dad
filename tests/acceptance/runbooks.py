"""The commands of the run-books, run unchanged by the shell as the user of the server."""

from __future__ import annotations

import os
import re
import subprocess
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from textwrap import dedent
from typing import Any

import psycopg
import pytest

from src.database.embedded import SERVER_PARAMETERS, SUPERUSER
from src.database.embedded.process import chown_to_server, programs, server_uid
from tests.acceptance.command import ROOT
from tests.conftest import FOLDER

_PART = re.compile(r"^## (.+)$", re.MULTILINE)
_BLOCK = re.compile(r"^( *)```sh\n(.*?)^ *```$", re.MULTILINE | re.DOTALL)
SECONDS = 120
FIRST_WITH_IO_METHOD = 18


def blocks(name: str) -> dict[str, list[str]]:
    """Return the shell blocks of a run-book, by the heading above them."""
    _, *parts = _PART.split((ROOT / "docs" / "runbooks" / f"{name}.md").read_text())
    of_part = zip(parts[::2], parts[1::2], strict=True)
    return {heading: [dedent(body) for _, body in _BLOCK.findall(text)] for heading, text in of_part}


def perform(block: str, *, folder: Path, typed: str = "", variables: Mapping[str, str | Path]) -> str:
    """Run a block, check that every command succeeds, and return the output."""
    inherited = {name: value for name, value in os.environ.items() if not name.startswith("PG")}
    path = f"{programs()}{os.pathsep}{inherited['PATH']}"
    identity: dict[str, Any] = {"user": server_uid(), "group": server_uid()} if os.geteuid() == 0 else {}
    with (folder / "output").open("w+b") as output:  # not a pipe: a started server would keep it open
        done = subprocess.run(
            ["bash", "-euo", "pipefail", "-c", block],  # noqa: S607 - whichever there is
            input=typed.encode(),
            stdout=output,
            stderr=output,
            cwd=folder,
            env={**inherited, "PATH": path, "PGUSER": SUPERUSER, "PGDATABASE": "postgres", "HOME": str(folder)}
            | {name: str(value) for name, value in variables.items()},
            check=False,
            timeout=SECONDS,
            start_new_session=True,  # without a terminal psql reads passwords from its input
            **identity,
        )
        output.seek(0)
        printed = output.read().decode()
    assert done.returncode == 0, f"{block}\n{printed}"
    return printed


def settle(data: Path, socket: Path) -> None:
    """Configure the server of a data directory: listen only on a Unix socket, without fsync."""
    options = {"listen_addresses": "", "unix_socket_directories": str(socket), **SERVER_PARAMETERS}
    if int((data / "PG_VERSION").read_text()) < FIRST_WITH_IO_METHOD:
        del options["io_method"]
    with (data / "postgresql.conf").open("a") as file:
        file.writelines(f"{name} = '{value}'\n" for name, value in options.items())


@contextmanager
def quick_folder() -> Iterator[Path]:
    """Create a folder for servers beside the suite's server: in memory, if there is room."""
    with tempfile.TemporaryDirectory(prefix="run-book-", dir=FOLDER) as name:
        Path(name).chmod(0o711)
        yield Path(name)


def folder_of_server(folder: Path, name: str) -> Path:
    """Create a folder that the user of the server may write to."""
    made = folder / name
    made.mkdir()
    chown_to_server(made)
    return made


def query(socket: Path, statement: str, database: str = "thea") -> list[tuple[Any, ...]]:
    """Run statements as the superuser, and return the rows of the last one."""
    with psycopg.connect(host=str(socket), user=SUPERUSER, dbname=database, autocommit=True) as connection:
        cursor = connection.execute(statement)
        while cursor.nextset():
            pass
        return cursor.fetchall() if cursor.description else []


def skip_unless(*programs_needed: Path, is_long: bool) -> None:
    """Skip a test that starts several servers, unless `--long` is given and the programs are installed."""
    if not is_long:
        pytest.skip("several servers in a row: with --long")
    if missing := [str(program) for program in programs_needed if not program.exists()]:
        pytest.skip(f"there is no {', '.join(missing)}")
