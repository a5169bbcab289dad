"""The sized pool: its minimum, stale and dead connections, and exhaustion, whose error names a holder."""

from __future__ import annotations

import asyncio
import gc
import re
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from importlib import import_module
from typing import Any, cast

import psycopg
import pytest
from sqlalchemy import URL, text
from sqlalchemy.ext.asyncio import AsyncEngine
from sqlalchemy.pool import NullPool

from src.config import Settings
from src.database import create_engine, get_db, get_engine
from src.database.connect import connection_name
from src.database.engine import DatabaseEngine
from src.database.engine.pool import SizedPool
from src.database.errors import ConfigurationError, ConnectionFailed, PoolExhausted, QueryTimeout
from tests.conftest import url_of

PID = text("SELECT pg_backend_pid()")


@asynccontextmanager
async def pooled(url: URL, *, name: str = "default", **more: Any) -> AsyncIterator[DatabaseEngine]:
    engine = create_engine(Settings(ENVIRONMENT="test", DATABASE_URL=url, **more), poolclass=SizedPool, name=name)
    try:
        yield engine
    finally:
        await engine.dispose()


async def pid(engine: AsyncEngine) -> int:
    async with engine.connect() as connection:
        return int((await connection.execute(PID)).scalar_one())


async def pids(engine: AsyncEngine, count: int) -> set[int]:
    """Use so many connections at the same time, and return their backends."""
    connections = await asyncio.gather(*(engine.connect().start() for _ in range(count)))
    found = {int((await connection.execute(PID)).scalar_one()) for connection in connections}
    for connection in connections:
        await connection.close()
    return found


def test_a_parameter_for_a_pool_means_one_in_every_environment() -> None:
    def pool_of(query: str) -> Any:
        return create_engine(Settings(ENVIRONMENT="development", DATABASE_URL=f"postgresql://u@h/d{query}")).pool

    assert isinstance(pool_of(""), NullPool)
    assert isinstance(pool_of("?pool_idle=60000"), SizedPool)
    made = pool_of("?pool_min=5&pool_max=20")
    assert (made.size(), made._max_overflow) == (20, 0)


async def test_an_exhausted_pool_reports_its_name_its_size_and_its_longest_holder(cloned_database: URL) -> None:
    async def hold_a_connection(engine: AsyncEngine, until: asyncio.Event) -> None:
        async with engine.connect() as connection:
            await connection.execute(PID)
            await until.wait()

    sizes = {"DATABASE_POOL_SIZE": 1, "DATABASE_MAX_OVERFLOW": 1, "DATABASE_POOL_TIMEOUT": 0.3}
    async with pooled(cloned_database, name="sessions", **sizes) as engine:
        until = asyncio.Event()
        first = asyncio.create_task(hold_a_connection(engine, until), name="reply-1")
        await asyncio.sleep(0.1)
        second = asyncio.create_task(hold_a_connection(engine, until), name="reply-2")
        await asyncio.sleep(0.1)
        began = time.monotonic()
        with pytest.raises(PoolExhausted) as caught:
            await pid(engine)
        assert 0.2 < time.monotonic() - began < 2
        until.set()
        await asyncio.gather(first, second)
        assert await pid(engine), "the caller continues once a connection is free"

    assert re.search(
        r"the pool 'sessions' \(size 1, overflow 1\) had no free connection for 0\.3 s;"
        r" the longest-used connection has been in use for 0\.\d s"
        r" by task 'reply-1', at test_pool\.py:\d+ in hold_a_connection",
        str(caught.value),
    )
    assert "hint: " in str(caught.value)


async def test_a_holder_is_forgotten_with_its_connection(cloned_database: URL) -> None:
    """The first connection exceeded the pool's size and was closed; the second one is detached."""
    async with pooled(cloned_database, DATABASE_POOL_SIZE=1, DATABASE_MAX_OVERFLOW=1) as engine:
        await pids(engine, 2)
        async with engine.connect() as connection:
            detached: Any = await connection.get_raw_connection()
            detached.detach()
            assert (
                cast("SizedPool", engine.pool)._longest_holder()
                == "no connection is in use: the connections are still being opened"
            )


async def test_a_session_reports_the_same(
    cloned_database: URL, use_database: Callable[..., Settings], monkeypatch: pytest.MonkeyPatch
) -> None:
    use_database(cloned_database.update_query_dict({"pool_max": "1"}), DATABASE_POOL_TIMEOUT="0.1")
    async with get_db() as session:
        await session.execute(PID)
        with pytest.raises(PoolExhausted, match=r"the pool 'default' \(size 1, overflow 0\)"):
            async with get_db() as other:
                await other.execute(PID)


async def test_6_of_6_killed_idle_connections_reach_no_caller(
    cloned_database: URL, superuser: psycopg.Connection
) -> None:
    async with pooled(cloned_database, DATABASE_POOL_SIZE=6) as engine:
        before = await pids(engine, 6)
        for killed in before:
            superuser.execute("SELECT pg_terminate_backend(%s, 5000)", (killed,))
        await asyncio.sleep(0.05)

        assert not await pids(engine, 6) & before


async def test_the_minimum_is_opened_with_the_first(cloned_database: URL, superuser: psycopg.Connection) -> None:
    def count() -> int:
        question = "SELECT count(*) FROM pg_stat_activity WHERE application_name LIKE 'minimal/%'"
        row = superuser.execute(question).fetchone()
        assert row is not None
        return int(row[0])

    query = {"pool_min": "4", "pool_max": "4", "application_name": "minimal"}
    async with pooled(cloned_database.update_query_dict(query)) as engine:
        assert count() == 0
        await pid(engine)
        async with asyncio.timeout(5):
            while cast("SizedPool", engine.pool).checkedin() < 4:  # noqa: ASYNC110 - the pool has no event for it
                await asyncio.sleep(0.01)
        assert count() == 4

    async with pooled(cloned_database.update_query_dict(query)) as engine:
        await pid(engine)  # and dispose immediately, while the others are being opened

    async with pooled(cloned_database.update_query_dict(query)) as engine:
        await engine.start()
        assert count() == 4


async def test_start_opens_the_missing_connections_while_the_others_are_in_use(cloned_database: URL) -> None:
    sizes = {"pool_min": "3", "pool_max": "3"}
    async with (
        pooled(cloned_database.update_query_dict(sizes), DATABASE_POOL_TIMEOUT=1) as engine,
        engine.connect() as first,
        engine.connect() as second,
    ):
        await asyncio.gather(first.execute(PID), second.execute(PID))
        await engine.start()
        async with engine.connect() as third:
            await third.execute(PID)


async def test_opening_ahead_leaves_connections_to_waiting_callers(
    cloned_database: URL, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Callers have taken the connections that it needs: it waits for a short time only, and the callers are served."""
    monkeypatch.setattr(import_module("src.database.engine.create"), "FILL_SECONDS", 0.2)
    sizes = {"pool_max": "3"}
    async with pooled(cloned_database.update_query_dict(sizes), DATABASE_POOL_TIMEOUT=5) as engine:
        await asyncio.gather(engine._open(4), *(pid(engine) for _ in range(6)))


async def test_start_raises_the_error_of_connecting() -> None:
    async with pooled(url_of("nothing")) as engine:
        with pytest.raises(ConnectionFailed, match="the database does not exist"):
            await engine.start()


async def test_idle_and_old_connections_are_replaced_at_the_next_checkout(cloned_database: URL) -> None:
    for query in ({"pool_idle": "50"}, {"max_lifetime": "1"}):
        async with pooled(cloned_database.update_query_dict(query)) as engine:
            first = await pid(engine)
            assert await pid(engine) == first
            await asyncio.sleep(0.1 if "pool_idle" in query else 1.05)
            assert await pid(engine) != first


async def test_connections_do_not_all_retire_at_the_same_time(cloned_database: URL) -> None:
    async with pooled(cloned_database, DATABASE_POOL_RECYCLE=1000) as engine:
        connections = await asyncio.gather(*(engine.connect().start() for _ in range(5)))
        drivers: list[Any] = [(await connection.get_raw_connection()).driver_connection for connection in connections]
        ages = [driver.state.retires_at for driver in drivers]
        for connection in connections:
            await connection.close()

    now = time.monotonic()
    assert len({round(age, 3) for age in ages}) == 5
    assert all(890 < age - now <= 1000 for age in ages)


async def test_the_server_applies_the_limits(cloned_database: URL) -> None:
    limits: dict[str, Any] = {
        "DATABASE_STATEMENT_TIMEOUT": 100,
        "DATABASE_LOCK_TIMEOUT": 70,
        "DATABASE_IDLE_TRANSACTION_TIMEOUT": 80,
    }
    async with pooled(cloned_database, **limits) as engine:
        async with engine.connect() as connection:
            names = ("statement_timeout", "lock_timeout", "idle_in_transaction_session_timeout")
            in_force = [await connection.scalar(text(f"SHOW {name}")) for name in names]
            with pytest.raises(QueryTimeout):
                await connection.execute(text("SELECT pg_sleep(5)"))
        async with engine.connect() as connection:
            await connection.execute(PID)
            await asyncio.sleep(0.3)
            with pytest.raises(QueryTimeout, match="25P03"):
                await connection.execute(PID)

    assert in_force == ["100ms", "70ms", "80ms"]


async def test_pools_of_different_names_do_not_use_each_others_connections(
    cloned_database: URL, use_database: Callable[..., Settings]
) -> None:
    use_database(cloned_database.update_query_dict({"pool_max": "1"}), DATABASE_POOL_TIMEOUT="0.1")
    sessions = get_engine("sessions")
    assert get_engine("sessions") is sessions

    async with get_db() as session:
        await session.execute(PID)
        async with sessions.connect() as connection:
            assert await connection.scalar(text("SHOW application_name")) == connection_name(
                "thea-database", "test", "sessions"
            )
            with pytest.raises(PoolExhausted, match="the pool 'sessions'"):
                await pid(sessions)
    await sessions.dispose()


@pytest.mark.parametrize("name", ["", "a b", "x" * 33, "default", "read", "ü"])
def test_a_pools_name_is_checked(name: str) -> None:
    with pytest.raises(ConfigurationError, match="a pool's name must"):
        get_engine(name)


@pytest.mark.fast_path
async def test_a_caller_cancelled_while_a_dead_connection_is_replaced_leaves_the_pool_whole(
    cloned_database: URL,
) -> None:
    """At each step of the event loop, and without the garbage collector."""
    async with pooled(cloned_database, DATABASE_POOL_SIZE=1, DATABASE_MAX_OVERFLOW=0) as engine:
        gc.disable()
        try:
            for ticks in range(12):
                async with engine.connect() as connection:
                    driver: Any = (await connection.get_raw_connection()).driver_connection
                driver.terminate()
                task = asyncio.ensure_future(pid(engine))
                for _ in range(ticks):
                    await asyncio.sleep(0)
                task.cancel()
                await asyncio.wait([task])

                assert cast("SizedPool", engine.pool).checkedout() == 0, f"cancelled after {ticks} turns of the loop"
        finally:
            gc.enable()
