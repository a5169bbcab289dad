"""Ways to cancel a call. Each returns True if the call was cancelled, and False if it had ended before."""

from __future__ import annotations

import asyncio

import anyio

from tests.faults.callers import Call

__all__ = ["WAYS", "by_scope", "by_task", "by_task_twice", "by_timeout"]


async def by_timeout(call: Call, delay: float) -> bool:
    try:
        async with asyncio.timeout(delay):
            await call()
    except TimeoutError:
        return True
    return False


async def by_task(call: Call, delay: float) -> bool:
    async def run() -> None:
        await call()

    task = asyncio.create_task(run())
    await asyncio.sleep(delay)
    task.cancel()
    try:
        await task
    except asyncio.CancelledError:
        return True
    return False


async def by_task_twice(call: Call, delay: float) -> bool:
    """Cancel again while the first cancellation is being handled."""

    async def run() -> None:
        await call()

    task = asyncio.create_task(run())
    await asyncio.sleep(delay)
    task.cancel()
    await asyncio.sleep(0)
    task.cancel()
    try:
        await task
    except asyncio.CancelledError:
        return True
    return False


async def by_scope(call: Call, delay: float) -> bool:
    """Cancel as anyio does: again in every iteration of the event loop, until the task has ended."""
    with anyio.move_on_after(delay) as scope:
        await call()
    return scope.cancelled_caught


WAYS = (by_timeout, by_task, by_task_twice, by_scope)
