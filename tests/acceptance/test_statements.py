"""The number of SQL statements of each method of a repository and of the store."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from contextlib import suppress
from typing import Any

import pytest
from sqlalchemy import URL, event

from src.database import engine, get_db
from src.database.errors import ForeignKeyError
from src.database.models import User
from src.database.repositories import Repository, TenantRepository, UserRepository
from src.database.session import AsyncSession
from tests.acceptance.calls import CALLS, REGISTRY_CALLS, STORE_CALLS, Call, fill, missing_calls
from tests.acceptance.calls.store import recorded_store

CASES = [
    pytest.param(repository, call, id=f"{repository.__name__}.{name}")
    for repository, calls in CALLS.items()
    for name, call in calls.items()
]
MAKING_ROWS = [
    ("add", 1, lambda users: users.add(User())),
    ("add_many", 1, lambda users: users.add_many([User() for _ in range(100)])),
    ("upsert, inserted", 1, lambda users: users.upsert({"telegram_id": 2}, key=["telegram_id"])),
    ("upsert, updated", 1, lambda users: users.upsert({"telegram_id": 1, "username": "x"}, key=["telegram_id"])),
    ("upsert, unchanged", 2, lambda users: users.upsert({"telegram_id": 1}, key=["telegram_id"])),
    ("get_or_create, created", 1, lambda users: users.get_or_create_by_telegram_id(2)),
    ("get_or_create, found", 1, lambda users: users.get_or_create_by_telegram_id(1)),
]


@pytest.mark.parametrize(("repository", "call"), CASES)
async def test_the_number_of_statements(session: AsyncSession, repository: type[Repository[Any]], call: Call) -> None:
    rows = await fill(session)

    sent = await statements_sent(session, lambda: call.run(repository(session), rows))

    assert len(sent) == call.statements, "\n".join(sent)


@pytest.mark.parametrize(("name", "number", "make"), MAKING_ROWS, ids=[name for name, *_ in MAKING_ROWS])
async def test_the_number_of_statements_that_make_rows(
    session: AsyncSession, name: str, number: int, make: Callable[[UserRepository], Awaitable[Any]]
) -> None:
    await fill(session)

    sent = await statements_sent(session, lambda: make(UserRepository(session)))

    assert len(sent) == number, "\n".join(sent)


@pytest.mark.parametrize("name", REGISTRY_CALLS)
async def test_the_number_of_statements_of_the_registry(session: AsyncSession, name: str) -> None:
    call, rows = REGISTRY_CALLS[name], await fill(session)

    async def work() -> None:
        with suppress(ForeignKeyError):  # a tenant with users is not deleted
            await call.run(TenantRepository(session), rows)

    sent = await statements_sent(session, work)

    assert len(sent) == call.statements, "\n".join(sent)


async def test_the_number_of_statements_of_the_store(cloned_database: URL) -> None:
    """One test for all calls: the store commits and needs its own database."""
    number = {}
    async with get_db() as session:
        rows = await fill(session)
    async with recorded_store() as (store, sent):
        for name, call in STORE_CALLS.items():
            sent.clear()
            await call.run(store, rows)
            number[name] = len(sent)
    await engine.dispose()

    assert number == {name: call.statements for name, call in STORE_CALLS.items()}


def test_the_statements_of_every_public_method_are_counted() -> None:
    assert missing_calls() == []


async def statements_sent(session: AsyncSession, work: Callable[[], Awaitable[Any]]) -> list[str]:
    session.expunge_all()
    sent: list[str] = []
    connection = (await session.connection()).sync_connection
    event.listen(connection, "before_cursor_execute", lambda *cursor: sent.append(cursor[2]))
    await work()
    return sent
