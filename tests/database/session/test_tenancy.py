"""The current tenant, the session that keeps it, and row-level security."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncGenerator
from uuid import UUID

import psycopg
import pytest
from sqlalchemy import func, select, text
from sqlalchemy.ext.asyncio import AsyncEngine
from sqlalchemy.orm import selectinload

from src.database import current_tenant, tenant_context
from src.database.base import Base, uuid7
from src.database.errors import CheckViolation, ForeignKeyError, NoTenantError, TenantMismatchError
from src.database.models import Conversation, Event, Note, Tenant, User
from src.database.repositories import UserRepository
from src.database.session import AsyncSession
from tests.database.conftest import A, B

C = uuid7()


@pytest.fixture
async def user_of_b(engine: AsyncEngine) -> UUID:
    with tenant_context(B):
        async with AsyncSession(engine) as session:
            return (await UserRepository(session).get_one()).id


def test_the_innermost_context_sets_the_tenant() -> None:
    assert current_tenant() is None
    with tenant_context(A):
        with tenant_context(B):
            assert current_tenant() == B
        assert current_tenant() == A
    assert current_tenant() is None


def test_refuses_a_tenant_that_is_not_a_uuid() -> None:
    with pytest.raises(TypeError, match=r"tenant_id must be a uuid\.UUID, got str"), tenant_context("x"):  # type: ignore[arg-type] # what is tested
        pass


async def yield_tenant(tenant_id: UUID) -> AsyncGenerator[None]:
    with tenant_context(tenant_id):
        yield
        yield


async def test_a_generator_that_is_closed_in_another_task_ends_its_block_without_an_error() -> None:
    generator = yield_tenant(A)
    await anext(generator)
    assert current_tenant() == A

    await asyncio.create_task(generator.aclose())

    assert current_tenant() is None


async def test_a_generator_whose_steps_are_in_other_contexts_ends_its_block_without_an_error() -> None:
    generator = yield_tenant(A)
    with tenant_context(B):
        for _ in range(2):
            await asyncio.create_task(anext(generator))
        await generator.aclose()
        assert current_tenant() == B

    assert current_tenant() is None


async def test_blocks_that_end_out_of_order_do_not_affect_each_other() -> None:
    """The innermost open block sets the tenant, whichever block was opened or closed last."""
    generator = yield_tenant(A)
    with tenant_context(C):
        await anext(generator)
        with tenant_context(B):
            await generator.aclose()
            assert current_tenant() == B
        assert current_tenant() == C
    assert current_tenant() is None


async def test_a_task_keeps_its_tenant_after_the_block_that_started_it() -> None:
    ended = asyncio.Event()

    async def act() -> list[UUID | None]:
        await ended.wait()
        seen = [current_tenant()]
        with tenant_context(B):
            seen.append(current_tenant())
        return [*seen, current_tenant()]

    with tenant_context(C), tenant_context(A):
        task = asyncio.create_task(act())
        await asyncio.sleep(0)
    ended.set()

    assert await task == [A, B, A]


async def test_a_thread_keeps_its_tenant_after_the_block_that_started_it() -> None:
    ended = threading.Event()

    def act() -> UUID | None:
        ended.wait()
        return current_tenant()

    with tenant_context(A):
        thread = asyncio.create_task(asyncio.to_thread(act))
        await asyncio.sleep(0)
    ended.set()

    assert await thread == A


async def test_each_tenant_sees_its_own_rows(engine: AsyncEngine) -> None:
    for tenant in (A, B):
        with tenant_context(tenant):
            async with AsyncSession(engine) as session:
                assert [user.tenant_id for user in await session.scalars(select(User))] == [tenant]
                assert await session.scalar(text("SELECT count(*) FROM users")) == 1


async def test_concurrent_tasks_have_their_own_tenants(engine: AsyncEngine) -> None:
    async def check(tenant: UUID) -> None:
        with tenant_context(tenant):
            for _ in range(5):
                async with AsyncSession(engine) as session:
                    assert [user.tenant_id for user in await session.scalars(select(User))] == [tenant]

    await asyncio.gather(*(check(tenant) for tenant in (A, B) * 10))


async def test_without_a_tenant_nothing_is_read_or_written(engine: AsyncEngine) -> None:
    async with AsyncSession(engine) as session:
        assert await session.scalar(text("SELECT count(*) FROM users")) == 0
        with pytest.raises(NoTenantError, match="there is no current tenant"):
            await session.scalars(select(User))
        with pytest.raises(NoTenantError):
            await session.get(User, uuid7())
        with pytest.raises(NoTenantError):
            await UserRepository(session).count()
        with pytest.raises(NoTenantError):
            _ = session.tenant_id
        session.add(User())
        with pytest.raises(NoTenantError):
            await session.flush()


async def test_raw_sql_without_a_tenant_cannot_write(engine: AsyncEngine) -> None:
    async with AsyncSession(engine) as session:
        with pytest.raises(CheckViolation, match="row-level security refused the row"):
            await session.execute(
                text("INSERT INTO users (tenant_id, id) VALUES (:tenant, :id)"), {"tenant": A, "id": uuid7()}
            )


async def test_raw_sql_cannot_write_for_another_tenant(engine: AsyncEngine) -> None:
    with tenant_context(A):
        async with AsyncSession(engine) as session:
            with pytest.raises(CheckViolation):
                await session.execute(
                    text("INSERT INTO users (tenant_id, id) VALUES (:b, :id)"), {"b": B, "id": uuid7()}
                )
        async with AsyncSession(engine) as session:
            changed = await session.execute(text("UPDATE users SET username = 'x' WHERE tenant_id = :b"), {"b": B})
            assert changed.rowcount == 0  # type: ignore[attr-defined] # a CursorResult
            with pytest.raises(CheckViolation):
                await session.execute(text("UPDATE users SET tenant_id = :b"), {"b": B})


async def test_the_registry_is_readable_without_a_tenant(engine: AsyncEngine) -> None:
    async with AsyncSession(engine) as session:
        assert set(await session.scalars(select(Tenant.id))) >= {A, B}


async def test_merge_completes_the_key(engine: AsyncEngine, user_of_b: UUID) -> None:
    with tenant_context(B):
        async with AsyncSession(engine) as session:
            merged = await session.merge(User(id=user_of_b, username="merged"))
            assert merged.tenant_id == B
            await session.commit()
            assert await UserRepository(session).count() == 1


async def test_a_bare_id_is_completed_with_the_tenant(engine: AsyncEngine, user_of_b: UUID) -> None:
    with tenant_context(B):
        async with AsyncSession(engine) as session:
            user = await session.get(User, user_of_b)
            assert user is not None
            assert await session.get(User, (B, user_of_b)) is user
            assert await session.get(User, {"id": user_of_b}) is user
            assert await session.get_one(User, user_of_b) is user
            assert await session.get(User, user_of_b, options=[selectinload(User.events)]) is user
    with tenant_context(A):
        async with AsyncSession(engine) as session:
            assert await session.get(User, user_of_b) is None
            assert await session.get(User, (B, user_of_b)) is None
            assert await session.get(Tenant, A) is not None


async def test_a_row_of_another_tenant_is_refused_at_flush(engine: AsyncEngine, user_of_b: UUID) -> None:
    with tenant_context(A):
        async with AsyncSession(engine) as session:
            session.add(User(tenant_id=B))
            with pytest.raises(TenantMismatchError, match="a User of tenant"):
                await session.flush()
        async with AsyncSession(engine) as session:
            own = await UserRepository(session).get_one()
            own.tenant_id = B
            with pytest.raises(TenantMismatchError):
                await session.flush()


@pytest.mark.parametrize(
    "row",
    [
        lambda user: Conversation(user_id=user, channel="x", session_id="x"),
        lambda user: Event(user_id=user, title="x", start_datetime=func.now()),
        lambda user: Note(user_id=user, content="x"),
    ],
)
async def test_a_reference_to_another_tenants_row_is_refused_by_the_database(
    engine: AsyncEngine, user_of_b: UUID, row: object
) -> None:
    with tenant_context(A):
        async with AsyncSession(engine) as session:
            session.add(row(user_of_b))  # type: ignore[operator] # a factory
            with pytest.raises(ForeignKeyError):
                await session.flush()


@pytest.fixture
def without_row_level_security(superuser: psycopg.Connection) -> None:
    for table in Base.metadata.sorted_tables:
        superuser.execute(f"ALTER TABLE {table.name} DISABLE ROW LEVEL SECURITY")


@pytest.mark.usefixtures("without_row_level_security")
async def test_eager_loading_stays_within_the_tenant_without_row_level_security(
    engine: AsyncEngine, superuser: psycopg.Connection
) -> None:
    """The keys start with the tenant: the same user id in two tenants does not mix their rows."""
    shared_id = uuid7()
    for tenant in (A, B):
        with tenant_context(tenant):
            async with AsyncSession(engine) as session:
                session.add(User(id=shared_id))
                session.add(Note(user_id=shared_id, content=f"of {tenant}"))
                await session.commit()

    with tenant_context(A):
        async with AsyncSession(engine) as session:
            user = await session.get(User, shared_id, options=[selectinload(User.notes), selectinload(User.messages)])
    assert user is not None
    assert [note.content for note in user.notes] == [f"of {A}"]
    assert user.messages == []
