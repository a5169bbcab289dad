"""run_transaction repeats for a limited time, and does not repeat after a time limit of the server."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Iterator

import psycopg
import pytest
from sqlalchemy import URL, text

from src.config import Settings
from src.database import AsyncSession, get_db, run_transaction
from src.database.base import uuid7
from src.database.embedded import SUPERUSER
from src.database.errors import ConnectionFailed, QueryTimeout
from src.database.models import User
from src.database.repositories import UserRepository
from src.database.session import Retry, transactions
from tests.conftest import SERVER, SOCKETS, url_of


# One database for all of these tests; each test has its own tenant.
@pytest.fixture(scope="session")
def limits_database() -> str:
    """A migrated database of the worker."""
    return SERVER.clone()


@pytest.fixture(autouse=True)
def database(limits_database: str, use_database: Callable[..., Settings]) -> URL:
    url = url_of(limits_database)
    use_database(url, DATABASE_DEFAULT_TENANT=str(uuid7()))
    return url


@pytest.fixture
def superuser(database: URL) -> Iterator[psycopg.Connection]:
    with psycopg.connect(host=SOCKETS, user=SUPERUSER, dbname=database.database, autocommit=True) as connection:
        yield connection


@pytest.fixture
def _soon(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(transactions, "FIRST_DELAY_SECONDS", 0.002)
    monkeypatch.setattr(transactions, "LONGEST_DELAY_SECONDS", 0.002)


async def fail(_session: AsyncSession) -> None:
    raise ConnectionFailed("the server restarts")


async def users() -> int:
    async with get_db() as session:
        return await UserRepository(session).count()


@pytest.mark.usefixtures("_soon")
async def test_the_number_of_repetitions_is_not_limited() -> None:
    failures = 0

    async def fail_often(_session: AsyncSession) -> int:
        nonlocal failures
        if failures < 40:
            failures += 1
            raise ConnectionFailed("the server restarts")
        return failures

    assert await run_transaction(fail_often) == 40


@pytest.mark.usefixtures("_soon")
async def test_no_repetition_begins_after_its_seconds() -> None:
    seen: list[Retry] = []

    began = time.monotonic()
    with pytest.raises(ConnectionFailed, match="restarts"):
        await run_transaction(fail, retry_seconds=0.05, on_retry=seen.append)

    assert seen
    assert time.monotonic() - began < 5


async def test_with_0_seconds_nothing_is_repeated() -> None:
    seen: list[Retry] = []

    with pytest.raises(ConnectionFailed):
        await run_transaction(fail, retry_seconds=0, on_retry=seen.append)

    assert not seen


@pytest.mark.usefixtures("_soon")
async def test_the_seconds_count_from_the_first_failure() -> None:
    attempts = 0

    async def fail_late(_session: AsyncSession) -> int:
        nonlocal attempts
        attempts += 1
        if attempts == 1:
            await asyncio.sleep(0.1)
            raise ConnectionFailed("at the end of a long unit")
        return attempts

    assert await run_transaction(fail_late, retry_seconds=0.08) == 2


async def test_pauses_last_for_half_a_minute_by_default(monkeypatch: pytest.MonkeyPatch) -> None:
    """A restart takes seconds; eight repetitions ended after at most 2.3 s of pauses."""
    now = 0.0

    async def sleep(seconds: float) -> None:
        nonlocal now
        now += seconds

    monkeypatch.setattr("src.database.session.transactions.time.monotonic", lambda: now)
    monkeypatch.setattr("src.database.session.transactions.asyncio.sleep", sleep)
    with pytest.raises(ConnectionFailed):
        await run_transaction(fail)

    assert 28 < now < 30


@pytest.mark.parametrize("limit", ["idle_in_transaction_session_timeout", "transaction_timeout"])
@pytest.mark.parametrize("ends_in", ["a statement", "a pause", "a commit"])
@pytest.mark.parametrize("event_loop", ["reads", "is blocked until then"])
async def test_a_time_limit_of_the_server_is_named_and_not_repeated(
    limit: str, ends_in: str, event_loop: str, superuser: psycopg.Connection
) -> None:
    attempts = 0

    async def wait_for_a_model(session: AsyncSession) -> None:
        nonlocal attempts
        attempts += 1
        await UserRepository(session).add(User(telegram_id=1))
        await session.execute(text(f"SET LOCAL {limit} = 20"))
        pid = await session.scalar(text("SELECT pg_backend_pid()"))
        if ends_in == "a statement" and limit == "transaction_timeout":
            await session.execute(text("SELECT pg_sleep(5)"))
        async with asyncio.timeout(10):
            while superuser.execute("SELECT FROM pg_stat_activity WHERE pid = %s", [pid]).rowcount:  # noqa: ASYNC110 - it has no event for it
                await asyncio.sleep(0.005)
        if event_loop == "reads":
            await asyncio.sleep(0.005)
        if ends_in != "a commit":
            await UserRepository(session).add(User(telegram_id=2))

    with pytest.raises(QueryTimeout, match="the server ended the transaction") as raised:
        await run_transaction(wait_for_a_model)

    assert attempts == 1
    assert raised.value.sqlstate == ("25P04" if limit == "transaction_timeout" else "25P03")
    assert limit in (raised.value.hint or "")
    assert await users() == 0


async def test_get_db_names_the_time_limit_that_ended_its_transaction() -> None:
    async def be_idle() -> None:
        async with get_db() as session:
            await session.execute(text("SET LOCAL idle_in_transaction_session_timeout = 10"))
            await asyncio.sleep(0.1)
            await UserRepository(session).add(User(telegram_id=1))

    with pytest.raises(QueryTimeout, match="idle for longer") as raised:
        await be_idle()

    assert raised.value.sqlstate == "25P03"
    assert await users() == 0, "the pool does not return a connection that the server ended"
