"""A server that imports the commands once and forks a process for each run: a line of JSON in, the exit code out.

It has one thread, no event loop and no settings, so that a forked process behaves as a new one.
"""

from __future__ import annotations

import atexit
import json
import os
import runpy
import sys
from collections.abc import Callable
from contextlib import suppress
from functools import partial
from importlib import import_module
from pathlib import Path
from pkgutil import walk_packages
from traceback import print_exc
from typing import Final, NoReturn

from alembic.config import main as alembic

import src.database.cli
import src.database.doctor
import src.database.migrate
from src.database.cli import main

FAILED = 70
COMMANDS: Final[dict[str, Callable[[], object]]] = {"thea-db": main, "alembic": partial(alembic, prog="alembic")}


def import_commands() -> None:
    """Import the modules that each forked process would import."""
    for package in (src.database.cli, src.database.doctor, src.database.migrate):
        for module in walk_packages(package.__path__, f"{package.__name__}."):
            import_module(module.name)


def serve() -> None:
    for line in sys.stdin:
        program, *arguments = json.loads(line)
        if not (child := os.fork()):
            be(program, *arguments)
        _, status = os.waitpid(child, 0)
        sys.stdout.write(f"{os.waitstatus_to_exitcode(status)}\n")
        sys.stdout.flush()


def be(program: str, arguments: list[str], folder: str, environment: dict[str, str], printed: str) -> NoReturn:
    """Run a command, or the script of this path, in this process."""
    code = FAILED
    try:
        os.chdir(folder)
        os.environ.clear()
        os.environ.update(environment)
        nothing = os.open(os.devnull, os.O_RDONLY)
        os.dup2(nothing, 0)
        for number, stream in ((1, "stdout"), (2, "stderr")):
            os.dup2(os.open(Path(printed, stream), os.O_WRONLY | os.O_CREAT), number)
        sys.argv = [program, *arguments]
        COMMANDS.get(program, partial(runpy.run_path, program, run_name="__main__"))()
        code = 0
    except SystemExit as ended:
        if isinstance(ended.code, str):
            sys.stderr.write(f"{ended.code}\n")
        code = ended.code if isinstance(ended.code, int) else int(ended.code is not None)
    except BaseException:  # noqa: BLE001 - printed, as the interpreter does
        print_exc()
        code = 1
    finally:
        with suppress(Exception):
            atexit._run_exitfuncs()
        for output in (sys.stdout, sys.stderr):
            with suppress(Exception):
                output.flush()
        os._exit(code)


if __name__ == "__main__":
    import_commands()
    serve()
