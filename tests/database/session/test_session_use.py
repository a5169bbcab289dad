"""One use of a session: by one task at a time, and until its block has ended."""

from __future__ import annotations

import asyncio
import contextlib
import gc
from collections.abc import Awaitable, Callable
from typing import Any

import psycopg
import pytest
from sqlalchemy import URL, text
from sqlalchemy.ext.asyncio import AsyncEngine

from src.config import Settings
from src.database import AsyncSession, AsyncSessionLocal, engine, get_db, get_read_db, run_transaction
from src.database.base import uuid7
from src.database.errors import SessionClosed, SessionInUse
from src.database.models import Tenant, User
from src.database.repositories import UserRepository
from src.database.session.scopes import read_engine

SLEEP = text("SELECT pg_sleep(0.05)")
ID = uuid7()

USES: dict[str, Callable[[Any], object]] = {
    "add": lambda session: session.add(User()),
    "add_all": lambda session: session.add_all([User()]),
    "begin": lambda session: session.begin().start(),
    "begin_nested": lambda session: session.begin_nested().start(),
    "commit": lambda session: session.commit(),
    "connection": lambda session: session.connection(),
    "delete": lambda session: session.delete(User()),
    "delete_all": lambda session: session.delete_all([User()]),
    "execute": lambda session: session.execute(SLEEP),
    "flush": lambda session: session.flush(),
    "get": lambda session: session.get(User, ID),
    "get_one": lambda session: session.get_one(User, ID),
    "get of the registry": lambda session: session.get(Tenant, ID),
    "merge": lambda session: session.merge(User(id=ID)),
    "merge_all": lambda session: session.merge_all([User(id=ID)]),
    "refresh": lambda session: session.refresh(User()),
    "run_sync": lambda session: session.run_sync(lambda sync: sync.execute(SLEEP)),
    "scalar": lambda session: session.scalar(SLEEP),
    "scalars": lambda session: session.scalars(SLEEP),
    "stream": lambda session: session.stream(SLEEP),
    "stream_scalars": lambda session: session.stream_scalars(SLEEP),
    "bulk_insert_mappings": lambda session: session.run_sync(lambda sync: sync.bulk_insert_mappings(User, [{}])),
    "the repository's add": lambda session: UserRepository(session).add(User()),
    "the repository's add_many": lambda session: UserRepository(session).add_many([User(), User()]),
    "the repository's count": lambda session: UserRepository(session).count(),
    "the repository's get_many": lambda session: UserRepository(session).get_many([ID]),
    "the repository's get_or_none": lambda session: UserRepository(session).get_or_none(ID),
}


async def use(session: AsyncSession, how: str) -> None:
    done = USES[how](session)
    if isinstance(done, Awaitable):
        await done


@pytest.fixture
def url(cloned_database: URL, use_database: Callable[..., Settings]) -> URL:
    """A database for this test, with pools that count their connections."""
    use_database(cloned_database, ENVIRONMENT="staging", DATABASE_DEFAULT_TENANT=str(ID))
    return cloned_database


def connections_in_use() -> int:
    gc.collect()
    pools: list[Any] = [engine.pool, read_engine.pool]
    return sum(int(pool.checkedout()) for pool in pools)


def test_every_way_to_use_a_session_is_tried() -> None:
    sends_nothing = {"expire", "expire_all", "expunge", "expunge_all", "is_modified", "bind_mapper", "bind_table"}
    ends_it = {"aclose", "close", "close_all", "invalidate", "reset", "rollback"}
    shows = {name for name in dir(AsyncSession) if name.startswith(("get_", "in_", "identity_", "sync_", "object_"))}
    methods = {name for name in dir(AsyncSession) if not name.startswith("_") and callable(getattr(AsyncSession, name))}

    assert methods - sends_nothing - ends_it - (shows - {"get_one"}) <= set(USES)


@pytest.mark.parametrize("how", USES)
async def test_a_closed_session_refuses_each_use(shared_engine: AsyncEngine, how: str) -> None:
    async with AsyncSession(shared_engine) as session:
        session.sync_session._binding.default_tenant = ID

    with pytest.raises(SessionClosed, match="the session is closed") as caught:
        await use(session, how)

    assert "get_db()" in str(caught.value.hint)
    await session.rollback()
    await session.close()


async def test_reset_releases_the_connection_and_leaves_the_session_open(session: AsyncSession) -> None:
    await session.reset()

    assert await session.scalar(text("SELECT 1")) == 1


async def test_no_session_works_after_its_block(url: URL) -> None:
    ended: list[AsyncSession] = []

    async with get_db() as session:
        ended.append(session)
    async with get_read_db() as session:
        ended.append(session)
    async with get_read_db(read_your_writes=True) as session:
        ended.append(session)
    async with AsyncSessionLocal() as session:
        ended.append(session)
    with contextlib.suppress(ZeroDivisionError):
        async with get_db() as session:
            ended.append(session)
            raise ZeroDivisionError

    async def unit(session: AsyncSession) -> None:
        await session.execute(text("SELECT 1"))
        ended.append(session)

    await run_transaction(unit)

    for session in ended:
        with pytest.raises(SessionClosed):
            await UserRepository(session).add(User())
    assert connections_in_use() == 0


async def test_a_task_that_outlives_the_block_cannot_write(url: URL, superuser: psycopg.Connection) -> None:
    ended = asyncio.Event()

    async def write(session: AsyncSession) -> None:
        await ended.wait()
        await UserRepository(session).add(User())

    async with get_db() as session:
        await session.execute(text("SELECT 1"))
        late = asyncio.create_task(write(session))
    ended.set()

    with pytest.raises(SessionClosed):
        await late
    assert connections_in_use() == 0
    assert superuser.execute("SELECT count(*) FROM users").fetchone() == (0,)


async def test_a_session_that_its_block_closed_is_not_committed_again(url: URL) -> None:
    async with get_db() as session:
        await session.execute(text("SELECT 1"))
        await session.close()

    async def close(session: AsyncSession) -> None:
        await UserRepository(session).add(User())
        await session.close()

    with pytest.raises(SessionClosed):
        await run_transaction(close)


@pytest.mark.parametrize("is_begun", [False, True])
@pytest.mark.parametrize("how", USES)
async def test_a_second_task_is_refused_while_the_first_one_waits(
    session: AsyncSession, how: str, is_begun: bool
) -> None:
    if is_begun:
        await session.execute(text("SELECT 1"))
    first = asyncio.create_task(session.scalar(text("SELECT 1 FROM pg_sleep(0.02)")))
    await asyncio.sleep(0)

    with pytest.raises(SessionInUse, match="in use by another task") as caught:
        await use(session, how)
    with pytest.raises(SessionInUse):
        await session.rollback()

    assert "open a session with get_db() in each task" in str(caught.value.hint)
    assert await first == 1
    assert await session.scalar(text("SELECT 2")) == 2


async def test_a_second_task_is_refused_while_a_repository_waits(session: AsyncSession, user: User) -> None:
    users = UserRepository(session)

    first, second = await asyncio.gather(users.get(user.id), users.get(user.id), return_exceptions=True)

    assert first is user
    assert isinstance(second, SessionInUse)
    assert await asyncio.create_task(users.get(user.id)) is user, "one task after the other may"


async def test_a_second_task_is_refused_while_a_function_is_called(session: AsyncSession) -> None:
    users = UserRepository(session)
    await users.get_by_telegram_id(1)  # the transaction is open by now

    first, second = await asyncio.gather(
        users.get_or_create_by_telegram_id(1), users.get_or_create_by_telegram_id(2), return_exceptions=True
    )

    assert not isinstance(first, BaseException)
    assert isinstance(second, SessionInUse)
    assert await asyncio.create_task(users.get_or_create_by_telegram_id(1)) == (first[0], False)


@pytest.mark.parametrize("scope", [get_db, get_read_db])
async def test_gather_over_one_session_leaks_no_connection(url: URL, scope: Callable[[], Any]) -> None:
    """`gather` does not cancel the other calls: the block ends while one of them still waits for the server."""
    with pytest.raises(SessionInUse):
        async with scope() as session:
            await asyncio.gather(session.execute(SLEEP), session.execute(SLEEP))

    assert connections_in_use() == 0
    assert session.sync_session.get_transaction() is None


async def test_a_task_that_still_waits_at_the_end_of_the_block_rolls_back_the_transaction(
    url: URL, superuser: psycopg.Connection
) -> None:
    late: list[asyncio.Task[Any]] = []

    async def wait_and_write(session: AsyncSession) -> None:
        await session.execute(SLEEP)
        await UserRepository(session).add(User())

    async def continue_without_it() -> None:
        async with get_db() as session:
            await UserRepository(session).add(User())
            late.append(asyncio.create_task(wait_and_write(session)))
            await asyncio.sleep(0.01)

    with pytest.raises(SessionInUse):
        await continue_without_it()
    with pytest.raises(SessionClosed):
        await late[0]
    assert connections_in_use() == 0
    assert superuser.execute("SELECT count(*) FROM users").fetchone() == (0,)


@pytest.mark.parametrize("opening", ["begin", "begin_nested"])
async def test_a_transaction_block_ends_after_the_other_tasks_operation(
    shared_engine: AsyncEngine, opening: str
) -> None:
    """The block is rolled back with SessionInUse, whether it ends normally or with an error."""

    async def end_before_the_task(session: AsyncSession) -> None:
        async with getattr(session, opening)():
            await session.execute(text("SELECT 1"))
            late.append(asyncio.create_task(session.execute(SLEEP)))
            await asyncio.sleep(0.01)

    async def gather(session: AsyncSession) -> None:
        async with getattr(session, opening)():
            await asyncio.gather(session.execute(SLEEP), session.execute(SLEEP))

    late: list[asyncio.Task[Any]] = []
    for misuse in (end_before_the_task, gather):
        async with AsyncSession(shared_engine) as session:
            with pytest.raises(SessionInUse):
                await misuse(session)
            assert not session.in_nested_transaction()
            assert await session.scalar(text("SELECT 1")) == 1
    await late[0]
