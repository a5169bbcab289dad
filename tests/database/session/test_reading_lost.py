"""get_read_db after a lost connection: the new connection is bound to the session's tenant, not the current one."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any

import psycopg
import pytest
from sqlalchemy import URL, select, text

from src.database import get_db, get_read_db, tenant_context
from src.database.base import uuid7
from src.database.models import MessageHistory, Tenant
from src.database.repositories import MessageHistoryRepository, NoteRepository
from tests.acceptance.calls import Rows, fill

A = uuid7()

READS: dict[str, Callable[[Any, Rows], Awaitable[object]]] = {
    "recent": lambda session, rows: MessageHistoryRepository(session).recent(rows.conversation),
    "get_or_none": lambda session, rows: NoteRepository(session).get_or_none(rows.note),
    "get_many": lambda session, rows: NoteRepository(session).get_many([rows.note]),
    "search": lambda session, rows: NoteRepository(session).search(rows.user, "secret"),
}
TERMINATE = (
    "SELECT pg_terminate_backend(pid, 5000) FROM pg_stat_activity"
    " WHERE datname = current_database() AND pid <> pg_backend_pid()"
)


@pytest.fixture
async def rows_of_a(cloned_database: URL) -> Rows:
    """The rows of A; the default tenant has rows of its own."""
    async with get_db() as session:
        session.add(Tenant(id=A, slug="a", name="A"))
        await session.flush()
        await fill(session)
    with tenant_context(A):
        async with get_db() as session:
            return await fill(session)


@pytest.mark.fast_path
async def test_a_lost_connection_is_replaced_by_one_bound_to_the_sessions_tenant(
    rows_of_a: Rows, superuser: psycopg.Connection
) -> None:
    found = {}
    for name, read in READS.items():
        async with get_read_db() as session:
            with tenant_context(A):
                await read(session, rows_of_a)
            superuser.execute(TERMINATE)
            found[name] = (
                bool(await read(session, rows_of_a)),
                {message.tenant_id for message in await session.scalars(select(MessageHistory))},
                str(await session.scalar(text("SELECT current_setting('app.tenant_id')"))),
            )

    assert found == dict.fromkeys(READS, (True, {A}, str(A)))
