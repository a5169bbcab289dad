"""Temporary tables: one that a tenant's SQL left on a pooled connection takes no statement of another tenant."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable

import psycopg
import pytest
from sqlalchemy import URL, text

from src.config import Settings
from src.database import engine, get_db, get_read_db, run_transaction, tenant_context
from src.database.connect import TEMPORARY_LAST
from src.database.models import Note, Tenant, User
from src.database.repositories import NoteRepository, UserRepository
from src.database.session import AsyncSession
from src.database.store import get_store
from tests.database.conftest import A, B

CREATE = (
    "CREATE TEMPORARY TABLE notes (LIKE public.notes INCLUDING ALL)",
    "CREATE TEMPORARY TABLE users (LIKE public.users INCLUDING ALL)",
    "CREATE TEMPORARY TABLE message_history (LIKE public.message_history INCLUDING ALL)",
)


@pytest.fixture
async def one_connection(cloned_database: URL, use_database: Callable[..., Settings]) -> AsyncIterator[None]:
    """A pool of one connection, on which the SQL of tenant A has left temporary tables named like ours."""
    use_database(cloned_database.update_query_dict({"pool_max": "1"}))
    async with get_db() as session:
        session.add_all([Tenant(id=A, slug="a", name="A"), Tenant(id=B, slug="b", name="B")])
    with tenant_context(A):
        async with get_db() as session:
            for statement in CREATE:
                await session.execute(text(statement))
    yield
    await engine.dispose()


async def add_note(session: AsyncSession) -> Note:
    user = await UserRepository(session).add(User())
    return await NoteRepository(session).add(Note(user_id=user.id, content="of B"))


@pytest.mark.usefixtures("one_connection")
async def test_an_acknowledged_note_is_in_the_table_and_not_in_another_tenants_temporary_one(
    superuser: psycopg.Connection,
) -> None:
    with tenant_context(B):
        async with get_db() as session:
            note = await add_note(session)
        async with get_db() as session:
            found = await NoteRepository(session).get(note.id)
    with tenant_context(A):
        async with get_db() as session:
            seen = await session.scalar(text("SELECT count(*) FROM notes"))
            left_over = await session.scalar(text("SELECT count(*) FROM pg_temp.notes"))

    assert found.content == "of B"
    assert (seen, left_over) == (0, 0)
    assert superuser.execute("SELECT tenant_id, content FROM public.notes").fetchall() == [(B, "of B")]


@pytest.mark.usefixtures("one_connection")
async def test_a_whole_unit_of_work_writes_to_the_table(superuser: psycopg.Connection) -> None:
    with tenant_context(B):
        await run_transaction(add_note)

    assert superuser.execute("SELECT tenant_id, content FROM public.notes").fetchall() == [(B, "of B")]


async def test_every_connection_of_ours_finds_temporary_tables_last(
    cloned_database: URL, use_database: Callable[..., Settings], superuser: psycopg.Connection
) -> None:
    """The rest of the path stays as the database sets it."""
    superuser.execute(f'ALTER DATABASE "{cloned_database.database}" SET search_path = public, elsewhere')
    use_database(cloned_database)
    with tenant_context(B):
        async with get_db() as session:
            paths = [await session.scalar(text("SHOW search_path"))]
        async with get_read_db() as reading:
            paths.append(await reading.scalar(text("SHOW search_path")))
        slot = await get_store().pool.take()
        paths.append(await slot.connection.fetchval("SHOW search_path"))
        get_store().pool.discard(slot)

    assert paths == ["public, elsewhere, pg_temp"] * 3


@pytest.mark.parametrize(
    ("path", "expected"),
    [
        ('"$user", public', '"$user", public, pg_temp'),
        ("pg_temp, public", "public, pg_temp"),
        ('public,"pg_temp" , other', "public, other, pg_temp"),
        ("public, pg_temp", "public, pg_temp"),
        ("my_pg_temp, pg_temp_files", "my_pg_temp, pg_temp_files, pg_temp"),
        ("pg_temp", "pg_temp"),
        ('""', '"", pg_temp'),
        ("", "pg_temp"),
    ],
)
async def test_moves_temporary_tables_to_the_end_of_the_path(session: AsyncSession, path: str, expected: str) -> None:
    await session.execute(text("SELECT set_config('search_path', :path, true)"), {"path": path})

    for _ in range(2):
        await session.execute(text(f"SELECT {TEMPORARY_LAST.format(is_local='true')}"))

        assert await session.scalar(text("SHOW search_path")) == expected
