"""The tests of a service: a test of the plugin copies this file into an empty folder, and runs it there."""

from __future__ import annotations

import os
from datetime import timedelta
from pathlib import Path
from uuid import UUID

import pytest
from sqlalchemy import URL, text

from thea_database import engine, get_db, get_read_db, run_transaction, tenant_context
from thea_database.errors import DatabaseError, DuplicateKeyError, TransactionAborted
from thea_database.models import Note, Tenant, User
from thea_database.repositories import EventRepository, NoteRepository, TenantRepository, UserRepository
from thea_database.session import AsyncSession
from thea_database.store import get_store
from thea_database.testing import (
    AssertIsolated,
    AssertQueries,
    MakeConversation,
    MakeEvent,
    MakeMessage,
    MakeNote,
    MakeUser,
    ReminderClock,
)


async def test_all_sessions_are_the_session_of_the_test(
    db_session: AsyncSession, tenant: Tenant, make_user: MakeUser
) -> None:
    user = await make_user(display_name="Ada")

    async def rename(session: AsyncSession) -> AsyncSession:
        await UserRepository(session).update(user.id, display_name="Ada Lovelace")
        return session

    assert await run_transaction(rename) is db_session
    async with get_db() as session:
        assert session is db_session
        assert await session.get(User, user.id) is user
    async with get_read_db() as reading:
        assert reading is db_session
        assert (await UserRepository(reading).get(user.id)).display_name == "Ada Lovelace"
    assert db_session.tenant_id == tenant.id


async def test_other_connections_are_refused(db_session: AsyncSession) -> None:
    with pytest.raises(DatabaseError, match="committed_database"):
        get_store()
    with pytest.raises(DatabaseError, match="committed_database"):
        await engine.start()


@pytest.mark.parametrize("number", range(30))
async def test_nothing_is_left_by_another_test(db_session: AsyncSession, make_user: MakeUser, number: int) -> None:
    async with get_db() as session:
        assert await UserRepository(session).count() == 0
        await make_user(telegram_id=7)
        await session.commit()
    await db_session.commit()
    with pytest.raises(DuplicateKeyError):
        await make_user(telegram_id=7)

    assert await UserRepository(db_session).count() == 1


async def test_an_exception_undoes_its_block_alone(db_session: AsyncSession, make_user: MakeUser) -> None:
    user = await make_user()

    async def fail() -> None:
        async with get_db() as session:
            await UserRepository(session).add(User(display_name="lost"))
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        await fail()

    assert await UserRepository(db_session).count() == 1
    assert user.display_name is not None


async def test_a_block_with_a_caught_error_is_undone(db_session: AsyncSession, make_user: MakeUser) -> None:
    await make_user(telegram_id=7)

    async def catch() -> None:
        async with get_db() as session:
            with pytest.raises(DuplicateKeyError):
                await UserRepository(session).add(User(telegram_id=7))

    with pytest.raises(TransactionAborted):
        await catch()

    assert await UserRepository(db_session).count() == 1


async def test_a_read_session_refuses_writes(db_session: AsyncSession) -> None:
    async def write() -> None:
        async with get_read_db() as session:
            await session.snapshot()
            session.add(User())

    with pytest.raises(DatabaseError, match="read-only"):
        await write()

    assert await UserRepository(db_session).count() == 0


async def test_a_unit_must_not_commit(db_session: AsyncSession) -> None:
    with pytest.raises(DatabaseError, match="must not commit"):
        await run_transaction(lambda session: session.commit())


async def test_another_tenant_has_a_session_of_its_own(
    db_session: AsyncSession, other_tenant: Tenant, make_user: MakeUser
) -> None:
    await make_user()
    with tenant_context(other_tenant.id):
        await make_user()
        async with get_db() as session:
            assert session is not db_session
            assert await session.scalar(text("SELECT count(*) FROM users")) == 1

    assert await db_session.scalar(text("SELECT count(*) FROM users")) == 1


async def test_each_entity_has_a_factory(
    *,
    db_session: AsyncSession,
    make_user: MakeUser,
    make_conversation: MakeConversation,
    make_message: MakeMessage,
    make_event: MakeEvent,
    make_note: MakeNote,
) -> None:
    user = await make_user(timezone="Europe/Vienna")
    chat = await make_conversation(user, channel="web")
    message = await make_message(chat, content="Hello!")
    event = await make_event(user, title="Call")
    note = await make_note(user=user, content="Milk")

    assert (chat.user_id, message.user_id, event.user_id, note.user_id) == (user.id,) * 4
    assert (message.content, event.title, note.content) == ("Hello!", "Call", "Milk")
    assert (await make_message()).seq == 1


async def test_statements_are_counted(
    db_session: AsyncSession, make_user: MakeUser, assert_queries: AssertQueries
) -> None:
    user = await make_user(display_name="secret")
    with assert_queries(max=1):
        async with get_db() as session:
            await UserRepository(session).count()

    with (
        pytest.raises(AssertionError, match=r"at most 0 statements must be sent, got 1:\n1\. SELECT") as failed,
        assert_queries(max=0),
    ):
        await UserRepository(db_session).exists(User.display_name == user.display_name)
    assert "secret" not in str(failed.value)


async def test_isolation_is_asserted(make_note: MakeNote, assert_isolated: AssertIsolated) -> None:
    note = await make_note(tags=["home"])

    async def tags_by_a_service() -> list[str]:
        async with get_db() as session:
            return [counted.tag for counted in await NoteRepository(session).tags(note.user_id)]

    await assert_isolated(lambda session: NoteRepository(session).get(note.id))
    await assert_isolated(lambda session: NoteRepository(session).page())
    await assert_isolated(lambda session: NoteRepository(session).count())
    await assert_isolated(lambda session: NoteRepository(session).delete(note.id))
    await assert_isolated(lambda session: NoteRepository(session).add(Note(user_id=note.user_id, content="x")))
    await assert_isolated(tags_by_a_service)


async def test_a_leak_fails_the_assertion(make_note: MakeNote, assert_isolated: AssertIsolated) -> None:
    note = await make_note(content="secret")
    cache: dict[UUID, Note] = {}

    async def by_a_cache_without_the_tenant(session: AsyncSession) -> Note:
        if note.id not in cache:
            cache[note.id] = await NoteRepository(session).get(note.id)
        return cache[note.id]

    async def by_another_tenants_rows() -> list[str]:
        return [note.content]

    for leak in (by_a_cache_without_the_tenant, by_another_tenants_rows):
        with pytest.raises(AssertionError, match="must return nothing as `other_tenant`") as failed:
            await assert_isolated(leak)
        assert "secret" not in str(failed.value)


async def test_a_check_that_proves_nothing_fails(
    db_session: AsyncSession, make_note: MakeNote, assert_isolated: AssertIsolated
) -> None:
    note = await make_note()

    with pytest.raises(AssertionError, match="create rows first"):
        await assert_isolated(lambda session: NoteRepository(session).search(note.user_id, "nothing"))
    with pytest.raises(AssertionError, match="a function that takes the session"):
        await assert_isolated(lambda: NoteRepository(db_session).get(note.id))


async def test_reminders_become_due(
    db_session: AsyncSession, make_event: MakeEvent, reminder_clock: ReminderClock
) -> None:
    event = await make_event(reminder_offset=600)
    events = EventRepository(db_session)
    assert await events.claim_due_reminders("worker") == []

    await reminder_clock.advance(timedelta(days=1))
    [due] = await events.claim_due_reminders("worker", lease=timedelta(minutes=1))
    assert due.id == event.id
    assert await events.claim_due_reminders("worker") == []

    await reminder_clock.advance(timedelta(minutes=2))
    [again] = await events.claim_due_reminders("worker")
    assert again.reminder_attempts == 2


async def test_a_series_reminds_of_each_occurrence_once(
    db_session: AsyncSession, make_event: MakeEvent, reminder_clock: ReminderClock
) -> None:
    await make_event(reminder_offset=600, rrule="FREQ=DAILY")
    events = EventRepository(db_session)
    for _ in range(3):
        await reminder_clock.advance(timedelta(days=1))
        [due] = await events.claim_due_reminders("worker")
        assert due.reminder_token is not None
        await events.ack_reminder(due.id, due.reminder_token)
        assert await events.claim_due_reminders("worker") == []

    await make_event(rrule="FREQ=WEEKLY;BYDAY=MO")
    with pytest.raises(ValueError, match="whole weeks"):
        await reminder_clock.advance(timedelta(days=1))


async def test_a_committed_database_has_everything(
    *,
    committed_database: URL,
    tenant: Tenant,
    other_tenant: Tenant,
    make_user: MakeUser,
    assert_queries: AssertQueries,
    assert_isolated: AssertIsolated,
) -> None:
    user = await make_user(telegram_id=7)
    with assert_queries(max=1):
        found = await get_store().user_by_telegram_id(7)
    async with get_db() as one, get_db() as two:
        assert one is not two
        assert await UserRepository(one).count() == await UserRepository(two).count() == 1
        registered = [registered.id async for registered in TenantRepository(one).active()]

    assert found is not None
    assert found.id == user.id
    assert registered == [tenant.id, other_tenant.id]
    await assert_isolated(lambda session: UserRepository(session).get(user.id))


@pytest.mark.parametrize("number", range(3))
async def test_a_committed_database_is_new(committed_database: URL, make_user: MakeUser, number: int) -> None:
    await make_user(telegram_id=7)
    async with get_db() as session:
        assert await UserRepository(session).count() == 1


async def test_the_developers_database_is_out_of_reach(db_session: AsyncSession) -> None:
    assert os.environ["DATABASE_URL"].startswith("postgresql://none@127.0.0.1:1/")
    assert "DATABASE_MIGRATION_URL" not in os.environ
    Path("folder").write_text(os.environ["ENV_FILE"].rpartition("/")[0])  # noqa: ASYNC240 - the test does nothing else
