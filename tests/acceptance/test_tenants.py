"""Two tenants with the same keys: no repository method reads or changes the other's rows.

The tests run as the application role, with row-level security and the conditions of the repositories, and as a
superuser, with the conditions alone. A new method without a call fails the last test.
"""

from __future__ import annotations

import re
from collections.abc import AsyncIterator, Callable
from contextlib import suppress
from dataclasses import dataclass
from datetime import timedelta
from typing import Any
from uuid import UUID

import psycopg
import pytest
from sqlalchemy import URL, event
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine

from src.config import Settings
from src.database import tenant_context
from src.database.base import tenant_tables, utc_now, uuid7
from src.database.embedded import APP_ROLE, SUPERUSER
from src.database.errors import DatabaseError, ForeignKeyError, NotFoundError, StaleDataError
from src.database.models import Event, Note, User
from src.database.repositories import (
    ConversationRepository,
    EventRepository,
    MessageHistoryRepository,
    NoteRepository,
    Repository,
    TenantRepository,
    UserRepository,
)
from src.database.session import AsyncSession, TenantBinding
from src.database.store import get_store
from tests.acceptance.calls import CALLS, REGISTRY_CALLS, STORE_CALLS, Call, Rows, a_message, fill, missing_calls
from tests.citus_rules import broken
from tests.faults.three_tenants import parts_of, three_tenants


@dataclass
class World:
    """Tenants A, the current one without rows, and B, with a row of each kind."""

    session: AsyncSession
    b: Rows
    connection: AsyncConnection
    tenant_b: UUID

    def ids_of_b(self) -> set[UUID]:
        """Return the ids of B and of its rows."""
        return {*self.b.ids(), self.tenant_b}

    async def rows_of_b(self) -> dict[str, list[Any]]:
        """Return all rows of B."""
        async with act_as(self.tenant_b, self.connection) as session:
            return {
                table.name: [tuple(row) for row in await session.execute(read)]
                for table in tenant_tables()
                for read in [table.select().where(table.c.tenant_id == self.tenant_b).order_by(table.c.id)]
            }


def act_as(tenant_id: UUID, connection: AsyncConnection) -> AsyncSession:
    return AsyncSession(
        bind=connection,
        join_transaction_mode="create_savepoint",
        expire_on_commit=False,
        binding=TenantBinding(tenant_id),
    )


# Without row-level security the test is stricter; the other one is in the second tier.
@pytest.fixture(params=[pytest.param(APP_ROLE, marks=pytest.mark.slow), SUPERUSER])
async def world(request: pytest.FixtureRequest, engine_of: Callable[[str], AsyncEngine]) -> AsyncIterator[World]:
    async with engine_of(request.param).connect() as connection:
        outer = await connection.begin()
        a, b = uuid7(), uuid7()
        async with act_as(b, connection) as session:
            rows = await fill(session)
        asked: list[str] = []
        event.listen(connection.sync_connection, "before_cursor_execute", lambda *call: asked.append(call[2]))
        async with act_as(a, connection) as session:
            yield World(session, rows, connection, b)
        await outer.rollback()
    check_statements(asked)


def check_statements(asked: list[str]) -> None:
    """Check that each statement has a condition on the tenant for each table, and that Citus accepts it."""
    names = "|".join(table.name for table in tenant_tables())
    for statement in asked:
        tables = re.findall(rf"(?:FROM|JOIN|UPDATE|DELETE FROM) (?:{names})\b", statement)
        assert len(re.findall(r"\btenant_id = ", statement)) >= len(tables), statement
        assert broken(statement) == [], statement


CASES = [
    pytest.param(repository, call, id=f"{repository.__name__}.{name}")
    for repository, calls in CALLS.items()
    for name, call in calls.items()
]


@pytest.mark.parametrize(("repository", "call"), CASES)
async def test_reads_and_changes_nothing_of_another_tenant(
    world: World, repository: type[Repository[Any]], call: Call
) -> None:
    before = await world.rows_of_b()
    try:
        found = await call.run(repository(world.session), world.b)
        await world.session.commit()
    except (NotFoundError, StaleDataError):
        found = None
    except ForeignKeyError:
        assert call.needs_own_rows, "it should not have got so far"
        found = None
    await world.session.rollback()

    assert call.makes_rows or not found
    assert await world.rows_of_b() == before
    assert world.ids_of_b().isdisjoint(part for part in parts_of(found) if isinstance(part, UUID))


@pytest.mark.parametrize("name", REGISTRY_CALLS)
async def test_the_registry_changes_no_rows_of_another_tenant(world: World, name: str) -> None:
    """Every tenant can read the registry."""
    before = await world.rows_of_b()
    with suppress(DatabaseError):
        await REGISTRY_CALLS[name].run(TenantRepository(world.session), world.b)
        await world.session.commit()
    await world.session.rollback()

    assert await world.rows_of_b() == before


@pytest.mark.parametrize("role", [APP_ROLE, SUPERUSER])
async def test_the_store_reads_and_changes_nothing_of_another_tenant(
    role: str, cloned_database: URL, superuser: psycopg.Connection, use_database: Callable[..., Settings]
) -> None:
    """One test for all calls: the store commits and needs its own database."""
    wrong = []
    async with three_tenants(cloned_database, superuser, use_database, role=role) as world:
        a, b, _ = world.tenants
        for name, call in STORE_CALLS.items():
            before = world.state_of([b])
            with tenant_context(a), suppress(NotFoundError, StaleDataError):
                if world.whose(found := await call.run(get_store(), world.rows[b])) - {a}:
                    wrong.append(f"{name} returns {found!r}")
            if world.state_of([b]) != before:
                wrong.append(f"{name} changes another tenant's rows")

    assert wrong == []


async def test_inserts_own_rows_beside_those_of_another_tenant(world: World) -> None:
    users = UserRepository(world.session)

    user, created = await users.get_or_create_by_telegram_id(1)
    again = await users.upsert({"telegram_id": 1, "username": "same"}, key=["telegram_id"])
    conversation, started = await ConversationRepository(world.session).get_or_start(user.id, "telegram", "1")
    appended = await MessageHistoryRepository(world.session).append(conversation.id, a_message("same"))
    await ConversationRepository(world.session).update(conversation.id, is_active=False)
    successor, _ = await ConversationRepository(world.session).get_or_start(user.id, "telegram", "1")
    duplicate = await MessageHistoryRepository(world.session).append(successor.id, a_message("same"))
    [note] = await NoteRepository(world.session).add_many([Note(user_id=user.id, content="x")])
    event = await EventRepository(world.session).add(Event(user_id=user.id, title="x", start_datetime=utc_now()))

    assert created
    assert started
    assert appended.inserted
    assert not duplicate.inserted
    assert again.row is user
    rows = (user, conversation, appended.message, note, event)
    assert {row.tenant_id for row in rows} == {world.session.tenant_id}
    assert world.b.user != user.id


async def test_due_reminders_of_others_have_no_effect(world: World) -> None:
    user = await UserRepository(world.session).add(User())
    now = utc_now() - timedelta(minutes=1)
    own = await EventRepository(world.session).add(
        Event(user_id=user.id, title="x", start_datetime=now, reminder_datetime=now)
    )
    await world.session.commit()

    assert await EventRepository(world.session).claim_due_reminders("w", limit=1) == [own]


def test_every_public_method_is_called() -> None:
    assert missing_calls() == []
