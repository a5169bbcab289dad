"""get_read_db: only rows of its tenant, also on a connection that served others; no writes; snapshots."""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import Callable
from uuid import UUID

import pytest
from sqlalchemy import URL, text
from sqlalchemy.orm import selectinload

from src.config import Settings
from src.database import AsyncSession, get_db, get_read_db, tenant_context
from src.database.base import uuid7
from src.database.errors import DatabaseError, NoTenantError
from src.database.models import Note, Tenant, User
from src.database.repositories import NoteRepository, UserRepository
from tests.database.mute_relay import relaying

A, B = uuid7(), uuid7()
COUNT = text("SELECT count(*) FROM users")
NAMES = text("SELECT display_name FROM users")


@pytest.fixture
async def two_tenants(cloned_database: URL, use_database: Callable[..., Settings]) -> URL:
    """One pooled connection for reading, which serves both tenants; A has one user, B has two."""
    url = cloned_database.update_query_dict({"pool_max": "1"})
    use_database(url)
    async with get_db() as session:
        session.add_all([Tenant(id=A, slug="a", name="A"), Tenant(id=B, slug="b", name="B")])
    for tenant, names in ((A, ["a"]), (B, ["b1", "b2"])):
        with tenant_context(tenant):
            async with get_db() as session:
                session.add_all(User(display_name=name) for name in names)
    return url


async def count(tenant: UUID) -> object:
    with tenant_context(tenant):
        async with get_read_db() as session:
            return await session.scalar(COUNT)


async def test_one_connection_serves_each_tenant_only_its_own_rows(two_tenants: URL) -> None:
    assert [await count(tenant) for tenant in (A, B, A, B, B, A)] == [1, 2, 1, 2, 2, 1]
    with tenant_context(A):
        async with get_read_db() as session:
            assert await UserRepository(session).count() == 1


async def test_without_a_tenant_no_row_is_visible(two_tenants: URL, use_database: Callable[..., Settings]) -> None:
    use_database(two_tenants, ENVIRONMENT="staging", DATABASE_URL=two_tenants.render_as_string(hide_password=False))
    await count(A)
    async with get_read_db() as session:
        assert await session.scalar(COUNT) == 0
        with pytest.raises(NoTenantError):
            await UserRepository(session).count()


async def test_a_tenant_that_is_set_later_is_bound_then(two_tenants: URL) -> None:
    async with get_read_db() as session:
        assert await session.scalar(COUNT) == 0, "the default tenant has no user"
        await session.close()
        with tenant_context(B):
            async with get_read_db() as other:
                assert await other.scalar(COUNT) == 2


async def test_a_callers_set_does_not_outlive_its_session(two_tenants: URL) -> None:
    with tenant_context(A):
        async with get_read_db() as session:
            await session.execute(text(f"SET app.tenant_id = '{B}'"))
            await session.execute(text("SET default_transaction_read_only = off"))
        async with get_read_db() as session:
            assert await session.scalar(COUNT) == 1
            with pytest.raises(DatabaseError, match="read-only"):
                await session.execute(text("DELETE FROM users"))


async def test_a_transaction_begun_as_text_does_not_reach_the_next_session(two_tenants: URL) -> None:
    with tenant_context(A):
        async with get_read_db() as session:
            await session.execute(text("BEGIN"))
            assert await session.scalar(COUNT) == 1
    with tenant_context(B):
        async with get_read_db() as session:
            assert await session.scalar(COUNT) == 2
            await session.execute(text("ROLLBACK"))
            assert await session.scalar(COUNT) == 2


async def test_rolling_back_a_savepoint_undoes_a_binding_made_in_it(
    two_tenants: URL, use_database: Callable[..., Settings]
) -> None:
    use_database(two_tenants, ENVIRONMENT="staging")
    async with get_read_db() as session:
        await session.snapshot()
        savepoint = await session.begin_nested()
        await session.execute(text("SELECT 1"))  # only now it is set
        with tenant_context(A):
            assert await session.scalar(COUNT) == 1
            await savepoint.rollback()
            assert await session.scalar(COUNT) == 1


async def test_a_caller_cannot_make_a_snapshot_write(two_tenants: URL) -> None:
    with tenant_context(A):
        async with get_read_db() as session:
            await session.snapshot()
            with pytest.raises(DatabaseError, match="25001"):  # only before any query
                await session.execute(text("SET TRANSACTION READ WRITE"))
            await session.rollback()


@pytest.mark.slow
async def test_random_cancellations_show_no_rows_of_another_tenant(two_tenants: URL) -> None:
    seen: list[tuple[UUID, set[str]]] = []

    async def read(tenant: UUID) -> None:
        with tenant_context(tenant):
            async with get_read_db() as session:
                seen.append((tenant, set((await session.scalars(NAMES)).all())))

    await read(A)
    began = time.perf_counter()
    await read(A)
    usual = time.perf_counter() - began
    dice = random.Random(7)  # noqa: S311 - chances, no secrets
    for _ in range(100):
        task = asyncio.create_task(read(dice.choice([A, B])))
        await asyncio.sleep(dice.random() * max(0.04, 4 * usual))
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
    assert await count(A) == 1

    assert len(seen) > 10
    assert all(names == ({"a"} if tenant == A else {"b1", "b2"}) for tenant, names in seen)


@pytest.mark.parametrize("at_the_end", [True, False])
async def test_a_write_is_refused_by_the_server(two_tenants: URL, at_the_end: bool) -> None:
    async def write() -> None:
        with tenant_context(A):
            async with get_read_db() as session:
                session.add(User(display_name="lost?"))
                if not at_the_end:
                    await session.flush()

    with pytest.raises(DatabaseError, match="the transaction is read-only") as caught:
        await write()

    assert caught.value.sqlstate == "25006"
    assert caught.value.hint is not None
    assert "get_db" in caught.value.hint
    assert await count(A) == 1


async def test_each_statement_sees_the_committed_state_until_there_is_a_snapshot(two_tenants: URL) -> None:
    async def add(session_of: str) -> None:
        with tenant_context(A):
            async with get_db() as session:
                session.add(User(display_name=session_of))

    with tenant_context(A):
        async with get_read_db() as session:
            before = await session.scalar(COUNT)
            await add("first")
            assert await session.scalar(COUNT) == (before or 0) + 1
            assert isinstance(session, AsyncSession)
            await session.snapshot()
            held = await session.scalar(COUNT)
            await add("second")
            assert await session.scalar(COUNT) == held
        assert await count(A) == (held or 0) + 1


async def test_a_row_that_is_read_again_has_its_current_values(two_tenants: URL) -> None:
    async def rename(name: str) -> None:
        async with get_db() as session:
            await UserRepository(session).update(user_id, display_name=name)

    with tenant_context(A):
        async with get_read_db() as reading:
            users, notes = UserRepository(reading), NoteRepository(reading)
            [user] = (await users.page()).items
            user_id = user.id
            await rename("b")
            assert await users.get(user_id) is user
            assert user.display_name == "b"
            await rename("c")
            assert (await reading.get_one(User, user_id)).display_name == "c"
            async with get_db() as session:
                await NoteRepository(session).add(Note(user_id=user_id, content="x"))
            user = await users.get(user_id, options=[selectinload(User.notes).selectinload(Note.user)])
            [note] = user.notes
            assert note.user is user
            await notes.page(options=[selectinload(Note.user)])
            assert user.notes == [note]  # still, and as it was asked for
            await reading.refresh(user)


async def test_a_row_that_is_read_again_in_a_writing_session_keeps_pending_changes(two_tenants: URL) -> None:
    with tenant_context(A):
        async with get_db() as session:
            [user] = (await UserRepository(session).page()).items
            with session.no_autoflush:
                user.display_name = "mine"
                await UserRepository(session).get(user.id)
        async with get_read_db() as reading:
            assert (await UserRepository(reading).get(user.id)).display_name == "mine"


async def test_a_read_session_continues_after_a_caught_error(two_tenants: URL) -> None:
    with tenant_context(A):
        async with get_read_db() as session:
            with pytest.raises(DatabaseError):
                await session.execute(text("SELECT 1 / 0"))
            assert await session.scalar(COUNT) == 1


async def test_a_stream_sees_one_state_and_its_own_tenants_rows(two_tenants: URL) -> None:
    with tenant_context(B):
        async with get_read_db() as session:
            assert await session.scalar(COUNT) == 2
            assert {user.display_name async for user in UserRepository(session).stream()} == {"b1", "b2"}
            assert await session.scalar(COUNT) == 2
    assert await count(A) == 1


async def test_reads_before_the_first_migration(use_database: Callable[..., Settings], two_tenants: URL) -> None:
    use_database(two_tenants.set(database="postgres"))
    async with get_read_db() as session:
        assert await session.scalar(text("SELECT 1")) == 1


async def test_read_your_writes_without_a_replica_is_the_primary(two_tenants: URL) -> None:
    with tenant_context(A):
        async with get_read_db(read_your_writes=True) as session:
            assert await session.scalar(COUNT) == 1


@pytest.mark.parametrize("is_silent", [False, True], ids=["down", "silent"])
async def test_read_your_writes_reads_the_primary_if_the_replica_does_not_answer(
    two_tenants: URL, use_database: Callable[..., Settings], is_silent: bool
) -> None:
    with relaying() as relay:
        relay.fall_silent()
        port = relay.port if is_silent else 1
        use_database(two_tenants, DATABASE_REPLICA_URL=f"postgresql://u@127.0.0.1:{port}/d")
        began = time.monotonic()
        with tenant_context(A):
            async with get_read_db(read_your_writes=True) as session:
                assert await session.scalar(COUNT) == 1
        assert time.monotonic() - began < 5


async def test_read_your_writes_does_not_make_the_session_take_a_tenant(
    two_tenants: URL, use_database: Callable[..., Settings]
) -> None:
    use_database(two_tenants, DATABASE_REPLICA_URL=two_tenants.render_as_string(hide_password=False))
    async with get_read_db(read_your_writes=True) as session:
        with tenant_context(B):
            assert await session.scalar(COUNT) == 2
