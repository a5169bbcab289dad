"""The process of one contender: it reads commands from stdin and writes results to stdout, a JSON object a line.

`python -m benchmarks.worker <contender>`; the first line is the sample.
"""

from __future__ import annotations

import asyncio
import cProfile
import gc
import json
import sys
from contextlib import redirect_stdout
from dataclasses import asdict
from typing import Any

from benchmarks.contenders import contender
from benchmarks.contenders.base import Contender
from benchmarks.measuring import growth_of_stream, measure, try_out
from benchmarks.operations import OPERATIONS
from benchmarks.sample import Rows, Sample

__all__ = ["main"]

_WAITING = "<method 'poll'"


def main() -> None:
    """Run commands until stdin ends."""
    answers = sys.stdout
    with redirect_stdout(sys.stderr):  # a library may print
        asyncio.run(_serve(sys.argv[1], answers))


async def _serve(name: str, answers: Any) -> None:
    sample = Sample.from_json(await asyncio.to_thread(sys.stdin.readline))
    kind = contender(name)
    one = kind()
    await one.open(sample.place)
    try:
        taken = [operation.name for operation in OPERATIONS.values() if operation.is_taken_by(kind)]
        print(json.dumps({"operations": taken}), file=answers, flush=True)
        while line := await asyncio.to_thread(sys.stdin.readline):
            try:
                answer = await _do(one, sample, **json.loads(line))
            except Exception as error:  # noqa: BLE001 - the run reports it and continues without it
                answer = {"error": f"{type(error).__name__}: {error}"}
            print(json.dumps(answer), file=answers, flush=True)
    finally:
        await one.close()


async def _do(
    one: Contender,
    sample: Sample,
    *,
    do: str,
    operation: str = "",
    tenants: str = "mixed",
    callers: int = 1,
    seconds: float = 1.0,
) -> dict[str, Any]:
    rows = sample.rows(tenants)
    if do == "growth":
        return {"mebibytes": await growth_of_stream(one, rows)}
    called = OPERATIONS[operation]
    if do == "try":
        await try_out(one, called, rows)
        gc.collect()
        gc.freeze()  # otherwise a full collection takes longer in a process that has imported more
        return {}
    if do == "profile":
        return {"profile": await _profile(one, rows, operation, seconds)}
    return asdict(await measure(one, called, rows, callers=callers, seconds=seconds))


async def _profile(one: Contender, rows: Rows, operation: str, seconds: float) -> list[list[Any]]:
    """Return each function's own share of the time, the largest first: place, calls a call, share."""
    profile = cProfile.Profile()
    profile.enable()
    measured = await measure(one, OPERATIONS[operation], rows, callers=1, seconds=seconds)
    profile.disable()
    calls = len(measured.microseconds)
    worked = (entry for entry in profile.getstats() if _WAITING not in str(entry.code))
    entries = sorted(worked, key=lambda entry: -entry.inlinetime)
    total = sum(entry.inlinetime for entry in entries)
    return [[_place(entry.code), entry.callcount / calls, entry.inlinetime / total] for entry in entries[:40]]


def _place(code: Any) -> str:
    if isinstance(code, str):
        return code
    return f"{'/'.join(code.co_filename.split('/')[-2:])}:{code.co_firstlineno} {code.co_qualname}"


if __name__ == "__main__":
    main()
