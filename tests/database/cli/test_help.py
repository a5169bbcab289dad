"""The help of thea-db lists each command, and imports nothing that only a running command needs."""

from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import dataclass
from typing import cast

import pytest
from typer.core import TyperGroup
from typer.main import get_command

from src.database.cli.app import app

# Typer imports pydantic for the value of a parameter, so that only `--help` alone does without it.
HEAVY = {"alembic", "asyncio", "asyncpg", "pydantic_settings", "sqlalchemy", "structlog"}
RUN = """
import json
import sys
from contextlib import redirect_stderr, redirect_stdout
from io import StringIO

from src.database.cli import main

for line in sys.stdin:
    sys.argv = ["thea-db", *json.loads(line)]
    code, printed = 0, StringIO()
    with redirect_stdout(printed), redirect_stderr(printed):
        try:
            main()
        except SystemExit as ended:
            code = ended.code or 0
    print(json.dumps([code, printed.getvalue(), sorted({name.partition(".")[0] for name in sys.modules})]))
"""
HELP = "--help"
OTHERS = ("", "--version", "upgrade --help", "tenant purge --help", "upgrad")


@dataclass(frozen=True, slots=True)
class Run:
    """A run of the command, and the top-level packages that the process had imported by its end."""

    code: int
    printed: str
    imported: set[str]


@pytest.fixture(scope="module")
def runs() -> dict[str, Run]:
    """Run `thea-db --help` first, then other commands that only print, in one process."""
    commands = [HELP, *OTHERS]
    lines = "".join(f"{json.dumps(command.split())}\n" for command in commands)
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", RUN], input=lines, capture_output=True, text=True, check=True
    )
    found = [json.loads(line) for line in done.stdout.splitlines()]
    return {
        command: Run(code, printed, set(imported))
        for command, (code, printed, imported) in zip(commands, found, strict=True)
    }


def test_the_help_lists_each_command_and_imports_no_heavy_package(runs: dict[str, Run]) -> None:
    help_run, commands = runs[HELP], cast("TyperGroup", get_command(app)).commands

    assert help_run.code == 0
    assert help_run.imported & (HEAVY | {"pydantic"}) == set()
    assert [name for name in commands if f"│ {name} " not in help_run.printed] == []


def test_commands_that_only_print_import_no_heavy_package(runs: dict[str, Run]) -> None:
    assert {command: run.imported & HEAVY for command, run in runs.items() if run.imported & HEAVY} == {}
    assert [command for command, run in runs.items() if command.endswith(HELP) and "Usage: " not in run.printed] == []


def test_an_unknown_command_is_reported_with_the_nearest_one(runs: dict[str, Run]) -> None:
    assert runs["upgrad"].code == 2
    assert "Did you mean 'upgrade'" in runs["upgrad"].printed
