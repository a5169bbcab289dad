"""Lint the SQL of each migration with squawk: what would lock a table in use, or break the previous release."""

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

TIMEOUT_SECONDS: Final = 60
OLDEST_SERVER: Final = "15.0"

# The rules that are not applied, each with the reason why it is no risk here.
PASSED_OVER: Final[Mapping[str, str]] = {
    "prefer-bigint-over-int": "counts and days fit into 32 bits; ids are UUIDs, sequence numbers are bigint",
    "prefer-text-field": "only alembic_version has a varchar, and it is Alembic's",
    "prefer-timestamp-tz": "wall-clock times have no zone; all others are timestamptz, which a test checks",
    "require-lock-timeout": "the upgrade sets it for the session",
    "require-statement-timeout": "a migration may run long, as long as no session waits for it",
}
_NO_ROWS: Final = "from before the first release: no database had rows"
EXEMPT: Final[Mapping[str, str]] = {
    "0002": _NO_ROWS,
    "0003": _NO_ROWS,
    "0007": "drops CHECKs alone, whose limits this release checks in Python; no release reads a row that breaks them",
}
"""Revisions that are not checked, and why."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Fault:
    """A fault in the SQL of a revision."""

    revision: str
    rule: str
    line: int
    message: str
    help: str | None

    def __str__(self) -> str:
        return f"{self.revision}, line {self.line}: {self.rule}: {self.message}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Linted:
    """The faults, and the revisions that cannot be written as SQL: those that change rows, tenant by tenant."""

    faults: tuple[Fault, ...]
    unwritten: tuple[str, ...]


def find_squawk() -> str | None:
    """Return the path of squawk: beside this Python, or on PATH; None if it is not installed."""
    return shutil.which("squawk", path=sysconfig.get_path("scripts")) or shutil.which("squawk")


async def lint(squawk: str) -> Linted:
    """Check every revision but the exempt ones.

    Raises:
        ConfigurationError: squawk does not run.
    """
    unwritten = []
    with tempfile.TemporaryDirectory(prefix="thea-lint-") as folder:
        for script in script_directory().walk_revisions():
            if script.revision in EXEMPT:
                continue
            try:
                (Path(folder) / f"{script.revision}.sql").write_text(await _sql_of(script), encoding="utf-8")
            except DatabaseError:
                unwritten.append(script.revision)
        found = await asyncio.to_thread(_run, squawk, folder)
    faults = [
        Fault(
            revision=Path(one["file"]).stem,
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


def _run(squawk: str, folder: str) -> list[dict[str, Any]]:
    files = sorted(map(str, Path(folder).glob("*.sql")))
    if not files:
        return []
    options = ["--reporter=json", f"--pg-version={OLDEST_SERVER}", f"--exclude={','.join(PASSED_OVER)}"]
    # In that folder, where squawk finds no configuration of another project.
    done = subprocess.run(  # noqa: S603 - the program is the one we found, the files are ours
        [squawk, *options, *files], cwd=folder, capture_output=True, text=True, timeout=TIMEOUT_SECONDS, check=False
    )
    try:
        return list(json.loads(done.stdout))
    except ValueError as error:
        raise ConfigurationError(f"squawk ended with {done.returncode}: {done.stderr[-500:]}") from error
