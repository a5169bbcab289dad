"""Runs upgrades in processes of their own, forked from one that has imported all it needs; some kill themselves.

Reads one JSON document a line (url, folder, processes, kill_at), and answers with one (codes, steps, statements).
"""

from __future__ import annotations

import asyncio
import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sqlalchemy import URL, Engine, event, make_url

from src.config import Settings
from src.database.migrate import upgrade

ROOT = Path(__file__).parents[2]


@dataclass
class Forks:
    """The client of the process that forks."""

    process: subprocess.Popen[str]

    def upgrade(self, url: URL, folder: Path, *, processes: int = 1, kill_at: int | None = None) -> dict[str, Any]:
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        asked = {"url": url.render_as_string(hide_password=False), "folder": str(folder)}
        print(json.dumps({**asked, "processes": processes, "kill_at": kill_at}), file=self.process.stdin, flush=True)
        answer: dict[str, Any] = json.loads(self.process.stdout.readline())
        return answer


@contextmanager
def forks() -> Iterator[Forks]:
    with subprocess.Popen(
        [sys.executable, "-m", "tests.migrations.forks"],
        cwd=ROOT,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
    ) as process:
        yield Forks(process)
        assert process.stdin is not None
        process.stdin.close()


def fork(asked: dict[str, Any], results: int) -> int:
    pid = os.fork()
    if pid:
        return pid
    code = 1
    try:
        os.write(results, (json.dumps(migrate(asked)) + "\n").encode())
        code = 0
    finally:
        os._exit(code)


def migrate(asked: dict[str, Any]) -> dict[str, Any]:
    statements = 0

    def count(*_arguments: Any) -> None:
        nonlocal statements
        statements += 1
        if statements == asked["kill_at"]:
            os.kill(os.getpid(), signal.SIGKILL)

    event.listen(Engine, "before_cursor_execute", count)
    settings = Settings(ENVIRONMENT="test", DATABASE_URL=make_url(asked["url"]))
    done = asyncio.run(upgrade(settings, folder=Path(asked["folder"])))
    return {"steps": [step.name for step in done.steps], "statements": statements}


def answer(asked: dict[str, Any]) -> dict[str, Any]:
    receiving, results = os.pipe()
    children = [fork(asked, results) for _ in range(asked["processes"])]
    codes = [os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) for child in children]
    os.close(results)
    with os.fdopen(receiving) as file:
        reports = [json.loads(line) for line in file]
    steps = [step for report in reports for step in report["steps"]]
    return {"codes": codes, "steps": steps, "statements": sum(report["statements"] for report in reports)}


if __name__ == "__main__":
    for line in sys.stdin:
        print(json.dumps(answer(json.loads(line))), flush=True)  # noqa: T201 - the answer
