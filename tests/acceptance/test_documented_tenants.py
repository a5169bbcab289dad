"""The code of docs/tenants.md: the first form of a section uses the wrong tenant, the second form the right one."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final
from uuid import UUID

import psycopg
import pytest
from sqlalchemy import URL

from src.config import Settings
from src.database import current_tenant, engine, get_db, tenant_context
from src.database.base import uuid7
from src.database.models import Note, Tenant, User
from src.database.repositories import NoteRepository, UserRepository
from tests.acceptance.documented import ROOT, blocks

PAGE: Final = ROOT / "docs" / "tenants.md"
A, B, DEFAULT = uuid7(), uuid7(), uuid7()


def code_of(section: str, form: int) -> dict[str, Any]:
    """Run the page's imports and one block of a section, and return the names that it defines."""
    imports, *parts = re.split(r"^## (.+)$", PAGE.read_text(), flags=re.MULTILINE)
    body = dict(zip(parts[::2], parts[1::2], strict=True))[section]
    names: dict[str, Any] = {}
    for block in (*blocks(imports), blocks(body)[form]):
        exec(compile(block, PAGE, "exec"), names)  # noqa: S102 - the page's own code
    return names


@pytest.fixture
async def tenants(cloned_database: URL, use_database: Callable[..., Settings]) -> None:
    """Two tenants, and a default one."""
    use_database(cloned_database, DATABASE_DEFAULT_TENANT=str(DEFAULT))
    async with get_db() as session:
        session.add_all([Tenant(id=tenant, slug=name, name=name) for name, tenant in (("a", A), ("b", B))])
    await engine.dispose()


@pytest.mark.usefixtures("tenants")
@pytest.mark.parametrize(("form", "consumer"), [(0, A), (1, B)], ids=["wrong", "right"])
async def test_a_generator_that_yields_inside_the_block(form: int, consumer: UUID) -> None:
    notes_of = code_of("A generator that yields inside the block", form)["notes_of"]
    with tenant_context(A):
        async with get_db() as session:
            user = await UserRepository(session).add(User())
            await NoteRepository(session).add_many([Note(user_id=user.id, content=str(n)) for n in range(2)])

    with tenant_context(B):
        seen = [(note.tenant_id, current_tenant()) async for note in notes_of(A)]

    assert seen == [(A, consumer)] * 2
    assert current_tenant() is None


@pytest.mark.usefixtures("tenants")
@pytest.mark.parametrize(("form", "expected"), [(0, {A: 2}), (1, {A: 1, B: 1})], ids=["wrong", "right"])
async def test_a_worker_that_the_first_request_starts(
    form: int, expected: dict[UUID, int], superuser: psycopg.Connection
) -> None:
    registrations = code_of("A worker that the first request starts", form)["Registrations"]()

    for number, tenant in enumerate((A, B), start=1):
        with tenant_context(tenant):
            registrations.put(tenant, number)
    await registrations.jobs.join()
    registrations.worker.cancel()

    assert users_of_tenants(superuser) == expected


@pytest.mark.usefixtures("tenants")
@pytest.mark.parametrize(("form", "expected"), [(0, {DEFAULT: 1}), (1, {A: 2})], ids=["wrong", "right"])
async def test_a_thread(form: int, expected: dict[UUID, int], superuser: psycopg.Connection) -> None:
    register_in_a_thread = code_of("A thread", form)["register_in_a_thread"]

    with tenant_context(A):
        await register_in_a_thread(1)

    assert users_of_tenants(superuser) == expected


def users_of_tenants(superuser: psycopg.Connection) -> dict[UUID, int]:
    return dict(superuser.execute("SELECT tenant_id, count(*) FROM users GROUP BY 1").fetchall())


def test_every_section_with_code_has_a_test() -> None:
    sections = re.split(r"^## (.+)$", PAGE.read_text(), flags=re.MULTILINE)[1:]
    with_code = [name for name, body in zip(sections[::2], sections[1::2], strict=True) if blocks(body)]
    texts = [path.read_text() for path in (Path(__file__), ROOT / "tests" / "frameworks" / "test_documents.py")]
    tests = {
        name.replace("_", " ") for text in texts for name in re.findall(r"^async def test_(\w+)", text, re.MULTILINE)
    }

    assert {name.lower() for name in with_code} <= tests
