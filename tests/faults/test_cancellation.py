"""Calls that are cancelled at any point: nothing stays in use, open or bound, and other calls are not affected."""

from __future__ import annotations

import asyncio
import random
import ssl
from collections.abc import AsyncIterator, Callable, Coroutine, Iterator
from contextlib import contextmanager, nullcontext
from typing import Any, cast

import psycopg
import pytest
from sqlalchemy import URL, text

from src.config import Settings
from src.database import get_db, get_read_db, tenant_context
from src.database.errors import DatabaseError
from src.database.store import get_store
from tests.conftest import SOCKETS
from tests.database.connect.certificates import Certificates
from tests.database.connect.tls_proxy import TlsProxy, running
from tests.faults.callers import Call, Caller, register
from tests.faults.cancelling import WAYS, by_scope, by_timeout
from tests.faults.conftest import POOL_SIZE
from tests.faults.leftovers import (
    backends,
    dispose_of_all,
    in_a_transaction,
    in_use,
    until,
    until_meanwhile,
    wrongly_bound,
)

AT_ONCE = 20
LONGEST_SECONDS = 0.06
UNDISTURBED = 0.25
"""The share of calls that are not cancelled, so that the pools keep some connections on a slow machine too."""
NAP = text("SELECT pg_sleep(0.002)")
LONG_SLEEP = text("SELECT pg_sleep(60)")


@pytest.fixture(scope="module")
def certificates(tmp_path_factory: pytest.TempPathFactory) -> Certificates:
    return Certificates(tmp_path_factory.mktemp("certificates"))


@contextmanager
def encrypted(database: URL, context: ssl.SSLContext) -> Iterator[URL]:
    with running(TlsProxy(f"{SOCKETS}/.s.PGSQL.5432", context)) as proxy:
        yield database.set(query={"host": "127.0.0.1", "port": str(proxy.port), "sslmode": "require"})
        assert proxy.was_encrypted
        assert all(proxy.was_encrypted), "the requests to cancel too"


@pytest.fixture(params=["plaintext", pytest.param("TLS", marks=pytest.mark.slow)])
async def many(
    request: pytest.FixtureRequest,
    cloned_database: URL,
    certificates: Certificates,
    use_database: Callable[..., Settings],
) -> AsyncIterator[list[Caller]]:
    """Three callers with pools of five connections, in plaintext and over TLS."""
    context = certificates.contexts["right CA"]
    with encrypted(cloned_database, context) if request.param == "TLS" else nullcontext(cloned_database) as url:
        use_database(url.update_query_dict({"pool_max": str(POOL_SIZE)}))
        yield await register(3)
        await dispose_of_all()


# Python leaves the socket of the proxy open if the client disconnects before the handshake.
@pytest.mark.filterwarnings(r"ignore:Exception ignored in. <ssl\.SSLSocket:pytest.PytestUnraisableExceptionWarning")
async def test_cancelled_calls_leave_nothing(
    many: list[Caller], superuser: psycopg.Connection, *, is_long: bool
) -> None:
    """200 calls; with `--long` 5,000 in plaintext and 5,000 over TLS."""
    dice = random.Random(7)  # noqa: S311 - a shuffle that repeats
    cancelled = 0

    async def one() -> bool:
        call = dice.choice(dice.choice(many).calls)
        if dice.random() < UNDISTURBED:
            await call()
            return False
        return await dice.choice(WAYS)(call, dice.uniform(0, LONGEST_SECONDS))

    for _ in range((5000 if is_long else 200) // AT_ONCE):
        cancelled += sum(await asyncio.gather(*(one() for _ in range(AT_ONCE))))

    assert cancelled > 30
    await until(lambda: not any(in_use().values()))
    await until(lambda: not in_a_transaction(superuser))
    assert await wrongly_bound() == []
    for caller in many:
        stored = superuser.execute("SELECT message_id FROM message_history WHERE tenant_id = %s", [caller.tenant])
        assert set(cast("set[str]", caller.acknowledged)) <= {key for (key,) in stored}
        for call in caller.calls:
            await call()
    await dispose_of_all()
    await until(lambda: not backends(superuser))


async def cancel_under_way(
    cancelling: Callable[[float], list[Coroutine[Any, Any, bool]]], superuser: psycopg.Connection
) -> None:
    """Cancel calls while the server executes their statements, which takes longer on a slow machine."""
    for delay in (0.1, 0.5, 2, 8):
        tasks = [asyncio.create_task(one) for one in cancelling(delay)]
        most = 0
        while not all(task.done() for task in tasks):
            most = max(most, sum(state == "active" for _, state, *_ in backends(superuser)))
            await asyncio.sleep(0.01)
        assert all([await task for task in tasks])
        if most >= min(len(tasks), POOL_SIZE):
            return
    pytest.fail("the server never came to the statements")


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("scope", [get_db, get_read_db])
async def test_the_server_ends_a_statement_whose_caller_was_cancelled(
    way: Callable[[Call, float], Coroutine[Any, Any, bool]],
    scope: Any,
    callers: list[Caller],
    superuser: psycopg.Connection,
) -> None:
    async def sleep() -> None:
        with tenant_context(callers[0].tenant):
            async with scope() as session:
                await session.execute(LONG_SLEEP)

    await cancel_under_way(lambda delay: [way(sleep, delay)], superuser)

    await until(lambda: not in_a_transaction(superuser), within=5)


async def test_the_server_ends_a_cancelled_call_of_the_store_and_writes_nothing(
    callers: list[Caller], superuser: psycopg.Connection
) -> None:
    """Otherwise each cancelled call would leave a backend that waits for the lock and then writes."""
    caller = callers[0]
    with psycopg.connect(superuser.info.dsn, user="postgres") as holder:
        holder.execute("SELECT FROM conversations FOR UPDATE")
        await cancel_under_way(lambda delay: [way(caller.write_by_the_store, delay) for way in WAYS * 5], superuser)
        await until(lambda: len(in_a_transaction(superuser)) == 1, within=5)
        assert len(backends(superuser)) <= 3 * POOL_SIZE + 1

    await caller.write_by_the_store()
    rows = superuser.execute("SELECT count(*) FROM message_history WHERE tenant_id = %s", [caller.tenant])
    assert rows.fetchall() == [(2,)]


async def test_dispose_waits_until_the_server_has_received_the_cancellations(
    callers: list[Caller], superuser: psycopg.Connection
) -> None:
    with psycopg.connect(superuser.info.dsn, user="postgres") as holder:
        holder.execute("SELECT FROM conversations FOR UPDATE")
        calls = callers[0].write_by_the_store, callers[0].write_in_a_session
        await cancel_under_way(lambda delay: [by_scope(call, delay) for call in calls], superuser)
        await dispose_of_all()

        until_meanwhile(lambda: len(backends(superuser)) == 1, within=5)


async def test_a_caller_cancelled_while_connecting_passes_its_place_on(
    callers: list[Caller], cloned_database: URL, use_database: Callable[..., Settings]
) -> None:
    """Otherwise the next caller would wait for the whole time limit, although a connection is free."""
    await dispose_of_all()
    use_database(cloned_database.update_query_dict({"pool_max": "1"}), DATABASE_POOL_TIMEOUT="60")
    for call in (callers[0].read_in_a_session, callers[0].read_by_the_store):
        for steps in range(1, 30, 3):
            first, second = asyncio.create_task(_run(call)), asyncio.create_task(_run(call))
            for _ in range(steps):
                await asyncio.sleep(0)
            first.cancel()
            async with asyncio.timeout(20):
                await asyncio.gather(first, second, return_exceptions=True)
            assert second.exception() is None
            await dispose_of_all()


async def _run(call: Call) -> None:
    await call()


@pytest.mark.slow
async def test_time_limits_of_others_on_the_same_pool_have_no_effect(callers: list[Caller], *, is_long: bool) -> None:
    """60 calls that time out; with `--long` 5,000."""
    dice = random.Random(8)  # noqa: S311 - a shuffle that repeats
    left = 5000 if is_long else 60
    served, errors = 0, []

    async def session(scope: Any) -> None:
        with tenant_context(dice.choice(callers).tenant):
            async with scope() as session:
                await session.execute(NAP)

    async def store() -> None:
        caller = dice.choice(callers)
        with tenant_context(caller.tenant):
            await get_store().recent(caller.conversation_id, limit=5)

    calls: tuple[Call, ...] = (lambda: session(get_db), lambda: session(get_read_db), store)

    async def call_with_short_timeouts() -> None:
        nonlocal left
        while left > 0:
            left -= await by_timeout(dice.choice(calls), dice.uniform(0, 0.01))

    async def call_without_timeouts(call: Call) -> None:
        nonlocal served
        while left > 0:
            try:
                await call()
                served += 1
            except DatabaseError as error:
                errors.append(repr(error))

    await asyncio.gather(
        *(call_with_short_timeouts() for _ in range(9)), *(call_without_timeouts(call) for call in calls * 2)
    )

    assert errors == []
    assert served > 20
