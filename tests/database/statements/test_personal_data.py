"""The personal data of a user is exported and erased completely, table by table."""

from __future__ import annotations

import asyncio
import json
from contextlib import aclosing
from typing import Any
from uuid import UUID

import psycopg
import pytest
from sqlalchemy import URL, event

from src.database import get_db, get_read_db, tenant_context
from src.database.base import tenant_tables, uuid7
from src.database.errors import DatabaseError, ForeignKeyError, NotFoundError
from src.database.models import Conversation, Event, MessageHistory, Note, User
from src.database.repositories import MessageHistoryRepository, TenantRepository, UserRepository
from src.database.session import AsyncSession
from src.database.statements.personal_data import erase_tenant_batch, export_tenant
from tests.acceptance.calls.rows import a_message, listed
from tests.acceptance.test_tenants import check_statements
from tests.database.repositories.user_rows import add_user_with_rows, counts, days_ago, first_of, message

WHOLE = {
    "users": 1,
    "user_identities": 1,
    "conversations": 1,
    "message_history": 2,
    "events": 2,
    "notes": 2,
    "state_entries": 2,
}


@pytest.fixture
def users(session: AsyncSession) -> UserRepository:
    return UserRepository(session)


@pytest.fixture
async def ada(session: AsyncSession) -> User:
    return await add_user_with_rows(session, "ada")


@pytest.fixture
async def bob(session: AsyncSession) -> User:
    return await add_user_with_rows(session, "bob")


async def test_export_yields_every_row_of_every_table_with_the_user_first(
    users: UserRepository, ada: User, bob: User
) -> None:
    rows = await listed(users.export(ada.id))

    found = [row["table"] for row in rows]
    assert rows[0]["row"]["id"] == str(ada.id)
    assert {name: found.count(name) for name in found} == WHOLE
    assert str(bob.id) not in json.dumps(rows)


async def test_an_exported_row_has_every_column_that_is_not_computed(users: UserRepository, ada: User) -> None:
    rows = {row["table"]: row["row"] for row in await listed(users.export(ada.id))}

    for table in tenant_tables():
        assert list(rows[table.name]) == [column.name for column in table.columns if column.computed is None]


async def test_an_export_is_plain_json(users: UserRepository, session: AsyncSession, ada: User) -> None:
    await users.update(ada.id, preferences={"ñ": [1, None]}, telegram_id=2**62)
    rows = await listed(users.export(ada.id))
    [answer] = [row["row"] for row in rows if row["row"].get("parent_id")]

    assert json.loads(json.dumps(rows)) == rows
    assert rows[0]["row"]["preferences"] == {"ñ": [1, None]}
    assert rows[0]["row"]["telegram_id"] == 2**62
    assert answer["fingerprint"] == "\\x" + "01" * 32
    assert answer["created_at"] == rows[0]["row"]["created_at"]


async def test_export_includes_a_soft_deleted_user(users: UserRepository, ada: User) -> None:
    await users.delete(ada.id)

    assert len(await listed(users.export(ada.id))) == sum(WHOLE.values())


async def test_export_of_an_unknown_user_raises_before_the_first_row(users: UserRepository, ada: User) -> None:
    rows = users.export(uuid7())

    with pytest.raises(NotFoundError, match="this tenant has no User with id"):
        await anext(rows)
    with pytest.raises(NotFoundError, match="this tenant has no User with id"):
        await users.erase(uuid7())


async def test_a_session_is_usable_after_an_export_that_ended_early(users: UserRepository, ada: User) -> None:
    async with aclosing(users.export(ada.id)) as rows:  # type: ignore[type-var] # an asynchronous generator
        await anext(rows)

    assert await users.get(ada.id) is ada


async def test_messages_of_others_in_the_users_conversation_are_exported_and_erased(
    users: UserRepository, session: AsyncSession, ada: User, bob: User
) -> None:
    conversation = await first_of(session, Conversation, ada)
    session.add(message(bob, conversation, 3, days_ago(0)))
    await session.flush()

    assert len(await listed(users.export(ada.id))) == sum(WHOLE.values()) + 1
    assert (await users.erase(ada.id))["message_history"] == 3


async def test_erases_everything_of_the_user_and_nothing_of_others(
    users: UserRepository, session: AsyncSession, tenant_id: UUID, ada: User, bob: User
) -> None:
    removed = await users.erase(ada.id)

    assert removed == WHOLE
    assert await counts(session, tenant_id) == WHOLE
    assert len(await listed(users.export(bob.id))) == sum(WHOLE.values())
    with pytest.raises(NotFoundError):
        await users.erase(ada.id)


async def test_references_of_other_rows_are_set_to_null_first(
    users: UserRepository, session: AsyncSession, ada: User, bob: User
) -> None:
    question = await first_of(session, MessageHistory, ada)
    note, answer = await first_of(session, Note, bob), await first_of(session, MessageHistory, bob)
    note.source_message_id = answer.parent_id = question.id
    await session.flush()

    await users.erase(ada.id)
    await session.refresh(note)
    await session.refresh(answer)

    assert note.source_message_id is None
    assert answer.parent_id is None


async def test_erase_expunges_the_entities_of_the_user(
    users: UserRepository, session: AsyncSession, ada: User, bob: User
) -> None:
    note = await first_of(session, Note, ada)
    await users.erase(ada.id)

    assert ada not in session
    assert note not in session
    assert bob in session
    bob.display_name = "Robert"
    await session.flush()


@pytest.mark.parametrize("batch", [1, 2])
async def test_erase_deletes_in_batches(
    users: UserRepository, ada: User, monkeypatch: pytest.MonkeyPatch, batch: int
) -> None:
    monkeypatch.setattr("src.database.statements.personal_data.ERASE_BATCH", batch)

    assert await users.erase(ada.id) == WHOLE


async def test_erase_raises_if_rows_would_be_left(superuser: psycopg.Connection, cloned_database: URL) -> None:
    superuser.execute("CREATE FUNCTION keep() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN RETURN NULL; END'")
    superuser.execute("CREATE TRIGGER keep BEFORE DELETE ON events FOR EACH ROW EXECUTE FUNCTION keep()")
    async with get_db() as session:
        user = await UserRepository(session).add(User())
        session.add(Event(user_id=user.id, title="x", start_datetime=user.created_at))
    superuser.execute("ALTER TABLE events DROP CONSTRAINT fk_events_tenant_id_user_id")

    with pytest.raises(DatabaseError, match="the user was not erased: rows are left in events"):
        async with get_db() as session:
            await UserRepository(session).erase(user.id)

    async with get_db() as session:
        assert await UserRepository(session).count() == 1


async def test_an_export_reads_one_snapshot(cloned_database: URL) -> None:
    """In every isolation level, an export has no row that was committed after its start."""
    async with get_db() as session:
        user = await add_user_with_rows(session, "ada")

    async with get_db() as session, aclosing(UserRepository(session).export(user.id)) as rows:  # type: ignore[type-var]
        exported = [await anext(rows)]
        async with get_db() as other:
            await UserRepository(other).erase(user.id)
        exported += [row async for row in rows]

    assert len(exported) == sum(WHOLE.values())


async def test_export_works_in_a_read_session(cloned_database: URL) -> None:
    async with get_db() as session:
        user = await add_user_with_rows(session, "ada")
    async with get_read_db() as session:
        assert len(await listed(UserRepository(session).export(user.id))) == sum(WHOLE.values())


async def test_every_row_of_a_tenant_is_exported_and_erased(cloned_database: URL) -> None:
    async with get_db() as session:
        mine = await TenantRepository(session).create("mine", "Mine")
        other = await TenantRepository(session).create("other", "Other")
    for tenant in (mine, other):
        with tenant_context(tenant.id):
            async with get_db() as session:
                await add_user_with_rows(session, "ada")
                await add_user_with_rows(session, "bob")
    with tenant_context(mine.id):
        async with get_db() as session:
            exported: list[dict[str, Any]] = await listed(export_tenant(session))
            removed = []
            while batch := await erase_tenant_batch(session, limit=3):
                removed.append(batch)
            await TenantRepository(session).delete(mine.id)
    with tenant_context(other.id):
        async with get_db() as session:
            kept = await counts(session, other.id)

    assert [exported[0]["table"], exported[0]["row"]["slug"]] == ["tenants", "mine"]
    assert len(exported) == 1 + 2 * sum(WHOLE.values())
    assert sum(sum(batch.values()) for batch in removed) == 2 * sum(WHOLE.values())
    assert kept == {name: 2 * count for name, count in WHOLE.items()}


async def test_every_statement_names_the_tenant(users: UserRepository, session: AsyncSession, ada: User) -> None:
    sent: list[str] = []
    connection = (await session.connection()).sync_connection
    event.listen(connection, "before_cursor_execute", lambda *call: sent.append(call[2]))

    await listed(users.export(ada.id))
    await users.erase(ada.id)
    await erase_tenant_batch(session)

    check_statements(sent)
    assert len(sent) == 1 + 19 + 7


async def test_a_write_during_an_erasure_fails_because_the_user_is_deleted(cloned_database: URL) -> None:
    async with get_db() as session:
        user = await add_user_with_rows(session, "ada")
        conversation = await first_of(session, Conversation, user)

    async def add_a_note() -> None:
        async with get_db() as session:
            session.add(Note(user_id=user.id, content="x"))

    async def append() -> None:
        async with get_db() as session:
            await MessageHistoryRepository(session).append(conversation.id, a_message("late"))

    async with get_db() as session:
        await UserRepository(session).erase(user.id)
        waiting = [asyncio.create_task(work()) for work in (add_a_note, append)]
        await asyncio.sleep(0.1)
        assert not any(task.done() for task in waiting)
    late = await asyncio.gather(*waiting, return_exceptions=True)

    assert [type(one) for one in late] == [ForeignKeyError, NotFoundError]


async def test_the_second_of_two_concurrent_erasures_finds_no_user(cloned_database: URL) -> None:
    async with get_db() as session:
        user = await add_user_with_rows(session, "ada")

    async def erase() -> dict[str, int]:
        async with get_db() as session:
            return await UserRepository(session).erase(user.id)

    done = await asyncio.gather(erase(), erase(), return_exceptions=True)

    assert WHOLE in done
    assert NotFoundError in [type(one) for one in done]


async def test_a_cancelled_erasure_deletes_nothing(superuser: psycopg.Connection, cloned_database: URL) -> None:
    async with get_db() as session:
        user = await add_user_with_rows(session, "ada")
        tenant_id = session.tenant_id
    superuser.execute(
        "CREATE FUNCTION dawdle() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN PERFORM pg_sleep(5); RETURN OLD; END'"
    )
    superuser.execute("CREATE TRIGGER dawdle BEFORE DELETE ON events FOR EACH ROW EXECUTE FUNCTION dawdle()")

    with pytest.raises(TimeoutError):
        async with asyncio.timeout(0.5), get_db() as session:
            await UserRepository(session).erase(user.id)

    async with get_db() as session:
        assert await counts(session, tenant_id) == WHOLE
