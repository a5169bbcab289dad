"""Leases: one holder at a time, free after the holder is gone, and never two holders."""

from __future__ import annotations

import asyncio
import gc
import time
from datetime import timedelta
from typing import Any

import pytest
from sqlalchemy import URL

from src.database.errors import StaleDataError
from src.database.store import get_store
from src.database.store.state import LEASES

SECOND = timedelta(seconds=1)

pytestmark = pytest.mark.usefixtures("pooled")


async def test_one_caller_at_a_time_holds_a_lease(pooled: URL) -> None:
    inside, most, order = 0, 0, []

    async def work(number: int) -> None:
        nonlocal inside, most
        async with get_store().state.lease("work"):
            inside += 1
            most = max(most, inside)
            await asyncio.sleep(0.01)
            order.append(number)
            inside -= 1

    await asyncio.gather(*(work(number) for number in range(6)))

    assert most == 1
    assert sorted(order) == list(range(6))


async def test_other_keys_do_not_wait(pooled: URL) -> None:
    async with get_store().state.lease("a"), get_store().state.lease("b", wait_seconds=0):
        assert get_store().pool.in_use == 0, "no connection is held"


async def test_a_caller_that_does_not_get_the_lease_in_time_is_refused(pooled: URL) -> None:
    async with get_store().state.lease("work"):
        begun = time.monotonic()
        for seconds in (0, 0.2):
            with pytest.raises(StaleDataError, match="another holder has the lease"):
                async with get_store().state.lease("work", wait_seconds=seconds):
                    pytest.fail("two holders")
        assert 0.2 <= time.monotonic() - begun < 2

    async with get_store().state.lease("work", wait_seconds=0):
        pass


@pytest.mark.slow
async def test_a_lease_is_renewed_while_its_body_runs(pooled: URL) -> None:
    async with get_store().state.lease("work", lease=SECOND) as held:
        first = held.version
        await asyncio.sleep(1.6)
        with pytest.raises(StaleDataError):
            async with get_store().state.lease("work", wait_seconds=0):
                pytest.fail("two holders")
        assert held.version >= first + 3


@pytest.mark.slow
async def test_a_lease_of_a_holder_that_is_gone_is_free_after_its_time(pooled: URL) -> None:
    await get_store().state.set(LEASES, "work", "a killed process", expires_in=SECOND)
    begun = time.monotonic()

    async with get_store().state.lease("work"):
        assert 0.9 < time.monotonic() - begun < 2


@pytest.mark.slow
async def test_a_body_whose_lease_is_lost_is_cancelled(pooled: URL) -> None:
    with pytest.raises(StaleDataError, match="the lease was lost while its holder worked"):  # noqa: PT012 - the body
        async with get_store().state.lease("work", lease=SECOND):
            await get_store().state.set(LEASES, "work", "another", expires_in=10 * SECOND)
            await asyncio.sleep(5)
    kept = await get_store().state.get_by_key(LEASES, "work")

    assert kept is not None
    assert kept.value == "another"


@pytest.mark.slow
async def test_a_holder_whose_loop_was_blocked_does_not_take_the_lease_back(pooled: URL) -> None:
    with pytest.raises(StaleDataError, match="the lease was lost"):  # noqa: PT012 - the body
        async with get_store().state.lease("work", lease=SECOND):
            time.sleep(1.1)  # noqa: ASYNC251 - blocks the loop
            async with get_store().state.lease("work", wait_seconds=0):
                await asyncio.sleep(0.5)
                pytest.fail("its task is cancelled")

    async with get_store().state.lease("work", wait_seconds=0):
        pass


async def test_an_error_and_a_cancellation_release_the_lease(pooled: URL) -> None:
    with pytest.raises(ArithmeticError):
        async with get_store().state.lease("work"):
            raise ArithmeticError

    async def wait() -> None:
        async with get_store().state.lease("work", wait_seconds=0):
            await asyncio.sleep(10)

    for pause in (0, 0.002, 0.05):
        task = asyncio.create_task(wait())
        await asyncio.sleep(pause)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        async with get_store().state.lease("work", wait_seconds=0):
            pass


async def test_a_timeout_of_the_body_is_its_own(pooled: URL) -> None:
    with pytest.raises(TimeoutError):
        async with get_store().state.lease("work"), asyncio.timeout(0.01):
            await asyncio.sleep(1)


async def test_the_arguments_are_checked(pooled: URL) -> None:
    for options, rule in (
        ({"lease": timedelta(milliseconds=1)}, "lease must be from one second"),
        ({"wait_seconds": -1}, "wait_seconds must be a number from 0"),
    ):
        with pytest.raises(ValueError, match=rule):
            async with get_store().state.lease("work", **options):
                pytest.fail("taken")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"lease": 5}, "lease must be a timedelta, such as .*, got int"),
        ({"wait_seconds": "1"}, "wait_seconds must be a number from 0, or None, got '1'"),
    ],
)
async def test_an_argument_of_a_wrong_type_is_named(arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        async with get_store().state.lease("k", **arguments):
            pass


async def test_a_waiter_that_is_cancelled_during_an_attempt_leaves_no_unretrieved_error(pooled: URL) -> None:
    """StaleDataError of the attempt is no error of the program, which asyncio would log."""
    logged: list[dict[str, Any]] = []
    asyncio.get_running_loop().set_exception_handler(lambda _loop, context: logged.append(context))

    async def wait() -> None:
        async with get_store().state.lease("l"):
            pass

    async with get_store().state.lease("l"):
        for number in range(30):
            waiting = asyncio.create_task(wait())
            await asyncio.sleep(0.0003 * number)
            waiting.cancel()
            await asyncio.wait([waiting])
    gc.collect()
    assert logged == []
