"""How one operation of one contender is measured: so many callers at once, each at its next call at once."""

from __future__ import annotations

import asyncio
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from benchmarks.contenders.base import Contender
from benchmarks.operations import STREAM, Operation
from benchmarks.sample import Sample

__all__ = ["Measured", "WrongAnswerError", "growth_of_stream", "measure", "try_out"]

KIBIBYTES_A_MEBIBYTE: Final = 1024
_STATUS: Final = Path("/proc/self/status")
_FORGET: Final = Path("/proc/self/clear_refs")
_THE_PEAK: Final = "5"


class WrongAnswerError(Exception):
    """A contender has not returned what it was asked for: its times mean nothing."""


@dataclass(frozen=True, slots=True)
class Measured:
    """What came of it: calls a second of all callers, each call's time, and what the process worked for each."""

    calls_a_second: float
    microseconds: list[int]
    cpu_microseconds: float


async def try_out(contender: Contender, operation: Operation, sample: Sample) -> None:
    """Call it once, and see that it returns as many rows as it should.

    Raises:
        WrongAnswerError: It does not.
    """
    answer = await operation.call(contender, sample)
    count, expected = _count(answer), operation.expected(sample)
    if count < expected:
        raise WrongAnswerError(f"{type(contender).__name__}.{operation.name} returned {count} rows, not {expected}")


def _count(answer: Any) -> int:
    if isinstance(answer, int):
        return answer
    if answer is None:
        return 0
    return len(answer) if isinstance(answer, list) else 1


async def measure(
    contender: Contender, operation: Operation, sample: Sample, *, callers: int, seconds: float
) -> Measured:
    """Have callers call for so long, or so often if that is sooner."""
    call = operation.call
    times: list[int] = []
    left = operation.most or 10**9
    clock = time.perf_counter_ns
    worked = time.process_time()
    began = clock()
    ends = began + int(seconds * 1e9)

    async def go_on() -> None:
        nonlocal left
        before = clock()
        while before < ends and left > 0:
            left -= 1
            await call(contender, sample)
            after = clock()
            times.append((after - before) // 1000)
            before = after

    await asyncio.gather(*(go_on() for _ in range(callers)))
    spent, worked = clock() - began, time.process_time() - worked
    return Measured(len(times) * 1e9 / spent, times, worked * 1e6 / len(times))


async def growth_of_stream(contender: Contender, sample: Sample) -> float:
    """Return by how many MiB the process grew at most while it streamed; it should have done little before.

    Where the system does not say (Linux does), the answer is not a number.
    """
    if not _STATUS.exists():
        return float("nan")
    _FORGET.write_text(_THE_PEAK)
    before = _kibibytes("VmRSS")
    await STREAM.call(contender, sample)
    return (_kibibytes("VmHWM") - before) / KIBIBYTES_A_MEBIBYTE


def _kibibytes(name: str) -> int:
    lines = _STATUS.read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith(name + ":"))
