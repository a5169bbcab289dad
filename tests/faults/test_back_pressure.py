"""Many more callers than connections: each is served in order or fails in time, and waiting needs little memory."""

from __future__ import annotations

import asyncio
import gc
import time
import tracemalloc
from collections.abc import Callable, Coroutine
from typing import Any

import pytest
from sqlalchemy import URL, event, text

from src.config import Settings
from src.database import engine, get_db, get_read_db, tenant_context
from src.database.errors import ConnectionFailed, PoolExhausted
from src.database.store import StorePool, get_store
from src.database.store.pool import PooledConnection
from tests.faults.callers import Call, Caller
from tests.faults.conftest import POOL_SIZE
from tests.faults.leftovers import dispose_of_all, in_use, read_engine, until

ONE = text("SELECT 1")
NAP = text("SELECT pg_sleep(0.1)")
BYTES_A_WAITER = 64 * 1024
"""More than a task with its coroutines, session and greenlet needs, and far less than the buffers of a connection."""


async def by_session(caller: Caller) -> None:
    with tenant_context(caller.tenant):
        async with get_db() as session:
            await session.execute(ONE)


async def by_read_session(caller: Caller) -> None:
    with tenant_context(caller.tenant):
        async with get_read_db() as session:
            await session.execute(ONE)


async def by_store(caller: Caller) -> None:
    with tenant_context(caller.tenant):
        await get_store().recent(caller.conversation_id, limit=1)


WAYS = (by_session, by_read_session, by_store)


@pytest.fixture
async def connected_tasks(callers: list[Caller], monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The names of the tasks that got a connection, in order."""
    names: list[str] = []

    def note(*_: object) -> None:
        task = asyncio.current_task()
        assert task is not None
        names.append(task.get_name())

    async def take(pool: StorePool) -> PooledConnection:
        pooled = await original(pool)
        note()
        return pooled

    original = StorePool.take
    monkeypatch.setattr(StorePool, "take", take)
    for each in (engine, read_engine()):
        event.listen(each.sync_engine, "checkout", note)
    return names


@pytest.mark.parametrize("way", WAYS)
async def test_callers_are_served_in_the_order_of_their_arrival(
    way: Callable[[Caller], Coroutine[Any, Any, None]],
    callers: list[Caller],
    connected_tasks: list[str],
    *,
    is_long: bool,
) -> None:
    """150 over five connections; with `--long` 2,000."""
    number = 2000 if is_long else 150
    await asyncio.gather(
        *(way(callers[0]) for _ in range(POOL_SIZE))
    )  # otherwise a caller that opens a connection is overtaken
    connected_tasks.clear()

    await asyncio.gather(*(asyncio.create_task(way(callers[0]), name=str(place)) for place in range(number)))

    assert sorted(connected_tasks, key=int) == [str(place) for place in range(number)]
    furthest = max(abs(turn - int(place)) for turn, place in enumerate(connected_tasks))
    assert furthest <= number / 10
    assert not any(in_use().values())


@pytest.mark.parametrize("way", WAYS)
async def test_a_caller_that_returns_immediately_overtakes_no_other(
    way: Callable[[Caller], Coroutine[Any, Any, None]], callers: list[Caller], connected_tasks: list[str]
) -> None:
    rounds, number = 10, 4 * POOL_SIZE
    await asyncio.gather(*(way(callers[0]) for _ in range(POOL_SIZE)))
    connected_tasks.clear()
    asked_at: dict[str, list[int]] = {str(who): [] for who in range(number)}

    async def call_on(who: str) -> None:
        for _ in range(rounds):
            asked_at[who].append(len(connected_tasks))
            await way(callers[0])

    await asyncio.gather(*(asyncio.create_task(call_on(who), name=who) for who in asked_at))

    given_at = {who: [turn for turn, name in enumerate(connected_tasks) if name == who] for who in asked_at}
    passed_by = [given - asked for who in asked_at for asked, given in zip(asked_at[who], given_at[who], strict=True)]
    assert max(passed_by) < number + POOL_SIZE, "no caller waits for more than one turn of each other caller"


@pytest.mark.parametrize("scope", [get_db, get_read_db])
async def test_callers_that_cannot_be_served_fail_in_time_and_others_are_served(
    scope: Any, callers: list[Caller], cloned_database: URL, use_database: Callable[..., Settings], *, is_long: bool
) -> None:
    number, seconds = (2000, 3.0) if is_long else (100, 1.0)
    await dispose_of_all()
    use_database(cloned_database.update_query_dict({"pool_max": str(POOL_SIZE)}), DATABASE_POOL_TIMEOUT=str(seconds))

    async def call() -> float | None:
        began = time.monotonic()
        with tenant_context(callers[0].tenant):
            try:
                async with scope() as session:
                    await session.execute(NAP)
            except PoolExhausted:
                return time.monotonic() - began
        return None

    outcomes = await asyncio.gather(*(call() for _ in range(number)))

    refused = [seconds for seconds in outcomes if seconds is not None]
    assert POOL_SIZE <= len(outcomes) - len(refused) < number
    assert max(refused) < seconds + 5
    assert not any(in_use().values())
    await asyncio.gather(*(call() for _ in range(POOL_SIZE)))


async def test_callers_of_the_store_fail_in_time(
    callers: list[Caller], cloned_database: URL, use_database: Callable[..., Settings]
) -> None:
    await dispose_of_all()
    use_database(cloned_database.update_query_dict({"pool_max": "1"}), DATABASE_POOL_TIMEOUT="0.2")
    streams = callers[0]
    with tenant_context(streams.tenant):
        holding = get_store().stream_messages(streams.user_id)
        await anext(holding)
        outcomes = await asyncio.gather(*(by_store(streams) for _ in range(200)), return_exceptions=True)
        assert {type(one) for one in outcomes} == {PoolExhausted}
        await holding.aclose()
    await by_store(streams)


async def test_a_session_inside_another_on_a_full_pool_fails_with_the_reason(
    callers: list[Caller], cloned_database: URL, use_database: Callable[..., Settings]
) -> None:
    """Five callers have one connection each and request a second one: none can be served."""
    await dispose_of_all()
    use_database(cloned_database.update_query_dict({"pool_max": str(POOL_SIZE)}), DATABASE_POOL_TIMEOUT="0.3")
    all_hold = asyncio.Barrier(POOL_SIZE)

    async def nest() -> None:
        with tenant_context(callers[0].tenant):
            async with get_db() as outer:
                await outer.execute(ONE)
                await all_hold.wait()
                async with get_db() as inner:
                    await inner.execute(ONE)

    async with asyncio.timeout(0.3 + 10):
        errors = await asyncio.gather(*(nest() for _ in range(POOL_SIZE)), return_exceptions=True)

    refused = [error for error in errors if error is not None]
    assert refused
    assert "the waiting task itself has 1 of the connections: it opened a session inside another session" in str(
        refused[0]
    )
    assert {type(error) for error in errors} <= {PoolExhausted, type(None)}, (
        "the first caller that fails frees a connection for another"
    )
    assert not any(in_use().values())


async def test_waiting_callers_fail_immediately_if_the_server_cannot_be_reached(
    callers: list[Caller], use_database: Callable[..., Settings]
) -> None:
    """Immediately, not after the time limit of the pool, and not as `PoolExhausted`."""
    await dispose_of_all()
    use_database(URL.create("postgresql", "u", host="127.0.0.1", port=1, database="d", query={"pool_max": "2"}))

    async def call(way: Call) -> BaseException | None:
        return (await asyncio.gather(way(), return_exceptions=True))[0]

    async with asyncio.timeout(20):
        ways = [lambda way=way: way(callers[0]) for way in (by_session, by_store) for _ in range(20)]
        outcomes = await asyncio.gather(*(call(way) for way in ways))

    assert {type(one) for one in outcomes} == {ConnectionFailed}


@pytest.mark.slow
async def test_waiting_callers_need_little_memory_and_leave_none(callers: list[Caller], *, is_long: bool) -> None:
    """100 callers wait for five connections; with `--long` 2,000."""
    number = 2000 if is_long else 100
    tracemalloc.start()
    try:
        await _crowd(callers[0], number)  # the first time, containers of the library grow permanently
        before = _traced()
        during = await _crowd(callers[0], number)
        after = _traced()
    finally:
        tracemalloc.stop()

    assert 0 < (during - before) / number < BYTES_A_WAITER
    assert after - before < 4 * BYTES_A_WAITER


async def _crowd(caller: Caller, number: int) -> int:
    """Run callers that wait for a full pool and are served; return the memory in use while all of them wait."""
    ends, all_wait = asyncio.Event(), asyncio.Barrier(number + 1)

    async def hold() -> None:
        with tenant_context(caller.tenant):
            async with get_db() as session:
                await session.execute(ONE)
                await ends.wait()

    async def wait() -> None:
        await all_wait.wait()
        await by_session(caller)

    holding = [asyncio.create_task(hold()) for _ in range(POOL_SIZE)]
    await until(lambda: in_use()["default"] == POOL_SIZE)
    waiting = [asyncio.create_task(wait()) for _ in range(number)]
    await all_wait.wait()
    await asyncio.sleep(0)  # all callers now wait for the pool
    during = _traced()
    ends.set()
    await asyncio.gather(*holding, *waiting)
    return during


def _traced() -> int:
    gc.collect()
    return tracemalloc.get_traced_memory()[0]
