"""Round trips of compiled statements; a caller's own SQL leaves no tenant binding."""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import Awaitable, Callable
from contextlib import nullcontext, suppress
from typing import Any
from uuid import UUID

import psycopg
import pytest
from sqlalchemy import literal, select, text
from sqlalchemy.ext.compiler import compiles
from sqlalchemy.sql.functions import FunctionElement

from src.database import get_db, get_read_db, tenant_context
from src.database.base import uuid7
from src.database.errors import ConnectionFailed, DatabaseError
from src.database.models import Note, Tenant, User
from src.database.repositories import NoteRepository, UserRepository
from src.database.session import ReadSession
from src.database.session.scopes import read_engine
from tests.acceptance.counting_relay import Relay

TERMINATE = (
    "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = current_database() AND usename = 'thea_app'"
)


@pytest.fixture
async def user_id(relay: Relay) -> UUID:
    async with get_db() as session:
        return (await UserRepository(session).add(User(telegram_id=1))).id


async def read(user_id: UUID) -> User | None:
    async with get_read_db() as session:
        return await UserRepository(session).get_or_none(user_id)


async def cost(relay: Relay, work: Callable[[], Awaitable[Any]]) -> int:
    """Return the round trips of work that has run before on the same connection."""
    for _ in range(2):
        relay.sent.clear()
        await work()
    return len(relay.sent)


READS: dict[str, Callable[[ReadSession, UUID], Awaitable[Any]]] = {
    "by id": lambda session, user_id: UserRepository(session).get_or_none(user_id),
    "by several ids": lambda session, user_id: UserRepository(session).get_many([user_id]),
    "with a condition": lambda session, user_id: UserRepository(session).page(User.id == user_id),
    "with a cursor": lambda session, _: UserRepository(session).page(User.telegram_id == 1, order_by=User.created_at),
}


@pytest.mark.fast_path
@pytest.mark.parametrize("way", READS)
async def test_a_repositorys_read_is_one_round_trip_whatever_tenant_the_connection_served_before(
    relay: Relay, user_id: UUID, way: str
) -> None:
    other = uuid7()
    costs, found = [], []
    for tenant in (None, other, None, other, None):
        relay.sent.clear()
        with tenant_context(tenant) if tenant else nullcontext():
            async with get_read_db() as session:
                found.append(await READS[way](session, user_id))
        costs.append(len(relay.sent))

    assert costs[2:] == [1, 1, 1], "the first two prepare the statement"
    assert [bool(getattr(one, "items", one)) for one in found] == [True, False, True, False, True]
    assert relay.starts == 2, "one connection of each engine"


@pytest.mark.fast_path
async def test_a_read_within_a_callers_transaction_is_one_more_statement_of_it(relay: Relay, user_id: UUID) -> None:
    async def read_around_a_statement() -> None:
        async with get_read_db() as session:
            await UserRepository(session).get(user_id)
            await session.execute(text("SELECT 1"))
            await UserRepository(session).get(user_id)

    assert await cost(relay, read_around_a_statement) == 5, (
        "the read, BEGIN with the binding, the statement, the read, ROLLBACK"
    )


async def test_a_read_session_continues_after_an_error_and_after_the_end_of_its_transaction(
    relay: Relay, user_id: UUID
) -> None:
    tenant = text("SELECT current_setting('app.tenant_id')")
    async with get_read_db() as session:
        for sql in ("SELECT 1 / 0", "ROLLBACK", "SELECT 1 / 0", "COMMIT"):
            with suppress(DatabaseError):
                await session.execute(text(sql))
            assert (await UserRepository(session).get(user_id)).id == user_id
            assert await session.scalar(tenant) == str(session.tenant_id)


async def test_two_tenants_on_one_connection_see_their_own_rows_whatever_is_cancelled(
    relay: Relay, user_id: UUID
) -> None:
    other = uuid7()
    async with get_db() as session:
        session.add(Tenant(id=other, slug="other", name="Other"))
    with tenant_context(other):
        async with get_db() as session:
            other_id = (await UserRepository(session).add(User(telegram_id=2))).id
    expected = {None: user_id, other: other_id}
    seen: list[tuple[UUID | None, set[UUID]]] = []

    async def check_rows(tenant: UUID | None, *, by_itself: bool) -> None:
        with tenant_context(tenant) if tenant else nullcontext():
            async with get_read_db() as session:
                if by_itself:
                    seen.append((tenant, set((await session.scalars(select(User.id))).all())))
                seen.append((tenant, {user.id for user in (await UserRepository(session).page()).items}))

    began = time.perf_counter()
    await check_rows(None, by_itself=True)
    usual = time.perf_counter() - began
    dice = random.Random(11)  # noqa: S311 - chances, no secrets
    for _ in range(100):
        task = asyncio.create_task(check_rows(dice.choice([None, other]), by_itself=dice.random() < 0.5))
        await asyncio.sleep(dice.random() * 2 * usual)
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
    await check_rows(other, by_itself=True)

    assert len(seen) > 10
    assert all(ids == {expected[tenant]} for tenant, ids in seen)


@pytest.mark.fast_path
async def test_a_repositorys_write_is_begin_with_the_binding_the_statement_and_commit(
    relay: Relay, user_id: UUID
) -> None:
    async def add() -> None:
        async with get_db() as session:
            await NoteRepository(session).add(Note(user_id=user_id, content="milk"))

    async def change() -> None:
        async with get_db() as session:
            await UserRepository(session).set_timezone(user_id, "Europe/Madrid")

    assert await cost(relay, add) == 3
    assert await cost(relay, change) == 3


async def by_execute(session: ReadSession, stolen: str) -> None:
    await session.execute(text(f"SELECT set_config('app.tenant_id', '{stolen}', false)"))


async def by_connection(session: ReadSession, stolen: str) -> None:
    connection = await session.connection()
    await connection.exec_driver_sql(f"SELECT set_config('app.tenant_id', '{stolen}', false)")


async def by_run_sync(session: ReadSession, stolen: str) -> None:
    await session.run_sync(lambda sync: sync.connection().exec_driver_sql(f"SET app.tenant_id = '{stolen}'"))


async def by_driver(session: ReadSession, stolen: str) -> None:
    raw = await (await session.connection()).get_raw_connection()
    await raw.driver_connection.execute(f"SET app.tenant_id = '{stolen}'")  # type: ignore[union-attr] # it is there


class Rebinding(FunctionElement[str]):
    """SQL that a service defines itself, which the check of conditions does not see."""

    inherit_cache = True
    name = "rebinding"


@compiles(Rebinding)
def compile_rebinding(element: Rebinding, compiler: Any, **options: Any) -> str:
    return f"set_config('app.tenant_id', {compiler.process(element.clauses, **options)}, false)"


async def by_condition(session: ReadSession, stolen: str) -> None:
    await UserRepository(session).page(Rebinding(literal(stolen)) != User.display_name)


async def by_engine(_session: ReadSession, stolen: str) -> None:
    async with read_engine.connect() as connection:
        await connection.execute(text(f"SET app.tenant_id = '{stolen}'"))


WAYS = [by_execute, by_connection, by_run_sync, by_driver, by_condition, by_engine]


@pytest.mark.parametrize("way", WAYS, ids=[way.__name__ for way in WAYS])
@pytest.mark.parametrize("reads_first", [False, True])
async def test_a_callers_own_sql_leaves_no_tenant_on_the_connection(
    relay: Relay, user_id: UUID, way: Callable[[ReadSession, str], Awaitable[None]], reads_first: bool
) -> None:
    other = uuid7()
    async with get_db() as session:
        session.add(Tenant(id=other, slug="other", name="Other"))
    async with get_read_db() as session:
        if reads_first and way is not by_engine:  # the only connection of the pool is in use
            await UserRepository(session).get(user_id)
        await way(session, str(other))

    found = await read(user_id)

    assert found is not None, "row-level security uses the tenant of the next session"
    assert relay.starts == 2, "the same connections served throughout, one of each engine"


async def test_a_connection_terminated_while_idle_is_replaced_without_an_error(
    relay: Relay, user_id: UUID, superuser: psycopg.Connection
) -> None:
    async def by_sqlalchemy() -> None:
        async with get_read_db() as session:
            assert await session.scalar(text("SELECT 1")) == 1

    async def by_repository() -> None:
        await read(user_id)

    for again in (by_repository, by_sqlalchemy):
        for _ in range(5):  # at any point of the driver
            await read(user_id)
            superuser.execute(TERMINATE)
            await again()


async def test_a_session_that_continues_after_a_lost_connection_gets_our_error(
    relay: Relay, user_id: UUID, superuser: psycopg.Connection
) -> None:
    async with get_read_db() as session:
        users = UserRepository(session)
        await session.execute(text("SELECT 1"))
        superuser.execute(TERMINATE)
        with pytest.raises(ConnectionFailed):
            await session.execute(text("SELECT 1"))
        for go_on in (users.count(), users.get_or_none(user_id), session.execute(text("SELECT 1"))):
            with pytest.raises(DatabaseError):
                await go_on
