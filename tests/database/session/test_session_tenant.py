"""The tenant of a session: taken at its first use of any kind, and written to every row."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

import psycopg
import pytest
from sqlalchemy import URL
from sqlalchemy.ext.asyncio import AsyncEngine
from sqlalchemy.orm import make_transient_to_detached

from src.database import AsyncSession, get_db, run_transaction, tenant_context
from src.database.base import uuid7
from src.database.errors import TenantMismatchError
from src.database.models import Tenant, User
from src.database.observability.observers import Unit
from src.database.repositories import UserRepository
from src.database.session import TenantBinding

A, B, DEFAULT = uuid7(), uuid7(), uuid7()
ID = uuid7()

USES: dict[str, Callable[[Any], object]] = {
    "add": lambda session: session.add(User(id=ID)),
    "add_all": lambda session: session.add_all([User(id=ID)]),
    "merge": lambda session: session.merge(User(id=ID)),
    "merge_all": lambda session: session.merge_all([User(id=ID)]),
    "merge without a query": lambda session: session.merge(detached_user(), load=False),
    "delete": lambda session: session.delete(detached_user()),
    "delete_all": lambda session: session.delete_all([detached_user()]),
    "get": lambda session: session.get(User, ID),
    "the repository's count": lambda session: UserRepository(session).count(),
}


def detached_user() -> User:
    """Return a row as another session of tenant A would have loaded it."""
    user = User(tenant_id=A, id=ID)
    make_transient_to_detached(user)
    return user


async def use(session: AsyncSession, how: str) -> None:
    done = USES[how](session)
    if isinstance(done, Awaitable):
        await done


@pytest.fixture
async def session(shared_engine: AsyncEngine) -> AsyncIterator[AsyncSession]:
    """A session with a default tenant; its changes are rolled back."""
    async with (
        shared_engine.connect() as connection,
        AsyncSession(bind=connection, expire_on_commit=False, binding=TenantBinding(DEFAULT)) as session,
    ):
        yield session


@pytest.mark.parametrize("how", USES)
async def test_takes_the_tenant_of_its_first_use(session: AsyncSession, how: str) -> None:
    with tenant_context(A):
        await use(session, how)

    assert session.tenant_id == A
    with tenant_context(B), pytest.raises(TenantMismatchError):
        _ = session.tenant_id


@pytest.mark.parametrize("how", USES)
async def test_refuses_each_use_under_another_tenant(session: AsyncSession, how: str) -> None:
    with tenant_context(A):
        assert session.tenant_id == A

    with tenant_context(B), pytest.raises(TenantMismatchError, match=f"the session belongs to tenant {A}"):
        await use(session, how)


async def test_refuses_a_flush_under_another_tenant(session: AsyncSession) -> None:
    with tenant_context(A):
        session.add(User())

    with tenant_context(B), pytest.raises(TenantMismatchError):
        await session.commit()


async def test_completes_each_row_that_merge_all_copies(session: AsyncSession) -> None:
    with tenant_context(A), session.no_autoflush:
        merged = await session.merge_all([User(id=ID), User(id=uuid7())])

    assert [user.tenant_id for user in merged] == [A, A]


async def test_observing_a_session_does_not_make_it_take_a_tenant(session: AsyncSession) -> None:
    assert Unit(session.sync_session).tenant is None

    with tenant_context(A):
        session.add(User())
    assert Unit(session.sync_session).tenant == A


@pytest.fixture
async def registered(cloned_database: URL) -> None:
    """A and B are tenants of the cloned database."""
    async with get_db() as session:
        session.add_all([Tenant(id=A, slug="a", name="A"), Tenant(id=B, slug="b", name="B")])


@pytest.mark.usefixtures("registered")
async def test_a_row_is_written_for_the_tenant_under_which_it_was_added(superuser: psycopg.Connection) -> None:
    async def add(session: AsyncSession) -> None:
        with tenant_context(A):
            session.add(User())

    async with get_db() as session:
        await add(session)
    await run_transaction(add)
    with tenant_context(B), pytest.raises(TenantMismatchError):
        async with get_db() as session:
            await add(session)

    assert superuser.execute("SELECT tenant_id, count(*) FROM users GROUP BY 1").fetchall() == [(A, 2)]
