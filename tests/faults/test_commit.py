"""A COMMIT without an answer is reported as uncertain, and `run_transaction` finds its outcome."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Iterator
from typing import Any

import psycopg
import pytest
from sqlalchemy import func, select, text, update

from src.config import Settings, get_settings
from src.database import AsyncSession, engine, get_db, get_engine, run_transaction
from src.database.base import uuid7
from src.database.embedded import SUPERUSER
from src.database.errors import CommitOutcomeUnknown, ConnectionFailed
from src.database.models import User
from src.database.repositories import NewMessage, UserRepository
from src.database.session import Retry, transaction_status
from src.database.store import get_store
from tests.conftest import SERVER, SOCKETS, url_of
from tests.faults.cutting_relay import Cut, CuttingRelay, cutting


# One database for all of these tests; each test has its own tenant.
@pytest.fixture(scope="session")
def commits_database() -> str:
    """A migrated database of the worker."""
    return SERVER.clone()


@pytest.fixture
async def relay(commits_database: str, use_database: Callable[..., Settings]) -> AsyncIterator[CuttingRelay]:
    """A relay between the server and `get_db` and the store, with pools of two connections, for a new tenant."""
    async with cutting(SOCKETS) as relay:
        url = relay.lead_to(url_of(commits_database), pool_max="2")
        use_database(url, DATABASE_DEFAULT_TENANT=str(uuid7()))
        async with get_db() as session:
            await session.scalar(text("SELECT 1"))
        yield relay
        await engine.dispose()
        await get_engine("store").dispose()


@pytest.fixture
def superuser(commits_database: str) -> Iterator[psycopg.Connection]:
    """An independent reader of all rows."""
    dbname = commits_database
    with psycopg.connect(host=SOCKETS, user=SUPERUSER, dbname=dbname, autocommit=True) as connection:
        yield connection


@pytest.fixture
def rounds(is_long: bool) -> int:
    return 200 if is_long else 5


def names(superuser: psycopg.Connection) -> list[str]:
    sql = "SELECT display_name FROM users WHERE tenant_id = %s ORDER BY display_name"
    return [row[0] for row in superuser.execute(sql, [get_settings().DATABASE_DEFAULT_TENANT])]


def user(number: object) -> User:
    return User(display_name=f"{number:04}" if isinstance(number, int) else str(number))


async def add(name: object) -> None:
    async with get_db() as session:
        session.add(user(name))


async def test_a_commit_without_an_answer_is_reported_as_uncertain(
    relay: CuttingRelay, superuser: psycopg.Connection, rounds: int
) -> None:
    uncertain = 0
    for number in range(rounds):
        relay.cut(1)
        with pytest.raises(CommitOutcomeUnknown, match="not known"):
            await add(number)
        uncertain += 1

    print(f"{uncertain} of {rounds} cut answers were CommitOutcomeUnknown")  # noqa: T201 - the figure
    assert (uncertain, relay.made) == (rounds, rounds)
    assert names(superuser) == [f"{number:04}" for number in range(rounds)], "all of them are committed"


async def test_a_write_of_the_store_without_an_answer_is_reported_as_uncertain(
    relay: CuttingRelay, superuser: psycopg.Connection, rounds: int
) -> None:
    turn = await get_store().turn(1, "telegram", None, [NewMessage(message_id="0", role="user")])
    for number in range(1, rounds + 1):
        await get_store().user_by_telegram_id(1)
        relay.cut(1, of=b"BIND")
        with pytest.raises(CommitOutcomeUnknown):
            await get_store().append(turn.conversation.id, NewMessage(message_id=str(number), role="user"))

    assert relay.made == rounds
    stored = superuser.execute("SELECT seq, message_id FROM message_history ORDER BY seq").fetchall()
    assert stored == [(number + 1, str(number)) for number in range(rounds + 1)]


@pytest.mark.parametrize("how", ["after", "before", "never sent on"])
async def test_run_transaction_finds_the_outcome_and_loses_and_doubles_nothing(
    relay: CuttingRelay, superuser: psycopg.Connection, rounds: int, how: Cut
) -> None:
    attempts = retried = 0

    async def unit(session: AsyncSession) -> str:
        nonlocal attempts
        attempts += 1
        session.add(row := user(number))
        await session.flush()
        return str(row.display_name)

    def count(_retry: Retry) -> None:
        nonlocal retried
        retried += 1

    for number in range(rounds):
        relay.cut(1, how)
        assert await run_transaction(unit, on_retry=count) == f"{number:04}"

    print(f"{rounds} cut COMMITs ({how}): {attempts} attempts")  # noqa: T201 - the figure
    assert relay.made == rounds
    assert names(superuser) == [f"{number:04}" for number in range(rounds)]
    assert attempts == rounds + retried == (rounds if how == "after" else 2 * rounds)
    left = "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND backend_xid IS NOT NULL"
    assert superuser.execute(left).fetchone() == (0,), "the backend of the lost client has ended"


@pytest.mark.parametrize(
    "read",
    [
        lambda session: session.scalars(select(User.display_name)),
        lambda session: session.scalar(select(func.count()).select_from(User)),
        lambda session: UserRepository(session).count(),
    ],
)
async def test_a_session_that_only_read_gets_a_lost_connection(
    relay: CuttingRelay, read: Callable[[AsyncSession], object]
) -> None:
    relay.cut(1)
    with pytest.raises(ConnectionFailed):
        async with get_db() as session:
            await read(session)  # type: ignore[misc] # each of them is awaitable

    assert relay.made == 1


@pytest.mark.parametrize(
    "write",
    [
        text("UPDATE users SET display_name = 'x'"),
        text("SELECT gen_random_uuid()"),
        select(func.set_config("app.x", "1", True)),
        select(update(User).where(User.tenant_id == uuid7()).values(locale="es").returning(User.id).cte()),
    ],
)
async def test_a_statement_that_may_have_written_makes_the_commit_uncertain(relay: CuttingRelay, write: object) -> None:
    relay.cut(1)
    with pytest.raises(CommitOutcomeUnknown):
        async with get_db() as session:
            await session.execute(write)  # type: ignore[call-overload] # each of them is a statement


async def test_a_write_in_one_transaction_does_not_make_the_next_one_uncertain(relay: CuttingRelay) -> None:
    await add("written")
    relay.cut(1)
    with pytest.raises(ConnectionFailed):
        async with get_db() as session:
            await session.scalar(select(User.display_name))


async def test_a_connection_lost_before_commit_is_not_uncertain(relay: CuttingRelay) -> None:
    async def lose_the_connection() -> None:
        async with get_db() as session:
            session.add(user("x"))
            await session.flush()
            await session.execute(text("SELECT 42"))

    relay.cut(1, "before", of=b"SELECT 42")
    with pytest.raises(ConnectionFailed):
        await lose_the_connection()


async def test_a_connection_known_to_be_lost_at_commit_is_not_uncertain(
    relay: CuttingRelay, superuser: psycopg.Connection
) -> None:
    async def lose_the_connection() -> None:
        async with get_db() as session:
            session.add(user("x"))
            await session.flush()
            pid = await session.scalar(text("SELECT pg_backend_pid()"))
            driver: Any = (await (await session.connection()).get_raw_connection()).driver_connection
            superuser.execute("SELECT pg_terminate_backend(%s)", [pid])
            while not driver.is_closed():  # noqa: ASYNC110 - there is no event for it
                await asyncio.sleep(0.01)

    with pytest.raises(ConnectionFailed):
        await lose_the_connection()

    assert names(superuser) == []


async def test_a_cancelled_commit_is_a_cancellation_with_an_uncertain_commit_as_its_cause(relay: CuttingRelay) -> None:
    task = asyncio.create_task(add("x"))
    relay.when_cut = task.cancel
    relay.cut(1, "never sent on")

    with pytest.raises(asyncio.CancelledError) as cancelled:
        await task

    assert isinstance(cancelled.value.__cause__, CommitOutcomeUnknown)


async def test_an_unknown_outcome_stays_uncertain_and_is_repeated_only_if_idempotent(
    relay: CuttingRelay, superuser: psycopg.Connection, monkeypatch: pytest.MonkeyPatch
) -> None:
    """After a crash the server may have given the number of the transaction to another one."""
    real = transaction_status._outcome_of
    monkeypatch.setattr(
        transaction_status, "_outcome_of", lambda status, **about: real(status, **{**about, "is_same": False})
    )
    tries = 0

    async def keyed(session: AsyncSession) -> None:
        nonlocal tries
        tries += 1
        await UserRepository(session).get_or_create_by_telegram_id(7)

    relay.cut(1)
    with pytest.raises(CommitOutcomeUnknown):
        await run_transaction(keyed)
    assert tries == 1

    relay.cut(1)
    await run_transaction(keyed, idempotent=True)

    assert len(names(superuser)) == 1


async def test_a_server_without_the_control_functions_leaves_the_outcome_uncertain(
    relay: CuttingRelay, superuser: psycopg.Connection
) -> None:
    superuser.execute("REVOKE EXECUTE ON FUNCTION pg_control_system() FROM PUBLIC")
    try:
        relay.cut(1)
        with pytest.raises(CommitOutcomeUnknown):
            await run_transaction(lambda session: UserRepository(session).add(user("x")))
    finally:
        superuser.execute("GRANT EXECUTE ON FUNCTION pg_control_system() TO PUBLIC")

    assert names(superuser) == ["x"]
