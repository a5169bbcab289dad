"""Dead connections, a restarted server, a schema change under load: one repetition hides these from callers."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from functools import partial

import psycopg
import pytest
from sqlalchemy import URL, event, func, select

from src.config import Settings
from src.database import AsyncSession, engine, get_db, get_engine, get_read_db, run_transaction
from src.database.errors import SchemaChangedError
from src.database.models import User
from src.database.repositories import UserRepository
from src.database.session.scopes import read_engine
from src.database.store import get_store
from tests.acceptance.replication import running_pair

TERMINATE = "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = %s AND pid <> pg_backend_pid()"
POOL = 3
NAME = select(User.display_name).where(User.telegram_id == 1)


async def by_session() -> None:
    async with get_db() as session:
        await UserRepository(session).get_or_create_by_telegram_id(1)


async def by_read_session() -> None:
    async with get_read_db() as session:
        await UserRepository(session).count()


async def by_store() -> None:
    await get_store().user_by_telegram_id(1)


async def by_transaction() -> None:
    await run_transaction(lambda session: UserRepository(session).get_or_create_by_telegram_id(1))


CALLS = (by_session, by_read_session, by_store, by_transaction)


@pytest.fixture
async def pooled(cloned_database: URL, use_database: Callable[..., Settings]) -> AsyncIterator[URL]:
    use_database(cloned_database.update_query_dict({"pool_max": str(POOL)}))
    yield cloned_database
    await dispose()


async def dispose() -> None:
    await asyncio.gather(engine.dispose(), read_engine.dispose(), get_engine("store").dispose())


async def all_concurrently(calls: tuple[Callable[[], Awaitable[None]], ...] = CALLS) -> None:
    await asyncio.gather(*(call() for call in calls for _ in range(POOL)))


@pytest.mark.parametrize("is_seen", [True, False], ids=["seen by the loop", "just now"])
async def test_terminated_idle_connections_are_replaced_without_an_error(
    pooled: URL, superuser: psycopg.Connection, is_seen: bool
) -> None:
    """The connections are terminated just before: no read has noticed it, and statements on them are lost."""
    for _ in range(3):
        await all_concurrently()
        superuser.execute(TERMINATE, [pooled.database])
        if is_seen:
            await asyncio.sleep(0.05)
        await all_concurrently()


async def test_a_new_connection_that_is_lost_immediately_is_not_retried_forever(
    pooled: URL, superuser: psycopg.Connection
) -> None:
    await by_session()
    attempts = 0

    def terminate(*_arguments: object) -> None:
        nonlocal attempts
        attempts += 1
        superuser.execute(TERMINATE, [pooled.database])

    event.listen(engine.sync_engine, "connect", terminate)
    superuser.execute(TERMINATE, [pooled.database])
    with pytest.raises(Exception, match="connection"):
        await by_session()

    assert attempts <= 2


async def read_name() -> None:
    async with get_read_db() as session:
        await session.scalar(NAME)


async def stream_names() -> None:
    async with get_read_db() as session:
        async for _ in await session.stream(select(User.display_name)):
            pass


async def read_name_within_a_unit() -> None:
    async def unit(session: AsyncSession) -> None:
        await session.scalar(select(func.count()).select_from(User))
        await session.scalar(NAME)

    await run_transaction(unit)


@pytest.mark.slow
@pytest.mark.parametrize(
    "call",
    [read_name, stream_names, by_read_session, by_store, read_name_within_a_unit, by_transaction],
    ids=lambda call: call.__name__,
)
async def test_a_schema_change_under_load_causes_no_error(
    pooled: URL, superuser: psycopg.Connection, call: Callable[[], Awaitable[None]], is_long: bool
) -> None:
    await by_session()
    for length in range(300, 400 if is_long else 305):
        await all_concurrently((call,))
        superuser.execute(f"ALTER TABLE users ALTER display_name TYPE varchar({length})")
    await all_concurrently((call,))


async def test_a_schema_change_within_a_transaction_is_one_error_with_its_remedy(
    pooled: URL, superuser: psycopg.Connection
) -> None:
    async def read() -> None:
        async with get_db() as session:
            await session.scalar(NAME)

    await read()
    superuser.execute("ALTER TABLE users ALTER display_name TYPE varchar(400)")

    with pytest.raises(SchemaChangedError, match="run_transaction"):
        await read()
    await read()


async def test_a_promoted_replica_serves_the_calls_of_the_primary(
    use_database: Callable[..., Settings], is_long: bool
) -> None:
    if not is_long:
        pytest.skip("two servers: with --long")
    acknowledged: list[int] = []
    with running_pair(synchronous=True) as pair:
        use_database(pair.url(target_session_attrs="read-write", pool_max="5"))
        is_over = False

        async def write(number: int) -> None:
            while not is_over:
                await run_transaction(partial(add, telegram_id=number), retries=100, idempotent=True)
                acknowledged.append(number)
                number += 10

        async def add(session: AsyncSession, *, telegram_id: int) -> None:
            await UserRepository(session).get_or_create_by_telegram_id(telegram_id)

        async with asyncio.TaskGroup() as group:  # raises the error of a writer
            for number in range(1, 6):
                group.create_task(write(number))
            await until(lambda: len(acknowledged) > 20)
            pair.first.kill()
            await asyncio.to_thread(pair.second.promote)
            goal = len(acknowledged) + 20
            await until(lambda: len(acknowledged) > goal)
            is_over = True
        await engine.dispose()
        stored = {row[0] for row in pair.second.sql("SELECT telegram_id FROM users")}

    assert set(acknowledged) <= stored


async def until(is_so: Callable[[], bool]) -> None:
    async with asyncio.timeout(60):
        while not is_so():  # noqa: ASYNC110 - there is no event for it
            await asyncio.sleep(0.01)
