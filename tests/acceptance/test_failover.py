"""The primary fails and its replica is promoted: the engine continues, and callers get only the documented errors."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from functools import partial
from pathlib import Path

import pytest
from sqlalchemy import text
from sqlalchemy.pool import NullPool

from src.config import Settings, get_settings
from src.database import AsyncSession, AsyncSessionLocal, create_engine, engine, get_db, get_read_db
from src.database.errors import CommitOutcomeUnknown, ConnectionFailed
from src.database.models import User
from src.database.repositories import UserRepository
from src.database.session.scopes import read_engine
from tests.acceptance.pgbouncer import needs_pgbouncer, pgbouncer
from tests.acceptance.replication import Node, Pair, running_pair

Use = Callable[..., Settings]
Scope = Callable[[], AbstractAsyncContextManager[AsyncSession]]
WRITERS_EACH = 4
READERS = 2
WITHIN_SECONDS = 10
WRITES = {"target_session_attrs": "read-write"}
POOLED = {"pool_max": "5"}


@pytest.fixture(autouse=True)
async def _end_of_engines() -> AsyncIterator[None]:
    yield
    await engine.dispose()
    await read_engine.dispose()


@asynccontextmanager
async def unpooled() -> AsyncIterator[Scope]:
    """An engine without a pool, to the hosts of `get_db`."""
    without_pool = create_engine(get_settings(), poolclass=NullPool)

    @asynccontextmanager
    async def scope() -> AsyncIterator[AsyncSession]:
        async with AsyncSessionLocal(bind=without_pool) as session:
            yield session
            await session.commit()

    yield scope
    await without_pool.dispose()


class Load:
    """Writers of each scope and readers without pauses, and their results."""

    def __init__(self, *scopes: Scope) -> None:
        self.acknowledged: dict[Scope, list[int]] = {scope: [] for scope in scopes}
        self.reads = 0
        self.errors: list[BaseException] = []
        self._last = 0

    async def __aenter__(self) -> Load:
        work = [partial(self._write, scope) for scope in self.acknowledged] * WRITERS_EACH + [self._read] * READERS
        self._tasks = [asyncio.create_task(self._repeat(each)) for each in work]
        return self

    async def __aexit__(self, *_error: object) -> None:
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    async def until_written(self, count: int = 15) -> None:
        """Wait until each scope has acknowledged further writes, at most the time limit of a failover."""
        goals = {scope: len(written) + count for scope, written in self.acknowledged.items()}
        deadline = time.monotonic() + WITHIN_SECONDS
        while any(len(self.acknowledged[scope]) < goal for scope, goal in goals.items()):
            assert time.monotonic() < deadline, f"not written; the last errors: {self.errors[-3:]}"
            await asyncio.sleep(0.005)

    async def until_failed(self, count: int) -> None:
        """Wait until this number of calls has failed."""
        async with asyncio.timeout(WITHIN_SECONDS):
            while len(self.errors) < count:  # noqa: ASYNC110 - there is no event for it
                await asyncio.sleep(0.005)

    def unexpected_errors(self) -> list[BaseException]:
        """Return the errors other than ConnectionFailed and CommitOutcomeUnknown."""
        return [error for error in self.errors if not isinstance(error, ConnectionFailed | CommitOutcomeUnknown)]

    async def _repeat(self, work: Callable[[], Awaitable[None]]) -> None:
        while True:
            try:
                await work()
            except Exception as error:  # noqa: BLE001 - the test checks its class
                self.errors.append(error)
                await asyncio.sleep(0.01)

    async def _write(self, scope: Scope) -> None:
        self._last += 1
        number = self._last
        async with scope() as session:
            session.add(User(telegram_id=number))
        self.acknowledged[scope].append(number)

    async def _read(self) -> None:
        async with get_read_db() as session:
            await UserRepository(session).count()
        self.reads += 1


@pytest.mark.slow
async def test_after_a_promotion_the_engine_writes_within_10_s_and_raises_connection_failed_before(
    use_database: Use,
) -> None:
    with running_pair(synchronous=True) as pair:
        replicas = pair.url(pair.second, pair.first, **POOLED)
        use_database(pair.url(**WRITES, **POOLED), DATABASE_REPLICA_URL=str(replicas))
        async with unpooled() as scope, Load(get_db, scope) as load:
            await load.until_written()
            pair.first.kill()
            await load.until_failed(2 * WRITERS_EACH)  # no server accepts writes
            await asyncio.to_thread(pair.second.promote)
            await load.until_written()
            reads = load.reads
            await load.until_written()

        stored = {row[0] for row in pair.second.sql("SELECT telegram_id FROM users")}
        assert load.unexpected_errors() == []
        assert load.reads > reads > 0
        for acknowledged in load.acknowledged.values():
            assert set(acknowledged) <= stored, "acknowledged rows are stored"


@pytest.mark.slow
async def test_a_server_that_becomes_read_only_is_replaced_by_the_one_that_writes(use_database: Use) -> None:
    with running_pair() as pair:
        use_database(pair.url(**WRITES, **POOLED))
        async with unpooled() as scope, Load(get_db, scope) as load:
            await load.until_written()
            pair.first.sql("ALTER SYSTEM SET default_transaction_read_only = on")
            pair.first.sql("SELECT pg_reload_conf()")
            await asyncio.sleep(0.3)
            await asyncio.to_thread(pair.second.promote)
            await load.until_written()

        assert load.errors
        assert load.unexpected_errors() == []


@pytest.mark.slow
async def test_the_old_primary_that_returns_as_a_standby_is_skipped(use_database: Use) -> None:
    with running_pair() as pair:
        use_database(pair.url(**WRITES, **POOLED))
        async with unpooled() as scope, Load(get_db, scope) as load:
            await load.until_written()
            await asyncio.to_thread(pair.change_roles)
            await load.until_written()

        assert load.unexpected_errors() == []
        async with get_db() as session:
            assert await session.scalar(text("SELECT pg_is_in_recovery()")) is False


@pytest.mark.slow
@needs_pgbouncer
async def test_a_pooled_connection_to_a_pgbouncer_whose_server_became_a_standby_is_closed(
    use_database: Use,
) -> None:
    """PgBouncer keeps its clients while the server behind it restarts as a standby."""
    with (
        running_pair() as pair,
        pgbouncer(str(pair.first.folder)) as first,
        pgbouncer(str(pair.second.folder)) as second,
    ):
        url = first.url("thea", **WRITES, **POOLED)
        use_database(url.update_query_dict({"host": f"{first.sockets},{second.sockets}"}), DATABASE_PGBOUNCER="true")
        async with unpooled() as scope, Load(get_db, scope) as load:
            await load.until_written()
            await asyncio.to_thread(pair.change_roles)
            await load.until_written()

        assert load.unexpected_errors() == []


async def test_without_a_reachable_host_the_error_names_each_host_and_reason(use_database: Use, tmp_path: Path) -> None:
    pair = Pair(Node(tmp_path / "first"), Node(tmp_path / "second"))
    use_database(pair.url(**WRITES))

    for scope in (get_db, get_read_db):
        with pytest.raises(ConnectionFailed, match="none of the hosts accepts") as failed:
            async with scope() as session:
                await session.execute(text("SELECT 1"))
        for node in (pair.first, pair.second):
            assert f"no connection to {node.folder}, database thea" in str(failed.value)
        assert str(failed.value).count("nothing listens there") == 2
