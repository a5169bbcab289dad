"""Rows are removed while other transactions insert references to them or lock them."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

import psycopg
import pytest
from sqlalchemy import URL, select

from src.database import get_db
from src.database.models import Conversation, MessageHistory, Note, User
from src.database.repositories import (
    MessageHistoryRepository,
    NewMessage,
    NoteRepository,
    UserRepository,
    purge_expired,
)
from src.database.session import AsyncSession
from tests.database.repositories.user_rows import add_user_with_rows, days_ago, first_of, message

SLOWER = """
CREATE FUNCTION wait_a_moment() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN PERFORM pg_sleep(0.4); RETURN NULL; END';
CREATE TRIGGER wait_a_moment BEFORE DELETE ON message_history EXECUTE FUNCTION wait_a_moment();
"""
IN_THE_TRIGGER = "SELECT pid FROM pg_stat_activity WHERE datname = current_database() AND wait_event = 'PgSleep'"
MOMENT = 0.15


async def answer(session: AsyncSession, bob: User, question: MessageHistory) -> None:
    conversation = await first_of(session, Conversation, bob)
    reply = NewMessage(message_id="answer", role="user", content="x", parent_id=question.id)
    await MessageHistoryRepository(session).append(conversation.id, reply)


async def note(session: AsyncSession, bob: User, question: MessageHistory) -> None:
    await NoteRepository(session).add(Note(user_id=bob.id, content="answer", source_message_id=question.id))


async def two_users(**ada: Any) -> tuple[User, User, MessageHistory]:
    async with get_db() as session:
        of_ada, of_bob = await add_user_with_rows(session, "ada", **ada), await add_user_with_rows(session, "bob")
        return of_ada, of_bob, await first_of(session, MessageHistory, of_ada)


async def references_of_bob(bob: User) -> list[Any]:
    """Return the references of Bob's answer and of his note."""
    async with get_db() as session:
        answers = select(MessageHistory.parent_id).where(MessageHistory.message_id == "answer")
        notes = select(Note.source_message_id).where(Note.user_id == bob.id, Note.content == "answer")
        return [*await session.scalars(answers), *await session.scalars(notes)]


@pytest.mark.parametrize("refer", [answer, note])
async def test_a_user_is_erased_while_another_refers_to_a_message(
    cloned_database: URL, refer: Callable[[AsyncSession, User, MessageHistory], Awaitable[None]]
) -> None:
    ada, bob, question = await two_users()

    async def erase() -> dict[str, int]:
        async with get_db() as session:
            return await UserRepository(session).erase(ada.id)

    async with get_db() as session:
        await refer(session, bob, question)
        erasing = asyncio.create_task(erase())
        await asyncio.sleep(MOMENT)
        assert not erasing.done()

    assert (await erasing)["message_history"] == 2
    assert await references_of_bob(bob) == [None]


@pytest.mark.slow
@pytest.mark.parametrize("refer", [answer, note])
async def test_a_purge_clears_a_reference_that_is_inserted_as_it_begins(
    superuser: psycopg.Connection,
    cloned_database: URL,
    refer: Callable[[AsyncSession, User, MessageHistory], Awaitable[None]],
) -> None:
    _, bob, question = await two_users(at=days_ago(2), retention_days=1)
    superuser.execute(SLOWER)

    async def purge() -> dict[str, int]:
        async with get_db() as session:
            return await purge_expired(session)

    async def meanwhile() -> None:
        async with asyncio.timeout(10):
            while not superuser.execute(IN_THE_TRIGGER).fetchall():  # noqa: ASYNC110 - the event is in the server
                await asyncio.sleep(0.01)
        async with get_db() as session:
            await refer(session, bob, question)

    purged, _ = await asyncio.gather(purge(), asyncio.gather(meanwhile(), return_exceptions=True))

    assert purged["message_history"] == 2
    assert await references_of_bob(bob) in ([], [None])


async def test_a_purge_finds_rows_behind_locked_rows(cloned_database: URL) -> None:
    async with get_db() as session:
        ada = await add_user_with_rows(session, "ada", retention_days=1)
        conversation = await first_of(session, Conversation, ada)
        session.add_all(message(ada, conversation, seq, days_ago(20 - seq)) for seq in range(3, 9))
        session.add_all(Note(user_id=ada.id, content="x", deleted_at=days_ago(20 - n)) for n in range(3, 9))

    async with get_db() as holder:
        for model, time in ((MessageHistory, MessageHistory.created_at), (Note, Note.deleted_at)):
            oldest = select(model).where(model.tenant_id == holder.tenant_id, time < days_ago(2)).order_by(time)
            await holder.execute(oldest.limit(4).with_for_update())
        counts = []
        for _ in range(3):
            async with get_db() as session:
                counts.append(await purge_expired(session, limit=1))

    assert [count["message_history"] for count in counts] == [1, 1, 0]
    assert [count["notes"] for count in counts] == [1, 1, 0]
