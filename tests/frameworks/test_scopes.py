"""get_db and get_read_db as dependencies of Litestar, taskiq and FastStream: commit, and rollback on an exception."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Annotated, Any

import pytest
from faststream import Depends
from faststream.redis import RedisBroker, TestRedisBroker
from litestar import Litestar, post
from litestar.di import NamedDependency, Provide
from litestar.params import FromPath
from litestar.status_codes import HTTP_201_CREATED, HTTP_500_INTERNAL_SERVER_ERROR
from litestar.testing import AsyncTestClient
from sqlalchemy import URL
from taskiq import InMemoryBroker, TaskiqDepends

from src.database import AsyncSession, get_db, get_read_db
from src.database.models import User
from src.database.repositories import UserRepository

Call = Callable[[str], Awaitable[int]]
"""Adds a user with this name, fails after it if the name is `fails`, and returns the number of users at its begin."""


async def add(session: AsyncSession, reading: AsyncSession, name: str) -> int:
    number = await UserRepository(reading).count()
    await UserRepository(session).add(User(username=name))
    if name == "fails":
        raise ArithmeticError(name)
    return number


@post("/{name:str}", dependencies={"session": Provide(get_db), "reading": Provide(get_read_db)})
async def litestar_handler(
    session: NamedDependency[AsyncSession], reading: NamedDependency[AsyncSession], name: FromPath[str]
) -> int:
    return await add(session, reading, name)


async def call_litestar(name: str) -> int:
    async with AsyncTestClient(Litestar([litestar_handler])) as client:
        response = await client.post(f"/{name}")
    if response.status_code == HTTP_500_INTERNAL_SERVER_ERROR:
        raise ArithmeticError(name)
    assert response.status_code == HTTP_201_CREATED
    return int(response.text)


async def call_taskiq(name: str) -> int:
    async def run(
        name: str,
        session: Annotated[AsyncSession, TaskiqDepends(get_db)],
        reading: Annotated[AsyncSession, TaskiqDepends(get_read_db)],
    ) -> int:
        return await add(session, reading, name)

    broker = InMemoryBroker()
    task: Any = broker.task(run)
    await broker.startup()
    result = await (await task.kiq(name)).wait_result()
    await broker.shutdown()
    result.raise_for_error()
    return int(result.return_value)


async def call_faststream(name: str) -> int:
    broker, results = RedisBroker(), list[int]()

    @broker.subscriber("users")
    async def run(
        name: str,
        session: Annotated[AsyncSession, Depends(get_db)],
        reading: Annotated[AsyncSession, Depends(get_read_db)],
    ) -> None:
        results.append(await add(session, reading, name))

    async with TestRedisBroker(broker):
        await broker.publish(name, "users")
    return results[0]


@pytest.mark.parametrize("call", [call_litestar, call_taskiq, call_faststream])
async def test_a_dependency_commits_and_rolls_back(cloned_database: URL, call: Call) -> None:
    assert await call("first") == 0
    with pytest.raises(ArithmeticError):
        await call("fails")
    assert await call("second") == 1

    async with get_read_db() as session:
        names = {user.username async for user in UserRepository(session).stream()}
    assert names == {"first", "second"}
