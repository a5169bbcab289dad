"""Imports the command once, and forks a process for each run of it: a line of JSON in, the exit code out.

It has one thread and no event loop, and has read no settings: what it forks is as good as a process just started.
"""

from __future__ import annotations

import atexit
import json
import os
import sys
from contextlib import suppress
from pathlib import Path
from traceback import print_exc
from typing import NoReturn

from src.database.cli import main

FAILED = 70


def serve() -> None:
    for line in sys.stdin:
        arguments, folder, environment, printed = json.loads(line)
        if not (child := os.fork()):
            be_the_command(arguments, folder, environment, Path(printed))
        _, status = os.waitpid(child, 0)
        sys.stdout.write(f"{os.waitstatus_to_exitcode(status)}\n")
        sys.stdout.flush()


def be_the_command(arguments: list[str], folder: str, environment: dict[str, str], printed: Path) -> NoReturn:
    code = FAILED
    try:
        os.chdir(folder)
        os.environ.clear()
        os.environ.update(environment)
        nothing = os.open(os.devnull, os.O_RDONLY)
        os.dup2(nothing, 0)
        for number, stream in ((1, "stdout"), (2, "stderr")):
            os.dup2(os.open(printed / stream, os.O_WRONLY | os.O_CREAT), number)
        sys.argv = ["thea-db", *arguments]
        main()
        code = 0
    except SystemExit as ended:
        code = ended.code if isinstance(ended.code, int) else int(ended.code is not None)
    except BaseException:  # noqa: BLE001 - the interpreter would print whatever it is, and so does this
        print_exc()
        code = 1
    finally:
        with suppress(Exception):
            atexit._run_exitfuncs()
        for said in (sys.stdout, sys.stderr):
            with suppress(Exception):
                said.flush()
        os._exit(code)


if __name__ == "__main__":
    serve()
