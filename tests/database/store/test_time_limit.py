"""The time limit of the store's calls: one timer, the oldest call first, and no cancellation is lost."""

from __future__ import annotations

import asyncio
import time
from typing import Any

import pytest

from src.database.store.time_limit import TimeLimit


async def wait(limit: TimeLimit, seconds: float) -> str:
    with limit.apply():
        await asyncio.sleep(seconds)
    return "complete"


async def test_a_call_that_takes_too_long_raises_timeout_error_and_its_task_continues() -> None:
    limit = TimeLimit(0.05)

    with pytest.raises(TimeoutError):
        await wait(limit, 60)

    task = asyncio.current_task()
    assert task is not None
    assert task.cancelling() == 0
    assert await wait(limit, 0) == "complete"


async def test_each_call_has_its_own_deadline() -> None:
    limit = TimeLimit(0.2)

    first = asyncio.create_task(wait(limit, 60))
    await asyncio.sleep(0.1)
    second = asyncio.create_task(wait(limit, 0.15))
    third = asyncio.create_task(wait(limit, 60))
    outcomes = await asyncio.gather(first, second, third, return_exceptions=True)

    assert [type(one).__name__ for one in outcomes] == ["TimeoutError", "str", "TimeoutError"]


async def test_a_cancellation_from_elsewhere_stays_one_also_at_the_time_limit() -> None:
    limit = TimeLimit(0.05)
    before, at_the_same_time = (asyncio.create_task(wait(limit, 60)) for _ in range(2))
    await asyncio.sleep(0)

    before.cancel()
    asyncio.get_running_loop().call_later(0.05, at_the_same_time.cancel)
    time.sleep(0.1)  # noqa: ASYNC251 - so that the loop finds both to be due at the same time
    outcomes = await asyncio.gather(before, at_the_same_time, return_exceptions=True)

    assert [type(one).__name__ for one in outcomes] == ["CancelledError", "CancelledError"]


async def test_another_error_at_the_time_limit_stays_the_error() -> None:
    limit = TimeLimit(0.05)

    async def fail() -> None:
        with limit.apply():
            try:
                await asyncio.sleep(60)
            except asyncio.CancelledError:
                raise KeyError("of the call") from None

    with pytest.raises(KeyError):
        await fail()
    task = asyncio.current_task()
    assert task is not None
    assert task.cancelling() == 0


async def test_without_a_limit_nothing_is_scheduled() -> None:
    assert await wait(TimeLimit(), 0.01) == "complete"


async def test_one_timer_serves_all_calls(monkeypatch: pytest.MonkeyPatch) -> None:
    loop, limit = asyncio.get_running_loop(), TimeLimit(30)
    call_at, scheduled = loop.call_at, list[float]()

    def record(when: float, *arguments: Any, **options: Any) -> asyncio.TimerHandle:
        scheduled.append(when)
        return call_at(when, *arguments, **options)

    monkeypatch.setattr(loop, "call_at", record)

    for _ in range(100):
        with limit.apply():
            pass

    assert len(scheduled) == 1
