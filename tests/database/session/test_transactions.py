"""run_transaction: its tenant, its isolation level, its savepoints, and invalid options."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from typing import Any

import pytest
from sqlalchemy import URL, text

from src.config import Settings
from src.database import AsyncSession, engine, get_db, run_transaction, tenant_context
from src.database.base import uuid7
from src.database.errors import ConnectionFailed, DuplicateKeyError
from src.database.models import Tenant, User
from src.database.repositories import UserRepository
from src.database.session import Retry, transactions


async def add_user(session: AsyncSession, telegram_id: int = 1) -> User:
    return await UserRepository(session).add(User(telegram_id=telegram_id))


@pytest.mark.usefixtures("cloned_database")
async def test_a_unit_may_use_savepoints() -> None:
    async def unit(session: AsyncSession) -> None:
        await add_user(session, 1)
        with pytest.raises(DuplicateKeyError):
            async with session.begin_nested():
                await add_user(session, 1)
        async with session.begin_nested():
            await add_user(session, 2)

    await run_transaction(unit)

    async with get_db() as session:
        assert await UserRepository(session).count() == 2


@pytest.mark.usefixtures("cloned_database")
async def test_the_current_tenant_is_used() -> None:
    tenant = uuid7()
    async with get_db() as session:
        session.add(Tenant(id=tenant, slug=str(tenant), name="Other"))

    with tenant_context(tenant):
        assert (await run_transaction(add_user)).tenant_id == tenant
    async with get_db() as session:
        assert await UserRepository(session).count() == 0


@pytest.mark.parametrize("isolation", ["READ COMMITTED", "REPEATABLE READ", "SERIALIZABLE"])
async def test_the_isolation_level_is_applied_to_this_transaction_alone(
    isolation: transactions.Isolation, cloned_database: URL, use_database: Callable[..., Settings]
) -> None:
    use_database(cloned_database.update_query_dict({"pool_max": "1"}))

    async def level(session: AsyncSession) -> object:
        return await session.scalar(text("SHOW transaction_isolation"))

    assert await run_transaction(level, isolation=isolation) == isolation.lower()
    assert await run_transaction(level) == "read committed"
    await engine.dispose()


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"fn": None}, TypeError, "fn must be an async function that takes a session, got NoneType"),
        ({"retries": -1}, ValueError, "retries must be a whole number from 0 to 1000, or None, got -1"),
        ({"retry_seconds": -1}, ValueError, "retry_seconds must be seconds, 0 or more, got -1"),
        ({"retry_seconds": float("nan")}, ValueError, "retry_seconds must be seconds, 0 or more, got nan"),
        ({"retries": True}, ValueError, "retries must be"),
        ({"isolation": "serializable"}, ValueError, "isolation must be one of READ COMMITTED, .* got 'serializable'"),
        ({"timeout": 0}, ValueError, "timeout must be seconds, above 0, or None, got 0"),
    ],
)
async def test_invalid_options_are_refused(options: dict[str, Any], error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        await run_transaction(**{"fn": add_user, **options})


async def test_a_coroutine_in_place_of_its_function_is_refused_and_nothing_warns() -> None:
    async def unit() -> None:
        raise AssertionError("never run")

    with warnings.catch_warnings():
        warnings.simplefilter("error")
        with pytest.raises(TypeError, match="pass the function itself"):
            await run_transaction(unit())  # type: ignore[arg-type] # that is what is refused


async def test_an_unreachable_server_is_retried_and_then_reported(
    use_database: Callable[..., Settings],
) -> None:
    use_database(URL.create("postgresql+asyncpg", username="u", host="127.0.0.1", port=1, database="d"))
    seen: list[Retry] = []

    with pytest.raises(ConnectionFailed, match="nothing listens there"):
        await run_transaction(add_user, retries=2, on_retry=seen.append)

    assert len(seen) == 2
