"""Engines and stores belong to an event loop, and are released with it, however the loop ends."""

from __future__ import annotations

import asyncio
import gc
import time
import weakref
from collections.abc import Awaitable, Callable

import psycopg
import pytest
from sqlalchemy import URL, text

from src.config import Settings
from src.database import get_db, get_engine, get_read_db
from src.database.session import forget_settings
from src.database.store import get_store

LOOPS = 2
BACKENDS = "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND pid <> pg_backend_pid()"

Use = Callable[[], Awaitable[object]]

# A loop that is closed without a shutdown leaves transports for the garbage collector, which warns of each.
pytestmark = pytest.mark.filterwarnings(
    "ignore:unclosed:ResourceWarning", "ignore::pytest.PytestUnraisableExceptionWarning"
)


async def by_the_store() -> None:
    await get_store().user_by_telegram_id(1)


async def in_a_session() -> None:
    async with get_db() as session:
        await session.execute(text("SELECT 1"))


async def in_a_read_session() -> None:
    async with get_read_db() as session:
        await session.execute(text("SELECT 1"))


async def over_an_engine_of_its_own() -> None:
    async with get_engine("jobs").connect() as connection:
        await connection.execute(text("SELECT 1"))


async def after_new_settings() -> None:
    await in_a_session()
    forget_settings()
    await by_the_store()
    forget_settings()


def run(main: Use) -> None:
    async def run() -> None:
        await main()

    asyncio.run(run())


def run_and_close(main: Use) -> None:
    """Run as a program does that ends its loop by `loop.close()` alone."""
    loop = asyncio.new_event_loop()
    loop.run_until_complete(main())
    loop.close()


def wait_for(count: int, superuser: psycopg.Connection) -> None:
    deadline = time.monotonic() + 5
    while superuser.execute(BACKENDS).fetchone() != (count,):
        assert time.monotonic() < deadline, f"{superuser.execute(BACKENDS).fetchone()} backends, not {count}"
        time.sleep(0.01)


USES = (by_the_store, in_a_session, in_a_read_session, over_an_engine_of_its_own, after_new_settings)


@pytest.mark.slow
@pytest.mark.parametrize("metrics", ["false", "true"], ids=["plain", "with metrics"])
@pytest.mark.parametrize("end", [run, run_and_close])
def test_ended_loops_keep_no_backend_and_no_memory(
    end: Callable[[Use], None],
    metrics: str,
    cloned_database: URL,
    use_database: Callable[..., Settings],
    superuser: psycopg.Connection,
) -> None:
    use_database(cloned_database.update_query_dict({"pool_max": "2"}), DATABASE_METRICS=metrics)
    loops: list[tuple[str, weakref.ref[asyncio.AbstractEventLoop]]] = []
    for use in USES * LOOPS:

        async def use_once(use: Use = use) -> None:
            loops.append((use.__name__, weakref.ref(asyncio.get_running_loop())))
            await use()

        end(use_once)
    asyncio.run(in_a_session())  # the last loop that was closed without a shutdown is forgotten at the next one's start

    wait_for(0, superuser)
    gc.collect()
    assert [name for name, loop in loops if loop() is not None] == []


@pytest.mark.slow
def test_a_store_is_released_with_its_loop(cloned_database: URL) -> None:
    stores: list[weakref.ref[object]] = []

    async def use() -> None:
        await by_the_store()
        assert get_store() is get_store()
        stores.append(weakref.ref(get_store()))

    for _ in range(LOOPS):
        asyncio.run(use())

    gc.collect()
    assert [store() for store in stores] == [None] * LOOPS


async def test_a_store_that_was_disposed_of_serves_again(cloned_database: URL) -> None:
    store = get_store()
    await by_the_store()
    await get_engine("store").dispose()
    await by_the_store()

    assert get_store() is store
    await get_engine("store").dispose()
