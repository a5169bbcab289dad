"""A run: the processes of the contenders, and in each round each contender at each operation, in random order."""

from __future__ import annotations

import random
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractAsyncContextManager, AsyncExitStack
from dataclasses import dataclass
from typing import Any, Final

from benchmarks.contenders import Entry, NotInstalledError
from benchmarks.measuring import Measured
from benchmarks.operations import PEERS, STREAM, Operation
from benchmarks.process import FailedError, Process, running
from benchmarks.results import Case, Results
from benchmarks.sample import Sample

__all__ = ["GROWING", "Runner", "measure_all", "profile"]

WARM_UP_SECONDS: Final = 0.3
GROWING: Final = ("user_by_telegram_id", "append", "recent", "turn")
"""The operations that are measured at several sizes of the table."""
IN_ONE_TENANT: Final = {*PEERS, *PEERS.values(), "floor"}
"""The contenders that are measured also with the rows of one tenant."""

BackendTimes = Callable[[], dict[int, int]]


@dataclass(frozen=True, slots=True)
class Runner:
    """A contender and its database."""

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
    advance: Callable[[], object] = lambda: None,
    backend_times: BackendTimes = dict,
    only_mixed_at: int | None = None,
) -> Results:
    """Measure all runners; the results say which of them could not take part, and why.

    Args:
        runners: The contenders.
        operations: The operations.
        rounds: The number of rounds.
        seconds: The duration of each measurement.
        advance: Called after each round.
        backend_times: Returns the processor time of the server's backends, nanoseconds by process id.
        only_mixed_at: Measure with so many callers only, and with mixed tenants only.
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
        pairs = [
            (operation, count)
            for operation in operations
            for count in operation.callers
            if only_mixed_at in {None, count}
        ]
        for number in range(rounds):
            for operation, count in random.sample(pairs, len(pairs)):
                trials = [("mixed", name) for name in taking[operation.name]]
                if operation.in_one_tenant and only_mixed_at is None:
                    trials += [("one", name) for name in taking[operation.name] if name in IN_ONE_TENANT]
                for tenants, name in random.sample(trials, len(trials)):
                    before = backend_times()
                    answer = await processes[name].request(
                        "measure", operation=operation.name, tenants=tenants, callers=count, seconds=seconds
                    )
                    measured = _with_server_time(answer, before, backend_times())
                    results.rounds[Case(operation.name, count, tenants)][name][number] = measured
            advance()
    if STREAM in operations:
        await _weigh([one for one in runners if one.name in taking[STREAM.name]], results)
    return results


def _with_server_time(answer: dict[str, Any], before: dict[int, int], after: dict[int, int]) -> Measured:
    """Add the time of all backends: those of the other contenders were idle."""
    if after:
        nanoseconds = sum(time - before.get(pid, 0) for pid, time in after.items())
        answer["server_microseconds"] = nanoseconds / 1000 / len(answer["microseconds"])
    return Measured(**answer)


async def _takes(process: Process | None, runner: Runner, operation: Operation, results: Results) -> bool:
    """Return True if a contender performs an operation; warm it up."""
    if process is None or operation.name not in process.operations:
        return False
    try:
        await process.request("try", operation=operation.name)
        if operation.most is None:
            callers = max(operation.callers)
            await process.request("measure", operation=operation.name, callers=callers, seconds=WARM_UP_SECONDS)
    except FailedError as error:
        results.skipped[f"{runner.entry.title}, {operation.title}"] = str(error)
        return False
    return True


async def _weigh(runners: Sequence[Runner], results: Results) -> None:
    """Measure the memory of an export, each in a new process."""
    for runner in runners:
        async with _running(runner) as process:
            await process.request("try", operation="user_by_telegram_id")
            results.mebibytes[runner.name] = (await process.request("growth"))["mebibytes"]


async def profile(runner: Runner, operation: str, *, seconds: float) -> list[list[Any]]:
    """Return the client's time by function, the largest first."""
    async with _running(runner) as process:
        await process.request("try", operation=operation)
        await process.request("measure", operation=operation, callers=1, seconds=WARM_UP_SECONDS)
        rows: list[list[Any]] = (await process.request("profile", operation=operation, seconds=seconds))["profile"]
        return rows


def _running(runner: Runner) -> AbstractAsyncContextManager[Process]:
    return running(runner.entry, runner.sample, runner.environment)
