"""The store's connections: bound to one tenant at a time, replaced when lost, released clean, and closed."""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import AsyncIterator, Callable
from uuid import UUID

import psycopg
import pytest
from sqlalchemy import URL

from src.config import Settings
from src.database import get_db, get_engine, tenant_context
from src.database.base import uuid7
from src.database.errors import CommitOutcomeUnknown, ConnectionFailed, NoTenantError, PoolExhausted, QueryTimeout
from src.database.models import Tenant
from src.database.repositories import MessageHistoryRepository
from src.database.store import StorePool, get_store
from tests.database.store.paths import ByRepositories, new_message

# Other workers use other databases of the same server.
_OURS = "FROM pg_stat_activity WHERE datname = current_database() AND application_name LIKE '%/store/%'"
BACKENDS = f"SELECT count(*) {_OURS}"
TERMINATE = f"SELECT pg_terminate_backend(pid) {_OURS}"


@pytest.fixture
async def tenants(cloned_database: URL, use_database: Callable[..., Settings]) -> AsyncIterator[list[UUID]]:
    """Three tenants, each with a user of the Telegram id 1 and a conversation; a pool of two."""
    use_database(cloned_database.update_query_dict({"pool_max": "2"}))
    ids = [uuid7() for _ in range(3)]
    async with get_db() as session:
        session.add_all(Tenant(id=one, slug=str(one), name="x") for one in ids)
    for one in ids:
        with tenant_context(one):
            await ByRepositories().turn(1, "1", [new_message(f"first of {one}")])
    yield ids
    await get_engine("store").dispose()


def the_pool() -> StorePool:
    return get_store().pool


async def own_message(tenant: UUID) -> list[str]:
    """Return the keys of all messages that the tenant's user has."""
    with tenant_context(tenant):
        user = await get_store().user_by_telegram_id(1)
        assert user is not None
        return [row.message_id async for row in get_store().stream_messages(user.id)]


async def test_a_connection_that_served_another_tenant_returns_only_own_rows(tenants: list[UUID]) -> None:
    for one in (*tenants, *reversed(tenants)):
        assert await own_message(one) == [f"first of {one}"]
    assert the_pool().size == 1
    assert the_pool().in_use == 0


async def test_a_call_without_a_tenant_raises(
    tenants: list[UUID], cloned_database: URL, use_database: Callable[..., Settings]
) -> None:
    use_database(cloned_database, ENVIRONMENT="staging", DATABASE_URL=str(cloned_database))
    with pytest.raises(NoTenantError):
        await get_store().user_by_telegram_id(1)


@pytest.mark.slow
async def test_random_cancellations_and_kills_return_no_rows_of_another_tenant(
    tenants: list[UUID], superuser: psycopg.Connection
) -> None:
    dice = random.Random(6)  # noqa: S311 - repeatable, not for security
    calls = cancelled = lost = 0
    for _ in range(40):
        asked = [dice.choice(tenants) for _ in range(6)]
        tasks = [asyncio.create_task(own_message(one)) for one in asked]
        await asyncio.sleep(dice.random() * 0.004)
        for task in dice.sample(tasks, 2):
            task.cancel()
        if dice.random() < 0.2:
            superuser.execute(TERMINATE)
        for one, result in zip(asked, await asyncio.gather(*tasks, return_exceptions=True), strict=True):
            calls += 1
            if isinstance(result, BaseException):
                assert isinstance(result, asyncio.CancelledError | ConnectionFailed), repr(result)
                cancelled += isinstance(result, asyncio.CancelledError)
                lost += isinstance(result, ConnectionFailed)
            else:
                assert result == [f"first of {one}"]

    assert cancelled > 20
    assert lost < calls / 4
    assert the_pool().in_use == 0
    assert the_pool().size <= 2
    for one in tenants:
        assert await own_message(one) == [f"first of {one}"]


async def test_dead_connections_are_replaced_without_an_error(
    tenants: list[UUID], superuser: psycopg.Connection
) -> None:
    for _ in range(5):
        await asyncio.gather(*(own_message(one) for one in tenants))
        superuser.execute(TERMINATE)
        await asyncio.sleep(0.05)

        with tenant_context(tenants[0]):
            assert await get_store().user_by_telegram_id(1) is not None


async def test_acknowledged_messages_are_stored_once_although_backends_are_killed(
    tenants: list[UUID], superuser: psycopg.Connection
) -> None:
    acknowledged: set[str] = set()
    with tenant_context(tenants[0]):
        conversation_id = (await ByRepositories().turn(1, "1", [])).conversation_id

    async def write(writer: int) -> None:
        with tenant_context(tenants[0]):
            for number in range(25):
                message = new_message(f"{writer}:{number}")
                while True:
                    try:
                        await get_store().append(conversation_id, message)
                    except (CommitOutcomeUnknown, ConnectionFailed):
                        continue  # the same key again
                    acknowledged.add(message.message_id)
                    break

    async def kill() -> None:
        for _ in range(8):
            await asyncio.sleep(0.02)
            await asyncio.to_thread(superuser.execute, TERMINATE)

    await asyncio.gather(*(write(writer) for writer in range(4)), kill())

    with tenant_context(tenants[0]):
        async with get_db() as session:
            stored = await MessageHistoryRepository(session).recent(conversation_id, limit=1000)
    assert len(acknowledged) == 100
    assert sorted(row.message_id for row in stored) == sorted({*acknowledged, f"first of {tenants[0]}"})
    assert [row.seq for row in stored] == list(range(1, 102))


async def test_waiting_too_long_raises_and_waiting_callers_are_served_in_order(
    tenants: list[UUID], cloned_database: URL, use_database: Callable[..., Settings]
) -> None:
    use_database(cloned_database.update_query_dict({"pool_max": "1"}), DATABASE_POOL_TIMEOUT="0.2")
    pool = the_pool()
    pooled = await pool.take()
    since = time.monotonic()

    with pytest.raises(PoolExhausted, match="store's pool of 1"):
        await own_message(tenants[0])
    assert time.monotonic() - since < 1
    order: list[int] = []

    async def call(number: int) -> None:
        await own_message(tenants[0])
        order.append(number)

    waiting = [asyncio.create_task(call(number)) for number in range(6)]
    await asyncio.sleep(0)
    waiting[2].cancel()
    await asyncio.sleep(0)
    pool.release(pooled)
    await asyncio.gather(*waiting, return_exceptions=True)

    assert order == [0, 1, 3, 4, 5]
    assert (pool.size, pool.in_use) == (1, 0)
    await get_engine("store").dispose()


async def test_dispose_leaves_no_backend_and_the_next_call_connects_again(
    tenants: list[UUID], superuser: psycopg.Connection
) -> None:
    await asyncio.gather(*(own_message(one) for one in tenants))
    assert superuser.execute(BACKENDS).fetchone() == (2,)

    await get_engine("store").dispose()

    while superuser.execute(BACKENDS).fetchone() != (0,):  # noqa: ASYNC110 - the server takes its time
        await asyncio.sleep(0.01)
    assert await own_message(tenants[0]) == [f"first of {tenants[0]}"]


def test_each_event_loop_has_its_own_store(cloned_database: URL, use_database: Callable[..., Settings]) -> None:
    use_database(cloned_database.update_query_dict({"pool_max": "2"}))

    async def call() -> tuple[int, bool]:
        _, created = await get_store().get_or_create_user(1)
        return id(get_store()), created

    first, second = asyncio.run(call()), asyncio.run(call())

    assert first[1]
    assert not second[1]


async def test_a_stream_that_is_closed_early_releases_its_connection(tenants: list[UUID]) -> None:
    with tenant_context(tenants[0]):
        user = await get_store().user_by_telegram_id(1)
        assert user is not None
        rows = get_store().stream_messages(user.id)
        await anext(rows)
        await rows.aclose()

    assert the_pool().in_use == 0
    assert await own_message(tenants[1]) == [f"first of {tenants[1]}"]


@pytest.mark.slow
async def test_a_stream_that_the_server_ended_as_idle_names_the_limit(
    tenants: list[UUID], cloned_database: URL, use_database: Callable[..., Settings]
) -> None:
    use_database(cloned_database, DATABASE_IDLE_TRANSACTION_TIMEOUT="200")
    with tenant_context(tenants[0]):
        user = await get_store().user_by_telegram_id(1)
        assert user is not None
        rows = get_store().stream_messages(user.id)
        await anext(rows)
        await asyncio.sleep(0.5)
        with pytest.raises(QueryTimeout, match="idle for longer") as raised:
            await anext(rows)

    assert raised.value.sqlstate == "25P03"
