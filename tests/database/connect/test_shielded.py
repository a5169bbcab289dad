"""run_shielded: a coroutine runs to completion before a cancellation continues."""

from __future__ import annotations

import asyncio

import pytest

from src.database.connect import run_shielded


class Work:
    """A coroutine that ends when the test sets its event."""

    def __init__(self) -> None:
        self.has_begun, self.may_go_on, self.is_done = asyncio.Event(), asyncio.Event(), asyncio.Event()

    async def do(self) -> None:
        self.has_begun.set()
        await self.may_go_on.wait()
        self.is_done.set()


async def test_a_cancellation_is_delayed_until_the_coroutine_ends() -> None:
    work = Work()
    caller = asyncio.create_task(run_shielded(work.do()))
    await work.has_begun.wait()
    caller.cancel()
    await asyncio.sleep(0)
    was_waiting = not caller.done()
    work.may_go_on.set()

    with pytest.raises(asyncio.CancelledError):
        await caller

    assert was_waiting
    assert work.is_done.is_set()


async def test_a_second_cancellation_is_not_delayed_and_the_coroutine_continues() -> None:
    work = Work()
    caller = asyncio.create_task(run_shielded(work.do()))
    await work.has_begun.wait()
    for _ in range(2):
        caller.cancel()
        await asyncio.sleep(0)
        await asyncio.sleep(0)

    assert caller.cancelled()
    work.may_go_on.set()
    async with asyncio.timeout(10):
        await work.is_done.wait()


async def test_raises_the_exception_of_the_coroutine() -> None:
    async def fail() -> None:
        raise ValueError("it cannot be done")

    with pytest.raises(ValueError, match="it cannot be done"):
        await run_shielded(fail())
