"""The fast path leaves a session as SQLAlchemy does; if there are listeners, SQLAlchemy sends the statements."""

from __future__ import annotations

import asyncio
import gc
from collections.abc import Callable
from typing import Any

import pytest
from sqlalchemy import URL, event, inspect, select, update
from sqlalchemy.sql.compiler import SQLCompiler

from src.config import Settings
from src.database import engine, get_db
from src.database.errors import DuplicateKeyError, TransactionAborted
from src.database.models import Note, User
from src.database.repositories import NoteRepository, UserRepository
from src.database.session import AsyncSession


async def by_sqlalchemy(session: AsyncSession, user: User) -> User:
    session.expunge_all()
    return (await session.scalars(select(User).where(User.tenant_id == user.tenant_id, User.id == user.id))).one()


async def test_an_entity_equals_the_one_that_sqlalchemy_loads(session: AsyncSession, user: User) -> None:
    expected = await by_sqlalchemy(session, user)
    session.expunge_all()

    found = await UserRepository(session).get(user.id)

    names = {one.key for one in inspect(User).column_attrs}
    assert {name: getattr(found, name) for name in names} == {name: getattr(expected, name) for name in names}
    assert inspect(found).persistent
    assert not inspect(found).modified
    assert await session.get(User, user.id) is found, "it is in the identity map"


async def test_a_loaded_entity_is_returned_again_with_its_values(session: AsyncSession, user: User) -> None:
    users = UserRepository(session)
    first = await users.get(user.id)
    changed = update(User).where(User.tenant_id == user.tenant_id, User.id == user.id).values(username="changed")
    await session.execute(changed, execution_options={"synchronize_session": False})

    assert await users.get(user.id) is first
    assert first.username is None

    assert await users.set_timezone(user.id, "UTC") is first
    assert first.username == "changed", "a change returns the current values"


async def test_expired_attributes_are_set_by_the_next_read(session: AsyncSession, user: User) -> None:
    users = UserRepository(session)
    found = await users.get(user.id)
    session.expire(found, ["timezone"])
    found.username = "pending"

    await users.get(user.id)

    assert "timezone" in inspect(found).dict
    assert found.username == "pending"


async def test_pending_changes_are_flushed_before_a_read(session: AsyncSession) -> None:
    session.add(User(telegram_id=77, display_name="Pending"))

    found = await UserRepository(session).get_by_telegram_id(77)

    assert found is not None
    assert found.display_name == "Pending"


async def test_a_change_in_place_of_a_loaded_value_is_stored_unless_its_entity_is_collected(
    session: AsyncSession, user: User
) -> None:
    users = UserRepository(session)
    session.expunge_all()
    found = await users.get(user.id)
    found.preferences["tone"] = "dry"
    await session.flush()
    preferences = found.preferences
    session.expunge_all()

    assert (await users.get(user.id)).preferences == {"tone": "dry"}

    del found
    gc.collect()
    preferences["tone"] = "kind"  # no variable refers to its entity any more


async def test_a_statement_is_compiled_once(session: AsyncSession, user: User, monkeypatch: pytest.MonkeyPatch) -> None:
    users, notes = UserRepository(session), NoteRepository(session)

    async def work() -> None:
        await users.get(user.id)
        await users.get_by_telegram_id(1)
        await users.set_timezone(user.id, "UTC")
        await notes.add(Note(user_id=user.id, content="milk"))
        await notes.page_for_user(user.id)
        await notes.search(user.id, "milk")

    await work()
    compiled: list[Any] = []
    original = SQLCompiler.__init__

    def count(self: SQLCompiler, *arguments: Any, **options: Any) -> None:
        compiled.append(arguments)
        original(self, *arguments, **options)

    monkeypatch.setattr(SQLCompiler, "__init__", count)
    await work()

    assert compiled == []


async def test_listeners_to_statements_and_loads_are_called(session: AsyncSession, user: User) -> None:
    session.expunge_all()
    loaded: list[Any] = []

    def listen(target: User, _context: Any) -> None:
        loaded.append(target)

    event.listen(User, "load", listen)
    try:
        found = await UserRepository(session).get(user.id)
        assert loaded == [found]
    finally:
        event.remove(User, "load", listen)

    connection = (await session.connection()).sync_connection
    sent: list[str] = []
    event.listen(connection, "before_cursor_execute", lambda *call: sent.append(call[2]))
    assert await UserRepository(session).get(user.id) is found
    assert len(sent) == 1


async def test_an_added_row_has_the_values_that_a_flush_sets(session: AsyncSession, user: User) -> None:
    note = Note(user_id=user.id, content="milk", tags=[" shopping "])

    assert await NoteRepository(session).add(note) is note

    state = inspect(note)
    assert state.persistent
    assert not state.modified
    assert note.created_at is not None
    assert note.tags == ["shopping"], "the listener of the model has run"
    note.tags.append("today")
    await session.flush()
    session.expunge_all()
    assert (await NoteRepository(session).get(note.id)).tags == ["shopping", "today"]


async def test_a_row_added_in_a_rolled_back_savepoint_is_not_in_the_session(session: AsyncSession, user: User) -> None:
    note = Note(user_id=user.id, content="milk")
    savepoint = await session.begin_nested()
    await NoteRepository(session).add(note)

    await savepoint.rollback()

    assert inspect(note).transient
    assert await NoteRepository(session).count() == 0


async def test_an_error_is_translated_and_its_transaction_does_not_count_as_committed(
    cloned_database: URL, use_database: Callable[..., Settings]
) -> None:
    use_database(cloned_database)
    async with get_db() as session:
        await UserRepository(session).add(User(telegram_id=1))

    with pytest.raises(DuplicateKeyError):
        async with get_db() as session:
            await UserRepository(session).add(User(telegram_id=1))

    async def continue_after_an_error() -> None:
        async with get_db() as session:
            users = UserRepository(session)
            await users.add(User(telegram_id=2))
            with pytest.raises(DuplicateKeyError):
                await users.add(User(telegram_id=1))

    with pytest.raises(TransactionAborted):
        await continue_after_an_error()

    async with get_db() as session:
        assert await UserRepository(session).get_by_telegram_id(2) is None
    await engine.dispose()


async def test_a_cancelled_statement_closes_only_its_connection(
    cloned_database: URL, use_database: Callable[..., Settings]
) -> None:
    use_database(cloned_database.update_query_dict({"pool_max": "2"}))
    async with get_db() as session:
        user = await UserRepository(session).add(User(telegram_id=1))

    async def change(timezone: str) -> None:
        async with get_db() as session:
            await UserRepository(session).set_timezone(user.id, timezone)

    async with get_db() as holder:  # has the row locked
        await UserRepository(holder).set_timezone(user.id, "Europe/Paris")
        waiting = asyncio.create_task(change("Europe/Madrid"))
        while engine.sync_engine.pool.checkedout() < 2:  # type: ignore[attr-defined] # noqa: ASYNC110 - there is no event for it
            await asyncio.sleep(0.01)
        waiting.cancel()
        with pytest.raises(asyncio.CancelledError):
            await waiting

    async with get_db() as session:
        assert (await UserRepository(session).get(user.id)).timezone == "Europe/Paris"
    assert engine.sync_engine.pool.checkedout() == 0  # type: ignore[attr-defined] # a sized one
    await engine.dispose()
