"""The measurement of one operation of one contender: concurrent callers, each of which calls again immediately."""

from __future__ import annotations

import asyncio
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from benchmarks.contenders.base import Contender
from benchmarks.operations import STREAM, Operation
from benchmarks.sample import Rows

__all__ = ["Measured", "WrongAnswerError", "growth_of_stream", "measure", "try_out"]

KIBIBYTES_A_MEBIBYTE: Final = 1024
_STATUS: Final = Path("/proc/self/status")
_CLEAR_REFERENCES: Final = Path("/proc/self/clear_refs")
_RESET_PEAK: Final = "5"


class WrongAnswerError(Exception):
    """A contender returned too few rows: its times mean nothing."""


@dataclass(frozen=True, slots=True)
class Measured:
    """The result of one round."""

    calls_a_second: float
    """Of all callers together."""
    microseconds: list[int]
    """The duration of each call."""
    cpu_microseconds: float
    """Processor time of the contender's process for each call."""
    server_microseconds: float = float("nan")
    """Processor time of the server's backends for each call; not a number where the system does not report it."""

    def milliseconds(self, share: float) -> float:
        """Return the time within which this share of the calls ended."""
        times = sorted(self.microseconds)
        return times[min(len(times) - 1, int(len(times) * share))] / 1000


async def try_out(contender: Contender, operation: Operation, rows: Rows) -> None:
    """Call an operation once, and check the number of rows that it returns.

    Raises:
        WrongAnswerError: It returns too few.
    """
    answer = await operation.call(contender, rows)
    count, expected = _count(answer), operation.expected(rows)
    if count < expected:
        raise WrongAnswerError(f"{type(contender).__name__}.{operation.name} returned {count} rows, not {expected}")


def _count(answer: Any) -> int:
    if isinstance(answer, int):
        return answer
    if answer is None:
        return 0
    return len(answer) if isinstance(answer, list) else 1


async def measure(contender: Contender, operation: Operation, rows: Rows, *, callers: int, seconds: float) -> Measured:
    """Call an operation with so many callers for so long, or as often as it may be called, if that is sooner."""
    call = operation.call
    times: list[int] = []
    left = operation.most or 10**9
    clock = time.perf_counter_ns
    worked = time.process_time()
    began = clock()
    ends = began + int(seconds * 1e9)

    async def call_again() -> None:
        nonlocal left
        before = clock()
        while left > 0:  # at least one call each, also if the event loop starts this task late
            left -= 1
            await call(contender, rows)
            after = clock()
            times.append((after - before) // 1000)
            before = after
            if after >= ends:
                return

    await asyncio.gather(*(call_again() for _ in range(callers)))
    spent, worked = clock() - began, time.process_time() - worked
    return Measured(len(times) * 1e9 / spent, times, worked * 1e6 / len(times))


async def growth_of_stream(contender: Contender, rows: Rows) -> float:
    """Return the MiB by which the process grew at most while it streamed; it should have done little before.

    Not a number where the system does not report it; Linux does.
    """
    if not _STATUS.exists():
        return float("nan")
    _CLEAR_REFERENCES.write_text(_RESET_PEAK)
    before = _kibibytes("VmRSS")
    await STREAM.call(contender, rows)
    return (_kibibytes("VmHWM") - before) / KIBIBYTES_A_MEBIBYTE


def _kibibytes(name: str) -> int:
    lines = _STATUS.read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith(name + ":"))
