"""run_transaction: which errors are repeated, how often, and that each attempt starts with a new session."""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import psycopg
import pytest
from sqlalchemy import URL, inspect, select, text

from src.config import Settings
from src.database import AsyncSession, get_db, run_transaction
from src.database.base import uuid7
from src.database.embedded import SUPERUSER
from src.database.errors import (
    AuthenticationFailed,
    CheckViolation,
    CommitOutcomeUnknown,
    DatabaseError,
    DeadlockError,
    DuplicateKeyError,
    LockNotAvailable,
    PoolExhausted,
    QueryTimeout,
    SerializationError,
    StaleDataError,
)
from src.database.models import User
from src.database.repositories import UserRepository
from src.database.session import Retry, transactions
from tests.conftest import SERVER, SOCKETS, url_of

TELEGRAM_ID = select(User.telegram_id).where(User.telegram_id.is_not(None))


# One database for all of these tests; each test has its own tenant.
@pytest.fixture(scope="session")
def retries_database() -> str:
    """A migrated database of the worker."""
    return SERVER.clone()


@pytest.fixture(autouse=True)
def database(retries_database: str, use_database: Callable[..., Settings]) -> URL:
    url = url_of(retries_database)
    use_database(url, DATABASE_DEFAULT_TENANT=str(uuid7()))
    return url


@pytest.fixture
def superuser(database: URL) -> Iterator[psycopg.Connection]:
    with psycopg.connect(host=SOCKETS, user=SUPERUSER, dbname=database.database, autocommit=True) as connection:
        yield connection


@pytest.fixture(autouse=True)
def _soon(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(transactions, "FIRST_DELAY_SECONDS", 0.002)


async def add_user(session: AsyncSession, telegram_id: int = 1) -> User:
    return await UserRepository(session).add(User(telegram_id=telegram_id))


async def read_then_write(session: AsyncSession) -> int:
    """Read and write so that only one of two concurrent SERIALIZABLE transactions can commit."""
    found = await session.scalar(TELEGRAM_ID)
    assert found is not None
    await asyncio.sleep(0)
    await session.execute(
        text("UPDATE users SET telegram_id = :next WHERE telegram_id IS NOT NULL"), {"next": found + 1}
    )
    return found


@pytest.mark.slow
async def test_serialization_failures_are_repeated_until_all_succeed(is_long: bool) -> None:
    writers = 40 if is_long else 8
    await run_transaction(add_user)
    seen: list[Retry] = []

    found = await asyncio.gather(
        *(
            run_transaction(read_then_write, isolation="SERIALIZABLE", retries=1000, on_retry=seen.append)
            for _ in range(writers)
        )
    )

    print(f"{writers} writers of one row: {len(seen)} repetitions")  # noqa: T201 - the figure
    assert sorted(found) == list(range(1, writers + 1)), (
        "each attempt saw the committed writes: no write is lost or doubled"
    )
    assert {type(retry.error) for retry in seen} == {SerializationError}


async def test_a_deadlock_is_repeated() -> None:
    async with get_db() as session:
        first, second = await add_user(session, 1), await add_user(session, 2)
        ids = [first.id, second.id]
    both_hold = asyncio.Barrier(2)
    attempts: list[Retry] = []

    async def lock(session: AsyncSession, order: list[Any]) -> None:
        for place, each in enumerate(order):
            await session.get(User, each, with_for_update=True)
            if place == 0 and not attempts:
                await both_hold.wait()

    await asyncio.gather(
        *(run_transaction(partial(lock, order=order), on_retry=attempts.append) for order in (ids, ids[::-1]))
    )

    assert [type(retry.error) for retry in attempts] == [DeadlockError]


async def test_each_attempt_has_a_new_session_without_changes_of_the_last_one() -> None:
    sessions: list[AsyncSession] = []
    rows: list[User] = []

    async def fail_twice(session: AsyncSession) -> User:
        sessions.append(session)
        rows.append(row := await add_user(session))
        if len(sessions) < 3:
            raise SerializationError("made up")
        return row

    row = await run_transaction(fail_twice)

    assert len({id(session) for session in sessions}) == 3
    assert [session.info["attempt"] for session in sessions] == [1, 2, 3]
    assert all(inspect(each).session is None for each in rows)
    assert row.telegram_id == 1, "its attributes are loaded, as those of get_db's rows are"
    async with get_db() as session:
        assert await UserRepository(session).count() == 1


@pytest.mark.parametrize(
    "error",
    [
        AuthenticationFailed("x"),
        CheckViolation("x"),
        CommitOutcomeUnknown("of another's transaction, inside of the unit"),
        DatabaseError("x"),
        DuplicateKeyError("x"),
        LockNotAvailable("x"),
        PoolExhausted("x"),
        QueryTimeout("x"),
        StaleDataError("x"),
        KeyError("x"),
        asyncio.CancelledError(),
        KeyboardInterrupt(),
    ],
    ids=lambda error: type(error).__name__,
)
async def test_an_error_that_repeating_cannot_fix_is_raised_immediately(error: BaseException) -> None:
    attempts = 0

    async def fail(session: AsyncSession) -> None:
        nonlocal attempts
        attempts += 1
        await add_user(session)
        raise error

    with pytest.raises(type(error)):
        await run_transaction(fail, idempotent=True)

    assert attempts == 1
    async with get_db() as session:
        assert await UserRepository(session).count() == 0


async def test_after_its_retries_it_raises_the_last_error_with_their_number() -> None:
    seen: list[Retry] = []

    async def fail(_session: AsyncSession) -> None:
        raise DeadlockError(f"number {len(seen)}")

    with pytest.raises(DeadlockError, match="number 3") as failed:
        await run_transaction(fail, retries=3, on_retry=seen.append)

    assert failed.value.__notes__ == ["after 4 attempts of the transaction"]
    assert [retry.number for retry in seen] == [1, 2, 3]
    with pytest.raises(DeadlockError):
        await run_transaction(fail, retries=0)


async def test_pauses_are_random_below_a_limit_that_doubles_up_to_a_second(monkeypatch: pytest.MonkeyPatch) -> None:
    limits: list[float] = []

    def uniform(low: float, high: float) -> float:
        limits.append(high)
        return low

    async def fail(_session: AsyncSession) -> None:
        raise DeadlockError("x")

    monkeypatch.setattr(transactions, "FIRST_DELAY_SECONDS", 0.05)
    monkeypatch.setattr(random, "uniform", uniform)
    with pytest.raises(DeadlockError):
        await run_transaction(fail, retries=7)

    assert limits == [0.05, 0.1, 0.2, 0.4, 0.8, 1.0, 1.0]


async def test_a_terminated_backend_costs_one_repetition(superuser: psycopg.Connection) -> None:
    pids: list[int] = []

    async def terminate_once(session: AsyncSession) -> int:
        await add_user(session)
        pids.append(await session.scalar(text("SELECT pg_backend_pid()")) or 0)
        if len(pids) == 1:
            superuser.execute("SELECT pg_terminate_backend(%s)", [pids[0]])
        found: int | None = await session.scalar(text("SELECT count(*) FROM users"))
        return found or 0

    assert await run_transaction(terminate_once) == 1
    assert len(set(pids)) == len(pids) == 2


@pytest.mark.parametrize("waits", ["in a statement", "beside the database", "between attempts"])
async def test_its_timeout_applies_wherever_it_waits(waits: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(random, "uniform", lambda _low, _high: 30.0)

    async def unit(session: AsyncSession) -> None:
        await add_user(session)
        if waits == "in a statement":
            await session.execute(text("SELECT pg_sleep(30)"))
        if waits == "beside the database":
            await asyncio.sleep(30)
        raise DeadlockError("x")

    began = time.monotonic()
    with pytest.raises(DeadlockError if waits == "between attempts" else QueryTimeout) as failed:
        await run_transaction(unit, timeout=0.5, retries=1000)

    assert time.monotonic() - began < 10
    assert waits == "between attempts" or "not committed within 0.5 s" in str(failed.value)
    async with get_db() as session:
        assert await UserRepository(session).count() == 0


async def test_a_timeout_of_the_unit_is_not_repeated() -> None:
    async def unit(_session: AsyncSession) -> None:
        raise TimeoutError("of a model")

    with pytest.raises(TimeoutError, match="of a model"):
        await run_transaction(unit, timeout=30)


@pytest.mark.parametrize("waits", ["in a statement", "between attempts"])
async def test_a_cancellation_ends_it_immediately_and_leaves_nothing(waits: str, superuser: psycopg.Connection) -> None:
    is_under_way = asyncio.Event()

    async def unit(session: AsyncSession) -> None:
        await add_user(session)
        is_under_way.set()
        if waits == "in a statement":
            await session.execute(text("SELECT pg_sleep(30)"))
        raise DeadlockError("x")

    task = asyncio.create_task(run_transaction(unit, retries=1000))
    await is_under_way.wait()
    await asyncio.sleep(0.02)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task

    left = "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND pid <> pg_backend_pid()"
    async with asyncio.timeout(20):
        while superuser.execute(left).fetchone() != (0,):  # noqa: ASYNC110 - the server takes its time
            await asyncio.sleep(0.02)
    async with get_db() as session:
        assert await UserRepository(session).count() == 0


@pytest.mark.parametrize("how", ["commit", "begin"])
async def test_a_unit_that_commits_is_rejected_because_it_could_run_twice(how: str) -> None:
    async def unit(session: AsyncSession) -> None:
        if how == "commit":
            await add_user(session)
            await session.commit()
        else:
            async with session.begin():
                await add_user(session)

    with pytest.raises(DatabaseError, match="must not commit"):
        await run_transaction(unit)

    async with get_db() as session:
        assert await UserRepository(session).count() == 0
