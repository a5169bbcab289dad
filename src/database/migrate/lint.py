"""Has squawk look at the SQL of each migration: what would lock a table that is in use, or break the old release."""

from __future__ import annotations

import asyncio
import json
import shutil
import subprocess
import sysconfig
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from alembic.script import Script

from src.database.errors import ConfigurationError, DatabaseError
from src.database.migrate import script_directory, sql

__all__ = ["Fault", "Linted", "find_squawk", "lint"]

TIMEOUT_SECONDS: Final = 60
OLDEST_SERVER: Final = "15.0"

# Each with the reason why it is no risk here.
PASSED_OVER: Final[Mapping[str, str]] = {
    "prefer-bigint-over-int": "counts and days fit into 32 bits; ids are UUIDs, sequence numbers are bigint",
    "prefer-text-field": "only alembic_version has a varchar, and it is Alembic's",
    "prefer-timestamp-tz": "what is on the clock on the wall has no zone; all else is timestamptz, which a test holds",
    "require-lock-timeout": "whoever upgrades sets it for the session",
    "require-statement-timeout": "a migration may take its time, as long as nobody waits for it",
}
_NO_ROWS: Final = "from before the first release: no database had rows"
EXEMPT: Final[Mapping[str, str]] = {
    "0002": _NO_ROWS,
    "0003": _NO_ROWS,
    "0007": "drops CHECKs alone, whose limits this release checks in Python; no release reads a row that breaks them",
}
"""Revisions that are not looked at, and why."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Fault:
    """What squawk found in the SQL of a revision."""

    revision: str
    rule: str
    line: int
    message: str
    help: str | None

    def __str__(self) -> str:
        return f"{self.revision}, line {self.line}: {self.rule}: {self.message}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Linted:
    """What squawk found, and which revisions it could not be shown: those that move data, tenant by tenant."""

    faults: tuple[Fault, ...]
    unwritten: tuple[str, ...]


def find_squawk() -> str | None:
    """Return where squawk is: beside this Python, or on the path."""
    return shutil.which("squawk", path=sysconfig.get_path("scripts")) or shutil.which("squawk")


async def lint(squawk: str) -> Linted:
    """Look at every revision but those that are exempt.

    Raises:
        ConfigurationError: squawk does not run.
    """
    revisions = [one for one in script_directory().walk_revisions() if one.revision not in EXEMPT]
    files: dict[str, str] = {}
    unwritten = []
    with tempfile.TemporaryDirectory(prefix="thea-lint-") as folder:
        for one in revisions:
            try:
                files[_write(Path(folder), one, await _sql_of(one))] = one.revision
            except DatabaseError:
                unwritten.append(one.revision)
        found = await asyncio.to_thread(_run, squawk, list(files), folder)
    faults = [
        Fault(
            revision=files[one["file"]],
            rule=one["rule_name"],
            line=one["line"] + 1,
            message=one["message"],
            help=one["help"],
        )
        for one in found
    ]
    return Linted(faults=tuple(faults), unwritten=tuple(unwritten))


async def _sql_of(script: Script) -> str:
    before = script.down_revision or "base"
    if not isinstance(before, str):
        raise ConfigurationError(f"{script.revision} joins branches: migrations must be one line")
    return await sql(f"{before}:{script.revision}")


def _write(folder: Path, script: Script, statements: str) -> str:
    file = folder / f"{script.revision}.sql"
    file.write_text(statements, encoding="utf-8")
    return str(file)


def _run(squawk: str, files: list[str], folder: str) -> list[dict[str, Any]]:
    if not files:
        return []
    options = ["--reporter=json", f"--pg-version={OLDEST_SERVER}", f"--exclude={','.join(PASSED_OVER)}"]
    # In that folder: a configuration that lies about elsewhere is somebody else's.
    done = subprocess.run(  # noqa: S603 - the program is the one we found, the files are ours
        [squawk, *options, *files], cwd=folder, capture_output=True, text=True, timeout=TIMEOUT_SECONDS, check=False
    )
    try:
        return list(json.loads(done.stdout))
    except ValueError as error:
        raise ConfigurationError(f"squawk ended with {done.returncode}: {done.stderr[-500:]}") from error
