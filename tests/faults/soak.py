"""`make soak`: many faults under load, then checks for lost or doubled messages and remaining connections."""

from __future__ import annotations

import argparse
import asyncio
import os
import random
import sys
import tempfile
import time
from collections.abc import Awaitable, Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

from src.database.errors import CommitOutcomeUnknown, ConnectionFailed, DatabaseError
from src.database.session import forget_settings
from tests.faults.callers import Call, Caller, register
from tests.faults.cancelling import WAYS
from tests.faults.leftovers import dispose_of_all, in_use, until, wrongly_bound
from tests.faults.soak_report import Minute, Report
from tests.faults.soak_server import SoakServer, migrate, running_server

POOL_SIZE = 6
TENANTS = 3
CANCELLED = 0.2
"""The share of calls with a short time limit."""
SHORT_SECONDS = 0.03
PAUSE_SECONDS = 0.02
BETWEEN_FAULTS_SECONDS = 4.0
WARM_UP = 0.1
"""The share of the minutes, at least one minute."""
REPORT = Path(__file__).parents[2] / "docs" / "soak.md"
_EXPLAINED = (ConnectionFailed, CommitOutcomeUnknown)


class Journal:
    """Keys in a file: in memory they would hide the growth that the soak measures."""

    def __init__(self, path: Path) -> None:
        self._file = path.open("a", buffering=1)

    def add(self, key: str, /) -> None:
        self._file.write(f"{key}\n")


class Soak:
    """The load, the faults and the counts.

    Args:
        server: The server to use and to disturb.
        seconds: The duration.
        journal: The file of the acknowledged keys.
    """

    def __init__(self, server: SoakServer, seconds: float, journal: Path) -> None:
        self._server = server
        self._journal = journal
        self._began = time.monotonic()
        self._seconds = seconds
        self._minutes = [Minute() for _ in range(max(1, round(seconds / 60)))]
        self._dice = random.Random(10)  # noqa: S311 - a shuffle that repeats
        self._unexpected: list[str] = []

    async def run(self) -> Report:
        baseline = self._server.count_backends() or 0
        journal = Journal(self._journal)
        callers = await register(TENANTS, lambda: journal)
        self._began = time.monotonic()
        await asyncio.gather(
            self._watch(),
            self._break_things(),
            *(self._read(one, call) for one in callers for call in _reads(one)),
            *(self._write(one, by_store) for one in callers for by_store in (True, False)),
        )
        with suppress(AssertionError):
            await until(lambda: not any(in_use().values()))
        used, bound = sum(in_use().values()), await wrongly_bound()
        under_load = self._server.count_backends() or 0
        await dispose_of_all()
        with suppress(AssertionError):
            await until(lambda: self._server.count_backends() == baseline)
        after = self._server.count_backends()
        acknowledged, stored, found = self._server.faults_found(self._journal)
        return Report(
            minutes=self._minutes,
            warm_up=max(1, round(len(self._minutes) * WARM_UP)),
            acknowledged=acknowledged,
            stored=stored,
            found=found,
            left=(under_load, -1 if after is None else after, baseline),
            in_use=used,
            wrongly_bound=bound,
            unexpected=self._unexpected,
        )

    @property
    def _now(self) -> Minute:
        passed = int((time.monotonic() - self._began) / self._seconds * len(self._minutes))
        return self._minutes[min(passed, len(self._minutes) - 1)]

    @property
    def _is_running(self) -> bool:
        return time.monotonic() - self._began < self._seconds

    async def _read(self, caller: Caller, call: Call) -> None:
        while self._is_running:
            await self._try(call)
            await asyncio.sleep(self._dice.uniform(0, 2 * PAUSE_SECONDS))

    async def _write(self, caller: Caller, by_store: bool) -> None:
        while self._is_running:
            message = caller.new_message()
            while not await self._try(lambda: caller.send(message, by_store=by_store)):  # noqa: B023 - called immediately
                by_store = not by_store
                await asyncio.sleep(PAUSE_SECONDS)
            await asyncio.sleep(self._dice.uniform(0, 2 * PAUSE_SECONDS))

    async def _try(self, call: Call) -> bool:
        """Run a call, cancelled at random; return True if it ended without an error."""
        self._now.calls += 1
        is_hurried = self._dice.random() < CANCELLED
        try:
            if is_hurried and await self._dice.choice(WAYS)(call, self._dice.uniform(0, SHORT_SECONDS)):
                self._now.cancelled += 1
                return False
            if not is_hurried:
                await call()
        except DatabaseError as error:
            self._now.errors[type(error).__name__] += 1
            if not isinstance(error, _EXPLAINED):
                self._unexpected.append(f"{type(error).__name__}: {error}")
            return False
        return True

    async def _break_things(self) -> None:
        faults: dict[str, Callable[[], None]] = {
            "backends terminated": lambda: self._server.terminate_some(self._dice.randint(1, 5)),
            "kill -9": self._server.kill,
            "restart": self._server.restart,
        }
        while self._is_running:
            await asyncio.sleep(self._dice.uniform(0.5, 1.5) * BETWEEN_FAULTS_SECONDS)
            if self._is_running:
                name = self._dice.choices(list(faults), weights=[4, 1, 1])[0]
                self._now.faults[name] += 1
                await asyncio.to_thread(faults[name])

    async def _watch(self) -> None:
        while self._is_running:
            self._now.rss.append(_resident_bytes())
            if (count := await asyncio.to_thread(self._server.count_backends)) is not None:
                self._now.backends.append(count)
            await asyncio.sleep(1)


def _reads(caller: Caller) -> tuple[Callable[[], Awaitable[None]], ...]:
    return caller.read_in_a_session, caller.read_outside_of_a_transaction, caller.read_by_the_store


def _resident_bytes() -> int:
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE")


def _use(server: SoakServer) -> None:
    """Set the environment for the server, as an operator does."""
    settings: dict[str, Any] = {
        "ENVIRONMENT": "test",
        "DATABASE_URL": server.url.update_query_dict({"pool_max": str(POOL_SIZE), "statement_timeout": "10000"}),
        "DATABASE_CONNECT_TIMEOUT": 5,
    }
    for name in [name for name in os.environ if name.startswith(("DATABASE_", "DB_"))]:
        del os.environ[name]
    os.environ.update({name: str(value) for name, value in settings.items()})
    forget_settings()


async def _soak(server: SoakServer, minutes: float, journal: Path) -> Report:
    await migrate(server)
    return await Soak(server, 60 * minutes, journal).run()


def main() -> int:
    parser = argparse.ArgumentParser(prog="make soak", description=__doc__)
    parser.add_argument("--minutes", type=float, default=30)
    parser.add_argument("--report", type=Path, default=REPORT, help="where to write it (Markdown)")
    options = parser.parse_args()
    with running_server() as server, tempfile.TemporaryDirectory(prefix="thea-soak-") as folder:
        _use(server)
        report = asyncio.run(_soak(server, options.minutes, Path(folder) / "acknowledged"))
    options.report.write_text(report.as_markdown())
    for complaint in report.complaints:
        sys.stderr.write(f"soak: {complaint}\n")
    sys.stdout.write(f"soak: {len(report.complaints)} complaints; the report is {options.report}\n")
    return bool(report.complaints)


if __name__ == "__main__":
    sys.exit(main())
