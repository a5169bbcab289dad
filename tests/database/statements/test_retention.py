"""purge_expired deletes expired rows, keeps all others, and can be interrupted after any batch."""

from __future__ import annotations

import asyncio
from datetime import datetime, timedelta
from uuid import UUID

import psycopg
import pytest
from sqlalchemy import URL, event, select

from src.database import get_db
from src.database.base import tenant_tables, utc_now
from src.database.models import Conversation, MessageHistory, Note, Tenant
from src.database.repositories import MessageHistoryRepository, NoteRepository, UserRepository, purge_expired
from src.database.session import AsyncSession
from tests.acceptance.test_tenants import check_statements
from tests.database.repositories.user_rows import add_user_with_rows, counts, days_ago, first_of, message

NOTHING = {table.name: 0 for table in tenant_tables() if {"deleted_at", "user_id"} & set(table.columns.keys())}
WHOLE = NOTHING | {
    "users": 1,
    "user_identities": 1,
    "conversations": 1,
    "message_history": 2,
    "events": 2,
    "notes": 2,
    "state_entries": 2,
}


@pytest.fixture
async def registered(session: AsyncSession, tenant_id: UUID) -> Tenant:
    """The entry of the current tenant in the registry."""
    found: Tenant = (await session.scalars(select(Tenant).where(Tenant.id == tenant_id))).one()
    return found


async def purge_all(session: AsyncSession, *, limit: int = 1000) -> dict[str, int]:
    """Call purge_expired until no row is left to delete."""
    total = dict(NOTHING)
    for _ in range(100):
        counts = await purge_expired(session, limit=limit)
        if not any(counts.values()):
            return total
        assert (
            max(count for name, count in counts.items() if name != "events") <= limit
        )  # a series is deleted with its occurrences
        total = {name: total[name] + count for name, count in counts.items()}
    raise AssertionError("it does not come to an end")


async def test_messages_do_not_expire_without_a_retention(session: AsyncSession) -> None:
    ada = await add_user_with_rows(session, "ada", at=days_ago(10_000))
    for row in (await session.scalars(select(MessageHistory))).all():
        row.deleted_at = None
    note = await first_of(session, Note, ada)
    note.deleted_at = days_ago(29)

    counts = await purge_expired(session)

    assert counts == NOTHING | {"notes": 1}  # the other one was deleted 10,000 days ago


@pytest.mark.parametrize(
    ("of_user", "of_tenant", "age", "purged"),
    [
        (None, 10, 9.9, 0),
        (None, 10, 10.1, 1),
        (20, 10, 19.9, 0),
        (5, 10, 5.1, 1),
        (5, None, 4.9, 0),
        (5, None, 5.1, 1),
        (2**31 - 1, 10, 10_000, 0),
        (None, 2**31 - 1, 10_000, 0),
    ],
)
async def test_messages_expire_by_the_users_retention_or_else_the_tenants(  # noqa: PLR0917 - a table of cases
    session: AsyncSession, registered: Tenant, of_user: int | None, of_tenant: int | None, age: float, purged: int
) -> None:
    registered.retention_days = of_tenant
    ada = await add_user_with_rows(session, "ada", retention_days=of_user)
    conversation = await first_of(session, Conversation, ada)
    session.add(message(ada, conversation, 3, days_ago(age)))
    await session.flush()

    assert (await purge_expired(session))["message_history"] == purged


@pytest.mark.parametrize(("retention", "age", "goes"), [(None, 29, 0), (None, 31, 1), (60, 59, 0), (60, 61, 1)])
async def test_soft_deleted_rows_expire_after_the_retention_or_30_days(
    session: AsyncSession, registered: Tenant, retention: int | None, age: float, goes: int
) -> None:
    registered.retention_days = retention
    ada = await add_user_with_rows(session, "ada")
    notes = NoteRepository(session)
    note = await notes.add(Note(user_id=ada.id, content="x"))
    note.deleted_at = days_ago(age)
    await session.flush()

    assert (await purge_expired(session))["notes"] == goes
    assert (await purge_expired(session))["notes"] == 0


@pytest.mark.parametrize("limit", [1, 2, 1000])
async def test_a_soft_deleted_user_is_purged_with_all_rows_in_batches(
    session: AsyncSession, tenant_id: UUID, limit: int
) -> None:
    ada, bob = await add_user_with_rows(session, "ada"), await add_user_with_rows(session, "bob")
    note = await first_of(session, Note, bob)
    note.source_message_id = (await first_of(session, MessageHistory, ada)).id
    ada.deleted_at = days_ago(31)
    await session.flush()

    assert await purge_expired(session, dry_run=True) == WHOLE
    assert await purge_all(session, limit=limit) == WHOLE
    assert await counts(session, tenant_id) == WHOLE
    await session.refresh(note)
    assert note.source_message_id is None


async def test_a_soft_deleted_conversation_is_purged_with_its_messages(session: AsyncSession) -> None:
    ada, bob = await add_user_with_rows(session, "ada"), await add_user_with_rows(session, "bob")
    conversation = await first_of(session, Conversation, ada)
    session.add(message(bob, conversation, 3, days_ago(0)))
    conversation.deleted_at = days_ago(31)
    await session.flush()

    assert await purge_all(session, limit=2) == NOTHING | {"conversations": 1, "message_history": 3, "state_entries": 1}


async def test_old_live_rows_other_than_messages_do_not_expire(session: AsyncSession, registered: Tenant) -> None:
    registered.retention_days = 1
    ada = await add_user_with_rows(session, "ada", at=days_ago(100))

    assert await purge_all(session) == NOTHING | {"message_history": 2, "notes": 1}
    assert await UserRepository(session).get(ada.id) is ada


async def test_a_dry_run_counts_everything_and_changes_nothing(
    session: AsyncSession, registered: Tenant, tenant_id: UUID
) -> None:
    registered.retention_days = 1
    await add_user_with_rows(session, "ada", at=days_ago(2), deleted_at=days_ago(2))
    before = await counts(session, tenant_id)

    assert await purge_expired(session, dry_run=True, limit=1) == WHOLE
    assert await counts(session, tenant_id) == before


async def test_rows_expire_by_the_given_time(session: AsyncSession, registered: Tenant) -> None:
    registered.retention_days = 1
    await add_user_with_rows(session, "ada")

    assert (await purge_expired(session))["message_history"] == 0
    assert (await purge_expired(session, now=utc_now() + timedelta(days=2)))["message_history"] == 2


@pytest.mark.parametrize("limit", [0, 1001])
async def test_an_invalid_limit_raises(session: AsyncSession, limit: int) -> None:
    with pytest.raises(ValueError, match="limit must be from 1 to 1000"):
        await purge_expired(session, limit=limit)
    with pytest.raises(ValueError, match="now must be aware"):
        await purge_expired(session, now=datetime(2026, 1, 1))  # noqa: DTZ001 - a naive time is tested


async def test_every_statement_names_the_tenant(session: AsyncSession) -> None:
    sent: list[str] = []
    connection = (await session.connection()).sync_connection
    event.listen(connection, "before_cursor_execute", lambda *call: sent.append(call[2]))

    await purge_expired(session)
    await purge_expired(session, dry_run=True)

    check_statements(sent)
    assert len(sent) == 2 * len(NOTHING)


@pytest.mark.slow
async def test_workers_skip_rows_that_another_worker_has_locked(
    superuser: psycopg.Connection, cloned_database: URL
) -> None:
    async with get_db() as session:
        ada = await add_user_with_rows(session, "ada")
        conversation = await first_of(session, Conversation, ada)
        session.add_all(message(ada, conversation, seq, days_ago(2)) for seq in range(3, 303))
        held = f"{conversation.session_id}:3"
    superuser.execute("UPDATE tenants SET retention_days = 1")

    async def work() -> int:
        total = 0
        while True:
            async with get_db() as session:
                count = (await purge_expired(session, limit=20))["message_history"]
            total += count
            if not count:
                return total

    async with get_db() as session:
        await MessageHistoryRepository(session).edit(held, "y", edited_at=utc_now())  # its row is locked meanwhile
        by_each = await asyncio.gather(*(work() for _ in range(3)))
    rest = await work()

    assert sum(by_each) + rest == 300
    assert rest >= 1
