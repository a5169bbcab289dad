"""Servers and networks that stop answering: each call ends within its time limits, and so does `dispose`."""

from __future__ import annotations

import asyncio
import os
import signal
import sys
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from importlib import import_module

import psycopg
import pytest
from sqlalchemy import URL, text

from src.config import Settings
from src.database import get_db, get_read_db, tenant_context
from src.database.errors import DatabaseError
from src.database.models import User
from tests.faults.callers import Caller, register
from tests.faults.failing_relay import Fault, failing_relay
from tests.faults.leftovers import backends, dispose_of_all, in_use, until

STATEMENT_SECONDS, MARGIN_SECONDS, CONNECT_SECONDS, PARTING_SECONDS = 0.4, 0.2, 0.6, 2.0
CALL_SECONDS = 2 * (STATEMENT_SECONDS + MARGIN_SECONDS + CONNECT_SECONDS) + PARTING_SECONDS
"""The longest duration of a call: the store sends a read twice, the second time on a new connection."""
DISPOSE_SECONDS = 5.0
MACHINE_SECONDS = 4.0
"""Allowance for a loaded machine."""

ONE = text("SELECT 1")
MANY_ROWS = text("SELECT n, repeat('x', 200) FROM generate_series(1, 20000) AS n").execution_options(yield_per=10)

WaitForTheFault = Callable[[], Awaitable[object]]


@pytest.fixture
def use_short_limits(use_database: Callable[..., Settings], monkeypatch: pytest.MonkeyPatch) -> Callable[[URL], None]:
    monkeypatch.setattr(import_module("src.database.session.targets"), "COMMAND_MARGIN_SECONDS", MARGIN_SECONDS)

    def use(url: URL) -> None:
        query = {"pool_max": "10", "statement_timeout": f"{STATEMENT_SECONDS * 1000:.0f}"}
        use_database(url.update_query_dict(query), DATABASE_CONNECT_TIMEOUT=str(CONNECT_SECONDS))

    return use


async def execute(wait_for_the_fault: WaitForTheFault) -> None:
    async with get_db() as session:
        await session.execute(ONE)
        await wait_for_the_fault()
        await session.execute(ONE)


async def flush(wait_for_the_fault: WaitForTheFault) -> None:
    async with get_db() as session:
        await session.execute(ONE)
        session.add(User())
        await wait_for_the_fault()
        await session.flush()


async def commit(wait_for_the_fault: WaitForTheFault) -> None:
    async with get_db() as session:
        session.add(User())
        await session.flush()
        await wait_for_the_fault()


async def roll_back(wait_for_the_fault: WaitForTheFault) -> None:
    async with get_db() as session:
        session.add(User())
        await session.flush()
        await wait_for_the_fault()
        await session.rollback()
        await session.execute(ONE)


async def begin_a_stream(wait_for_the_fault: WaitForTheFault) -> None:
    async with get_db() as session:
        await session.execute(ONE)
        await wait_for_the_fault()
        async for _ in await session.stream(MANY_ROWS):
            pass


async def continue_a_stream(wait_for_the_fault: WaitForTheFault) -> None:
    async with get_read_db() as session:
        rows = aiter(await session.stream(MANY_ROWS))
        await anext(rows)
        await wait_for_the_fault()
        async for _ in rows:
            pass


STEPS = (execute, flush, commit, roll_back, begin_a_stream, continue_a_stream)


async def run_under_fault(fault: Callable[[], None], caller: Caller) -> dict[str, str]:
    """Run calls of every kind, before and after a fault is applied, and return their outcomes.

    A call that exceeds the limits fails the test.
    """
    await asyncio.gather(*(caller.read_by_the_store() for _ in range(8)))  # the repetition uses another idle connection
    are_ready, begins = asyncio.Barrier(len(STEPS) + 1), asyncio.Event()

    async def wait_for_the_fault() -> None:
        await are_ready.wait()
        await begins.wait()

    async def begin(step: Callable[[WaitForTheFault], Awaitable[None]]) -> None:
        with tenant_context(caller.tenant):
            await step(wait_for_the_fault)

    under_way = [asyncio.create_task(_outcome(begin(step))) for step in STEPS]
    await are_ready.wait()
    fault()
    begins.set()
    async with asyncio.timeout(CALL_SECONDS + MACHINE_SECONDS):
        later = await asyncio.gather(*(_outcome(call()) for call in caller.calls))
        earlier = await asyncio.gather(*under_way)
    names = [each.__name__ for each in (*STEPS, *caller.calls)]
    return dict(zip(names, (*earlier, *later), strict=True))


async def _outcome(call: Awaitable[None]) -> str:
    try:
        await call
    except DatabaseError as error:
        return type(error).__name__
    return "served"


async def dispose_in_time() -> None:
    async with asyncio.timeout(3 * DISPOSE_SECONDS + MACHINE_SECONDS):  # disposes of one engine after the other
        await dispose_of_all()


@pytest.mark.slow
@pytest.mark.parametrize("fault", Fault)
async def test_every_call_and_dispose_end_within_their_limits(
    fault: Fault, cloned_database: URL, use_short_limits: Callable[[URL], None]
) -> None:
    with failing_relay() as relay:
        use_short_limits(relay.lead_to(cloned_database))
        [caller] = await register(1)

        outcomes = await run_under_fault(lambda: relay.apply_fault(fault), caller)

        assert set(outcomes.values()) <= {"ConnectionFailed", "CommitOutcomeUnknown"}, outcomes
        await until(lambda: not any(in_use().values()))
        await dispose_in_time()


@pytest.mark.slow
@pytest.mark.skipif(sys.platform == "win32", reason="no SIGSTOP")
async def test_stopped_backends_block_no_caller_and_end_when_they_continue(
    cloned_database: URL, superuser: psycopg.Connection, use_short_limits: Callable[[URL], None]
) -> None:
    use_short_limits(cloned_database)
    [caller] = await register(1)
    with stopping(superuser) as stop:
        outcomes = await run_under_fault(stop, caller)

        assert outcomes.pop("roll_back") in {"ConnectionFailed", "served"}
        of_new_connections = {call.__name__ for call in caller.calls}
        lost = {outcomes[step.__name__] for step in STEPS if step is not roll_back}
        assert lost <= {"ConnectionFailed", "CommitOutcomeUnknown"}
        assert "served" in {outcomes[name] for name in of_new_connections}
        await until(lambda: not any(in_use().values()))
        await dispose_in_time()
    await until(lambda: not backends(superuser))
    rows = superuser.execute("SELECT count(*) FROM users WHERE telegram_id IS NULL").fetchall()
    assert rows in ([(0,)], [(1,)]), "only the outcome of the commit may be unknown"


@contextmanager
def stopping(superuser: psycopg.Connection) -> Iterator[Callable[[], None]]:
    """Yield a function that stops all backends; they continue at the end."""
    stopped: list[int] = []

    def stop() -> None:
        for pid, *_ in backends(superuser):
            os.kill(pid, signal.SIGSTOP)
            stopped.append(pid)

    try:
        yield stop
    finally:
        for pid in stopped:
            os.kill(pid, signal.SIGCONT)
