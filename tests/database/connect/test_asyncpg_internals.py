"""A canary for each private name of asyncpg: the name still means what `asyncpg_internals.py` uses it for."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import AbstractContextManager
from typing import Any

import asyncpg
import pytest
from sqlalchemy import URL

from src.config import Settings
from src.database import create_engine
from src.database.connect.asyncpg_internals import BoundTransaction, DriverConnection
from tests.canary import canary


def private(name: str) -> AbstractContextManager[None]:
    remedy = "nothing does without it: asyncpg is pinned in pyproject.toml"
    return canary("asyncpg", name, used_in="src/database/connect/asyncpg_internals.py", remedy=remedy)


@pytest.fixture
async def connection(cloned_database: URL) -> AsyncIterator[DriverConnection]:
    engine = create_engine(Settings(ENVIRONMENT="test", DATABASE_URL=cloned_database))
    opened = await engine.open_connection()
    assert isinstance(opened, DriverConnection)
    yield opened
    await opened.close()
    await engine.dispose()


async def test_constructor(connection: DriverConnection) -> None:
    with private("Connection.__init__(protocol, transport, loop, ...)"):
        assert connection.loop is asyncio.get_running_loop()
        assert connection.transport.get_extra_info("socket").fileno() > 0
        await connection.close()
        assert connection.transport.is_closing()


async def test_queries_count(connection: DriverConnection) -> None:
    with private("Protocol.queries_count"):
        before = connection.statements_sent
        statement = await connection.prepare("SELECT 1")
        assert connection.statements_sent == before
        await statement.fetch()
        assert connection.statements_sent == before + 1
        await connection.close()
        assert connection.statements_sent >= before + 1


async def test_command_timeout(connection: DriverConnection) -> None:
    with private("Connection._config.command_timeout"):
        assert connection.take_command_timeout() is not None
        assert connection.take_command_timeout() is None
        assert await connection.fetchval("SELECT 1") == 1


async def test_cancellations(connection: DriverConnection) -> None:
    with private("Connection._cancellations"):
        assert not connection.cancel_requests
        sleeping = asyncio.ensure_future(connection.execute("SELECT pg_sleep(60)"))
        await asyncio.sleep(0.1)
        sleeping.cancel()
        with pytest.raises(asyncio.CancelledError):
            await sleeping

        [request] = connection.cancel_requests
        await request

        assert not connection.cancel_requests


async def test_introspect_types(connection: DriverConnection, monkeypatch: pytest.MonkeyPatch) -> None:
    with private("Connection._introspect_types"):
        introspect = asyncpg.Connection._introspect_types
        during: list[bool] = []

        async def record(driver: Any, *arguments: Any) -> Any:
            during.append(driver.is_introspecting)
            return await introspect(driver, *arguments)

        monkeypatch.setattr(asyncpg.Connection, "_introspect_types", record)
        await connection.fetch("SELECT int4range(1, 2)")

        assert during == [True]
        assert not connection.is_introspecting


@pytest.mark.parametrize(
    ("isolation", "readonly", "expected"),
    [(None, False, ("read committed", "off")), ("repeatable_read", True, ("repeatable read", "on"))],
)
async def test_transaction(connection: DriverConnection, isolation: str | None, readonly: bool, expected: Any) -> None:
    with private("Transaction._connection, _isolation, _readonly, _deferrable, _state, Connection._top_xact"):
        transaction = BoundTransaction(connection, isolation, readonly, deferrable=False)
        await transaction.start_with("SELECT set_config('app.of_the_transaction', 'set', true)")
        names = ("transaction_isolation", "transaction_read_only", "app.of_the_transaction")
        found = [await connection.fetchval("SELECT current_setting($1)", name) for name in names]
        async with connection.transaction():  # a savepoint, since the driver knows of the transaction
            assert connection.is_in_transaction()
        await transaction.rollback()

        assert found == [*expected, "set"]
        assert not connection.is_in_transaction()
