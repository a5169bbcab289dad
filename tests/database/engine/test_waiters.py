"""Waiters: items go to the callers in their order, and none is lost with a caller that cannot take it."""

from __future__ import annotations

import asyncio

import pytest

from src.database.engine import Waiters


def refuse(item: int) -> None:
    raise AssertionError(f"{item} was put back")


async def test_the_caller_that_waits_longest_is_served_first() -> None:
    waiters: Waiters[int] = Waiters()
    tasks = [asyncio.create_task(waiters.wait(None, put_back=refuse)) for _ in range(3)]
    await asyncio.sleep(0)
    tasks[1].cancel()
    await asyncio.sleep(0)

    assert len(waiters) == 2
    assert [waiters.hand_over(item) for item in (1, 2, 3)] == [True, True, False]
    assert [await tasks[0], await tasks[2]] == [1, 2]


async def test_a_caller_that_waits_too_long_leaves_the_queue() -> None:
    waiters: Waiters[int] = Waiters()

    with pytest.raises(TimeoutError):
        await waiters.wait(0.01, put_back=refuse)

    assert not waiters.hand_over(1)


async def test_an_item_of_a_cancelled_caller_is_put_back() -> None:
    waiters: Waiters[int] = Waiters()
    returned: list[int] = []
    task = asyncio.create_task(waiters.wait(None, put_back=returned.append))
    await asyncio.sleep(0)

    assert waiters.hand_over(1)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task

    assert returned == [1]
