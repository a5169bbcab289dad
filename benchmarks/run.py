"""A run: the contenders' processes side by side, and in each round each at each operation, in random order."""

from __future__ import annotations

import random
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractAsyncContextManager, AsyncExitStack
from dataclasses import dataclass
from typing import Any, Final

from benchmarks.contenders import Entry, NotInstalledError
from benchmarks.measuring import Measured
from benchmarks.operations import Operation
from benchmarks.process import FailedError, Process, running
from benchmarks.results import Case, Results
from benchmarks.sample import Sample

__all__ = ["GROWING", "Runner", "measure_all", "profile"]

WARM_UP_SECONDS: Final = 0.3
GROWING: Final = ("user_by_telegram_id", "append", "recent", "turn")
"""What is measured at several sizes of the table."""

Advance = Callable[[], object]


@dataclass(frozen=True, slots=True)
class Runner:
    """A contender at a database."""

    name: str
    entry: Entry
    sample: Sample
    environment: Mapping[str, str]


async def measure_all(
    runners: Sequence[Runner],
    operations: Sequence[Operation],
    *,
    rounds: int,
    seconds: float,
    advance: Advance,
    callers: Sequence[int] = (1, 16),
) -> Results:
    """Measure; whoever cannot take part is left out, and the results say why.

    Args:
        runners: The contenders.
        operations: What is asked.
        rounds: How often each is measured.
        seconds: For how long each time.
        advance: Is called after each round.
        callers: How many at once, where the operation is measured with so many.
    """
    results = Results()
    async with AsyncExitStack() as stack:
        processes: dict[str, Process] = {}
        for runner in runners:
            try:
                processes[runner.name] = await stack.enter_async_context(_running(runner))
            except (FailedError, NotInstalledError) as error:
                results.skipped[runner.entry.title] = str(error)
        taking = {
            operation.name: [
                one.name for one in runners if await _takes(processes.get(one.name), one, operation, results)
            ]
            for operation in operations
        }
        for number in range(rounds):
            for operation in random.sample(list(operations), len(operations)):
                for count in [count for count in operation.bars if count in callers]:
                    names = taking[operation.name]
                    for name in random.sample(names, len(names)):
                        answer = await processes[name].ask(
                            "measure", operation=operation.name, callers=count, seconds=seconds
                        )
                        results.rounds[Case(operation.name, count)][name][number] = Measured(**answer)
            advance()
    if any(operation.name == "stream" for operation in operations):
        await _weigh([one for one in runners if one.name in taking["stream"]], results)
    return results


async def _takes(process: Process | None, runner: Runner, operation: Operation, results: Results) -> bool:
    """Have a contender try an operation, and warm it up."""
    if process is None or operation.name not in process.operations:
        return False
    try:
        await process.ask("try", operation=operation.name)
        if operation.most is None:
            callers = max(operation.bars)
            await process.ask("measure", operation=operation.name, callers=callers, seconds=WARM_UP_SECONDS)
    except FailedError as error:
        results.skipped[f"{runner.entry.title}, {operation.title}"] = str(error)
        return False
    return True


async def _weigh(runners: Sequence[Runner], results: Results) -> None:
    """Measure what an export costs in memory, each in a process that has done nothing before."""
    for runner in runners:
        async with _running(runner) as process:
            await process.ask("try", operation="user_by_telegram_id")
            results.mebibytes[runner.name] = (await process.ask("growth"))["mebibytes"]


async def profile(runner: Runner, operation: str, *, seconds: float) -> list[list[Any]]:
    """Return where the client's time goes, function by function, the most first."""
    async with _running(runner) as process:
        await process.ask("try", operation=operation)
        await process.ask("measure", operation=operation, callers=1, seconds=WARM_UP_SECONDS)
        rows: list[list[Any]] = (await process.ask("profile", operation=operation, seconds=seconds))["profile"]
        return rows


def _running(runner: Runner) -> AbstractAsyncContextManager[Process]:
    return running(runner.entry, runner.sample, runner.environment)
