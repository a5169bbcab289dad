"""Every kind of failure, with a canary in the values that are written, read or configured."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from contextlib import suppress
from datetime import UTC, datetime
from typing import Any, Final

import psycopg
from sqlalchemy import URL, Uuid, bindparam, select, text

from src.database import get_db, get_read_db
from src.database.base import uuid7
from src.database.models import Event, MessageHistory, Note, User
from src.database.repositories import (
    ConversationRepository,
    EventRepository,
    MessageHistoryRepository,
    NewMessage,
    NoteRepository,
    UserRepository,
)
from src.database.session import tenant_context
from src.database.store import Profile, get_store
from tests.faults.canary import CONTENT

__all__ = ["IN_THE_DATABASE", "USER_TEXT", "Failing"]

USER_TEXT: Final = f"I said {CONTENT}, and 'nothing' else"
NOW: Final = datetime(2026, 1, 1, tzinfo=UTC)


class Failing:
    """A user and a conversation for failing calls, and a superuser's connection."""

    def __init__(self, url: URL, superuser: psycopg.Connection, user: Any, conversation: Any) -> None:
        self.url = url
        self.superuser = superuser
        self.user = user
        self.conversation = conversation

    def end_connections(self) -> None:
        self.superuser.execute(
            "SELECT pg_terminate_backend(pid) FROM pg_stat_activity"
            " WHERE datname = current_database() AND pid <> pg_backend_pid()"
        )


Failure = Callable[[Failing], Awaitable[Any]]


async def _in_session(work: Callable[[Any], Awaitable[Any]]) -> Any:
    async with get_db() as session:
        return await work(session)


async def _added(*rows: Any) -> None:
    async with get_db() as session:
        session.add_all(rows)


async def duplicate(f: Failing) -> None:
    await _added(*(MessageHistory(
        conversation_id=f.conversation, user_id=f.user, seq=seq, message_id=USER_TEXT, role="user", content=USER_TEXT
    ) for seq in (100, 101)))  # fmt: skip


async def conflict(f: Failing) -> None:
    async def twice(session: Any) -> None:
        for content in (USER_TEXT, f"{USER_TEXT}!"):
            message = NewMessage(message_id="same", role="user", content=content, parts=[{"text": USER_TEXT}])
            await MessageHistoryRepository(session).append(f.conversation, message)

    await _in_session(twice)


async def conflict_in_store(f: Failing) -> None:
    for content in (USER_TEXT, f"{USER_TEXT}!"):
        await get_store().append(f.conversation, NewMessage(message_id="again", role="user", content=content))


async def checked(f: Failing) -> None:
    await _added(User(display_name=CONTENT * 100, preferences={"x": USER_TEXT}))


async def checked_in_store(f: Failing) -> None:
    await get_store().get_or_create_user(77, Profile(display_name=CONTENT * 100))


async def not_null(f: Failing) -> None:
    await _added(Note(user_id=f.user, content=None, title=USER_TEXT, tags=[USER_TEXT]))  # type: ignore[arg-type] # what is tested


async def foreign(f: Failing) -> None:
    await _added(Note(user_id=uuid7(), content=USER_TEXT))


async def for_another(f: Failing) -> None:
    await _in_session(
        lambda session: session.execute(
            text("INSERT INTO users (tenant_id, id, display_name) VALUES (:t, :i, :said)"),
            {"t": uuid7(), "i": uuid7(), "said": USER_TEXT},
        )
    )


async def bad_value(f: Failing) -> None:
    await _in_session(
        lambda session: session.execute(text("SELECT CAST(CAST(:x AS text) AS integer)"), {"x": USER_TEXT})
    )


async def bad_value_of_the_drivers(f: Failing) -> None:
    await _in_session(lambda session: session.execute(text("SELECT CAST(:x AS integer)"), {"x": USER_TEXT}))


async def bad_type(f: Failing) -> None:
    await _added(Event(user_id=f.user, title=USER_TEXT, start_datetime=USER_TEXT))  # type: ignore[arg-type] # what is tested


async def naive(f: Failing) -> None:
    await _added(Event(user_id=f.user, title=USER_TEXT, start_datetime=NOW.replace(tzinfo=None)))


async def no_uuid(f: Failing) -> None:
    await _in_session(
        lambda session: session.execute(text("SELECT :x").bindparams(bindparam("x", type_=Uuid())), {"x": USER_TEXT})
    )


async def no_json(f: Failing) -> None:
    await _added(Note(user_id=f.user, content=USER_TEXT, extra={USER_TEXT: object()}))


async def syntax(f: Failing) -> None:
    await _in_session(lambda session: session.execute(text("SELEC :x"), {"x": USER_TEXT}))


async def missing_table(f: Failing) -> None:
    await _in_session(lambda session: session.execute(text("SELECT :x FROM nowhere"), {"x": USER_TEXT}))


async def raised_by_a_function(f: Failing) -> None:
    f.superuser.execute(
        "CREATE FUNCTION complain(said text) RETURNS void LANGUAGE plpgsql"
        " AS $$ BEGIN RAISE WARNING '%', said; RAISE EXCEPTION '%', said USING HINT = said, DETAIL = said; END $$"
    )
    await _in_session(lambda session: session.execute(text("SELECT complain(:x)"), {"x": USER_TEXT}))


async def too_slow(f: Failing) -> None:
    async def wait(session: Any) -> None:
        await session.execute(text("SET LOCAL statement_timeout = 20"))
        await session.execute(text("SELECT pg_sleep(5), CAST(:x AS text)"), {"x": USER_TEXT})

    await _in_session(wait)


async def locked_out(f: Failing) -> None:
    with psycopg.connect(f.superuser.info.dsn, autocommit=False) as other:
        other.execute("LOCK TABLE notes")

        async def wait(session: Any) -> None:
            await session.execute(text("SET LOCAL lock_timeout = 20"))
            session.add(Note(user_id=f.user, content=USER_TEXT))
            await session.flush()

        try:
            await _in_session(wait)
        finally:
            other.rollback()


async def connection_lost(f: Failing) -> None:
    async def lose(session: Any) -> None:
        session.add(Note(user_id=f.user, content=USER_TEXT))
        await session.execute(text("SELECT 1"))
        f.end_connections()
        await session.execute(text("SELECT CAST(:x AS text)"), {"x": USER_TEXT})

    await _in_session(lose)


async def connection_lost_in_store(f: Failing) -> None:
    """Wait for the lock of the conversation, and lose the connection meanwhile."""
    with psycopg.connect(f.superuser.info.dsn, autocommit=False) as other:
        other.execute("SELECT FROM conversations WHERE id = %s FOR UPDATE", (f.conversation,))
        message = NewMessage(message_id=f"{uuid7()}", role="user", content=USER_TEXT)
        task = asyncio.ensure_future(get_store().append(f.conversation, message))
        waiting = "SELECT FROM pg_stat_activity WHERE datname = current_database() AND wait_event_type = 'Lock'"
        while not task.done() and not f.superuser.execute(waiting).fetchall():  # noqa: ASYNC110 - there is no event for it
            await asyncio.sleep(0.005)
        f.superuser.execute(
            "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = current_database()"
            " AND wait_event_type = 'Lock'"
        )
        try:
            await task
        finally:
            other.rollback()


async def cancelled(f: Failing) -> None:
    async def wait(session: Any) -> None:
        await session.execute(text("SELECT pg_sleep(5), CAST(:x AS text)"), {"x": USER_TEXT})

    async with asyncio.timeout(0.05):
        await _in_session(wait)


async def aborted(f: Failing) -> None:
    async def continue_after_an_error(session: Any) -> None:
        with suppress(Exception):
            await session.execute(text("SELECT CAST(CAST(:x AS text) AS integer)"), {"x": USER_TEXT})
        session.add(Note(user_id=f.user, content=USER_TEXT))
        await session.flush()

    await _in_session(continue_after_an_error)


async def read_only(f: Failing) -> None:
    async with get_read_db() as session:
        session.add(Note(user_id=f.user, content=USER_TEXT))


async def stale(f: Failing) -> None:
    async def change(session: Any) -> None:
        events = EventRepository(session)
        event = await events.add(Event(user_id=f.user, title=USER_TEXT, start_datetime=NOW))
        await session.execute(text("UPDATE events SET version = version + 1"))
        await events.update(event.id, title=USER_TEXT * 2)

    await _in_session(change)


async def more_than_one(f: Failing) -> None:
    async def read(session: Any) -> None:
        notes = NoteRepository(session)
        await notes.add_many([Note(user_id=f.user, content=USER_TEXT) for _ in range(2)])
        await notes.get_one(Note.content == USER_TEXT)

    await _in_session(read)


async def not_found(f: Failing) -> None:
    await _in_session(
        lambda session: NoteRepository(session).get_one(Note.content == USER_TEXT, Note.title == USER_TEXT)
    )


async def not_loaded(f: Failing) -> None:
    async def read(session: Any) -> Any:
        user = await UserRepository(session).get_one(User.id == f.user)
        user.display_name = USER_TEXT
        return user.notes

    await _in_session(read)


async def bad_condition(f: Failing) -> None:
    condition: Any = select(Note).where(Note.content == USER_TEXT)
    await _in_session(lambda session: NoteRepository(session).get_one(condition))


async def bad_search(f: Failing) -> None:
    await _in_session(lambda session: NoteRepository(session).search(f.user, USER_TEXT * 100))


async def bad_cursor(f: Failing) -> None:
    await _in_session(lambda session: NoteRepository(session).page(after=USER_TEXT))


async def bad_summary(f: Failing) -> None:
    await _in_session(
        lambda session: ConversationRepository(session).set_summary(
            f.conversation, USER_TEXT, upto_seq=10**6, expected_upto=0
        )
    )


async def another_tenant(f: Failing) -> None:
    async def change(session: Any) -> None:
        note = await NoteRepository(session).add(Note(user_id=f.user, content=USER_TEXT))
        with tenant_context(uuid7()):
            note.content = USER_TEXT * 2
            await session.flush()

    await _in_session(change)


IN_THE_DATABASE: Final[list[Failure]] = [
    duplicate, conflict, conflict_in_store, checked, checked_in_store, not_null, foreign, for_another, bad_value,
    bad_value_of_the_drivers, bad_type, naive, no_uuid, no_json, syntax, missing_table, raised_by_a_function, too_slow,
    locked_out, connection_lost, connection_lost_in_store, cancelled, aborted, read_only, stale, more_than_one,
    not_found, not_loaded, bad_condition, bad_search, bad_cursor, bad_summary, another_tenant,
]  # fmt: skip
