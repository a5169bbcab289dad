"""The binding of a session's transactions to its tenant, and its end."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from uuid import UUID

import psycopg
import pytest
from sqlalchemy import select, text
from sqlalchemy.ext.asyncio import AsyncEngine

from src.config import Settings, get_settings
from src.database import get_db, tenant_context
from src.database.base import uuid7
from src.database.errors import TenantMismatchError
from src.database.models import User
from src.database.repositories import UserRepository
from src.database.session import AsyncSession, TenantBinding, resolve_target
from tests.conftest import url_of
from tests.connecting import connect
from tests.database.conftest import COUNT, A, B


async def test_a_session_keeps_the_tenant_of_its_first_statement(engine: AsyncEngine) -> None:
    async with AsyncSession(engine) as session:
        with tenant_context(A):
            user = await UserRepository(session).get_one()
        assert await UserRepository(session).get_one() is user
        user_id = user.id
        await session.commit()
        assert (await session.scalars(select(User.tenant_id))).all() == [A]
        with tenant_context(B):
            with pytest.raises(TenantMismatchError, match="the session belongs to tenant"):
                await session.scalars(select(User))
            with pytest.raises(TenantMismatchError):
                await session.execute(text("SELECT 1"))
            with pytest.raises(TenantMismatchError):
                await session.get(User, user_id)
            user.username = "x"
            with pytest.raises(TenantMismatchError):
                await session.flush()


async def test_a_transaction_that_began_without_a_tenant_is_bound_once_there_is_one(engine: AsyncEngine) -> None:
    async with AsyncSession(engine) as session:
        assert await session.scalar(text("SELECT count(*) FROM users")) == 0
        with tenant_context(A):
            assert await session.scalar(text("SELECT count(*) FROM users")) == 1


async def test_a_binding_ends_with_its_transaction(engine: AsyncEngine) -> None:
    async with engine.connect() as connection:
        with tenant_context(A):
            async with AsyncSession(connection) as session:
                assert await session.scalar(text("SELECT count(*) FROM users")) == 1
                await session.commit()
        assert await connection.scalar(text("SELECT count(*) FROM users")) == 0


async def test_a_savepoint_that_is_rolled_back_leaves_the_binding(engine: AsyncEngine) -> None:
    with tenant_context(A):
        async with AsyncSession(engine) as session:
            await session.scalar(text("SELECT 1"))
            async with session.begin_nested() as savepoint:
                await session.scalar(text("SELECT 1"))
                await savepoint.rollback()
            assert await session.scalar(text("SELECT count(*) FROM users")) == 1


async def test_without_a_tenant_no_row_is_visible_on_a_connection_that_was_bound(engine: AsyncEngine) -> None:
    """Bound by an earlier session in the same transaction, or by a caller's SET."""
    async with engine.connect() as connection:
        await connection.begin()
        with tenant_context(A):
            async with AsyncSession(connection, join_transaction_mode="create_savepoint") as session:
                assert await session.scalar(COUNT) == 1
                await session.commit()
        async with AsyncSession(connection, join_transaction_mode="create_savepoint") as session:
            assert await session.scalar(COUNT) == 0
        await connection.rollback()
        await connection.execute(text(f"SET app.tenant_id = '{A}'"))
        await connection.commit()
        async with AsyncSession(connection) as session:
            assert await session.scalar(COUNT) == 0


async def test_rolling_back_a_savepoint_keeps_the_binding(engine: AsyncEngine) -> None:
    async with AsyncSession(engine) as session:
        savepoint = await session.begin_nested()
        assert await session.scalar(COUNT) == 0
        with tenant_context(A):
            assert await session.scalar(COUNT) == 1
            await savepoint.rollback()
            assert await session.scalar(COUNT) == 1


async def test_default_tenants_with_the_same_end_do_not_conflict(engine: AsyncEngine) -> None:
    for start in ("0", "1"):
        binding = TenantBinding(UUID(f"{start}0000000-0000-4000-8000-000000000009"))
        async with AsyncSession(engine, binding=binding) as session:
            session.add(User())
            await session.commit()


@pytest.mark.usefixtures("cloned_database")
async def test_concurrent_sessions_register_the_default_tenant_once() -> None:
    target = resolve_target(get_settings())
    connections = [await connect(target) for _ in range(8)]
    defaults = [uuid7() for _ in range(40)]

    for default in defaults:
        binding = TenantBinding(default)
        await asyncio.gather(*(binding.prepare(connection) for connection in connections))

    assert await connections[0].fetchval("SELECT count(*) FROM tenants WHERE id = ANY ($1)", defaults) == 40
    for connection in connections:
        await connection.close()


async def test_a_registered_default_tenant_needs_no_privilege_to_register(
    engine: AsyncEngine, superuser: psycopg.Connection
) -> None:
    superuser.execute("REVOKE INSERT ON tenants FROM thea_app")

    async with AsyncSession(engine, binding=TenantBinding(A)) as session:
        assert await session.scalar(COUNT) == 1


async def test_the_default_tenant_is_used_and_registered_at_the_first_use(
    engine: AsyncEngine, superuser: psycopg.Connection
) -> None:
    default = uuid7()
    binding = TenantBinding(default)

    async with AsyncSession(engine, binding=binding) as session:
        session.add(User())
        await session.flush()
        assert session.tenant_id == default
        registered = superuser.execute("SELECT name FROM tenants WHERE id = %s", (default,)).fetchone()
        assert registered == ("Default",), "immediately: no other session waits for this one's transaction"
    with tenant_context(A):
        async with AsyncSession(engine, binding=binding) as session:
            assert session.tenant_id == A


async def test_works_before_the_first_migration(use_database: Callable[..., Settings]) -> None:
    """`SELECT 1` works on an empty database: there is no function to bind with, and no row to protect."""
    use_database(url_of("postgres"))

    async with get_db() as session:
        assert await session.scalar(text("SELECT 1")) == 1
