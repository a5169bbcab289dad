"""Two users become one: every row moves, nothing is lost, and a turn at the same time loses no message."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable
from datetime import timedelta
from typing import Any
from uuid import UUID

import psycopg
import pytest
from sqlalchemy import URL, Column, ForeignKeyConstraint, MetaData, Table, Uuid, select
from sqlalchemy.orm import selectinload

from src.database import get_db
from src.database.base import Base, tenant_tables, utc_now, uuid7
from src.database.errors import DuplicateKeyError, ForeignKeyError, IntegrityError, NotFoundError
from src.database.models import Conversation, Event, Note, User
from src.database.repositories import ConversationRepository, NoteRepository, UserRepository
from src.database.session import AsyncSession, run_transaction
from src.database.statements.user_merges import merge
from src.database.store import Identity, get_store
from tests.acceptance.calls import a_message, listed
from tests.database.repositories.user_rows import add_user_with_rows, counts

WAITING = "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND wait_event_type = 'Lock'"


@pytest.fixture
def users(session: AsyncSession) -> UserRepository:
    return UserRepository(session)


async def add_other(session: AsyncSession, **values: Any) -> User:
    """Add a user with a row of every table; its identity is of another provider than that of the first."""
    other = await add_user_with_rows(session, "bob", **values)
    loaded = await UserRepository(session).get(other.id, options=[selectinload(User.identities)])
    loaded.identities[0].provider = "google"
    await session.flush()
    return other


async def test_every_row_of_the_second_user_becomes_one_of_the_first(
    users: UserRepository, session: AsyncSession, tenant_id: UUID
) -> None:
    ada = await add_user_with_rows(session, "ada", telegram_id=1)
    bob = await add_other(session)
    before = await counts(session, tenant_id)
    exported = len(await listed(users.export(ada.id))) + len(await listed(users.export(bob.id)))

    merged = await users.merge(ada.id, bob.id)

    after = await counts(session, tenant_id)
    assert merged is ada
    assert after == before | {"users": before["users"] - 1}
    assert len(await listed(users.export(ada.id))) == exported - 1
    for table in tenant_tables():
        if "user_id" in table.columns:
            assert set(await session.scalars(select(table.c.user_id))) - {None} == {ada.id}
    with pytest.raises(NotFoundError):
        await listed(users.export(bob.id))
    assert await users.get_by_identity("google", "bob") is ada
    assert await users.get_by_identity("mail", "ada") is ada


async def test_the_first_user_keeps_its_attributes_and_takes_what_it_has_not(users: UserRepository) -> None:
    now = utc_now()
    ada = await users.add(User(username="ada", timezone="Europe/Madrid", preferences={"a": 1}, extra={"x": 1}))
    bob = await users.add(
        User(
            telegram_id=42,
            username="bob",
            locale="es",
            retention_days=7,
            last_seen_at=now,
            preferences={"a": 2, "b": 2},
        )
    )

    await users.merge(ada.id, bob.id)

    assert (ada.telegram_id, ada.username, ada.locale, ada.timezone) == (42, "ada", "es", "Europe/Madrid")
    assert (ada.retention_days, ada.last_seen_at, ada.preferences) == (None, now, {"a": 1, "b": 2})
    assert await users.get_by_telegram_id(42) is ada
    [row] = ada.extra.pop("merged_users")
    assert ada.extra == {"x": 1}
    assert (row["id"], row["username"], row["preferences"]) == (str(bob.id), "bob", {"a": 2, "b": 2})


async def test_the_rows_of_users_merged_earlier_are_kept(users: UserRepository) -> None:
    ada, bob, eve = await users.add_many([User(username=name) for name in ("ada", "bob", "eve")])
    await users.merge(bob.id, eve.id)

    await users.merge(ada.id, bob.id)

    assert [one["username"] for one in ada.extra["merged_users"]] == ["eve", "bob"]
    assert [one["metadata"] for one in ada.extra["merged_users"]] == [{}, {}]


@pytest.mark.parametrize("provider", ["google", "telegram"])
async def test_two_identities_of_one_provider_are_refused(
    users: UserRepository, session: AsyncSession, tenant_id: UUID, provider: str
) -> None:
    ada, bob = await users.add_many([User(), User()])
    for number, user in enumerate((ada, bob), start=1):
        if provider == "telegram":
            await users.update(user.id, telegram_id=number)
        else:
            await users.link(user.id, provider, f"secret-{number}")
    before = await counts(session, tenant_id)

    with pytest.raises(IntegrityError, match=f"both have an identity of provider '{provider}'") as caught:
        await users.merge(ada.id, bob.id)

    assert "secret" not in str(caught.value)
    assert await counts(session, tenant_id) == before
    if provider == "telegram":
        await users.update(bob.id, telegram_id=None)
    else:
        await users.unlink(bob.id, provider, "secret-2")
    assert await users.merge(ada.id, bob.id) is ada


async def test_one_user_and_missing_and_deleted_users_are_refused(users: UserRepository, user: User) -> None:
    deleted = await users.add(User())
    await users.delete(deleted.id)

    with pytest.raises(ValueError, match="other_id must be the id of another user"):
        await users.merge(user.id, user.id)
    for first, second in ((user.id, uuid7()), (uuid7(), user.id), (user.id, deleted.id), (deleted.id, user.id)):
        with pytest.raises(NotFoundError):
            await users.merge(first, second)


@pytest.mark.parametrize("is_first_older", [True, False])
@pytest.mark.parametrize("chat", ["1", None])
async def test_the_older_of_two_active_conversations_of_one_chat_is_closed(
    users: UserRepository, session: AsyncSession, chat: str | None, is_first_older: bool
) -> None:
    now = utc_now()
    ada, bob = await users.add_many([User(), User()])
    ages = {ada.id: 2 if is_first_older else 1, bob.id: 1 if is_first_older else 2}
    for user_id, hours in ages.items():
        for channel, external in (("web", chat), ("web", f"only of {user_id}")):
            session.add(
                Conversation(
                    user_id=user_id, channel=channel, external_chat_id=external, session_id=str(uuid7()),
                    last_message_at=now - timedelta(hours=hours),
                )
            )  # fmt: skip
    await session.flush()
    kept, closed = [
        await ConversationRepository(session).get_active(user_id, "web", chat)
        for user_id in (sorted(ages, key=ages.__getitem__))
    ]

    await users.merge(ada.id, bob.id)

    assert kept is not None
    assert closed is not None
    assert (closed.is_active, closed.close_reason, closed.user_id) == (False, "merged", ada.id)
    assert closed.closed_at is not None
    assert await ConversationRepository(session).get_active(ada.id, "web", chat) is kept
    assert await ConversationRepository(session).count(Conversation.is_active.is_(True)) == 3


async def test_entities_of_the_session_are_those_of_the_first_user(
    users: UserRepository, session: AsyncSession
) -> None:
    ada, bob = await users.add_many([User(), User()])
    note = await NoteRepository(session).add(Note(user_id=bob.id, content="x"))
    await users.get(ada.id, options=[selectinload(User.notes)])

    await users.merge(ada.id, bob.id)

    assert note.user_id == ada.id
    assert bob not in session
    assert (await users.get(ada.id, options=[selectinload(User.notes)])).notes == [note]


async def test_rows_move_in_batches(
    users: UserRepository, session: AsyncSession, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("src.database.statements.user_merges.MERGE_BATCH", 2)
    ada, bob = await users.add_many([User(), User()])
    await NoteRepository(session).add_many([Note(user_id=bob.id, content=str(number)) for number in range(5)])

    await users.merge(ada.id, bob.id)

    assert await NoteRepository(session).count(Note.user_id == ada.id) == 5


async def test_rows_with_one_key_are_refused_by_the_name_of_the_table(
    users: UserRepository, session: AsyncSession
) -> None:
    ada, bob = await users.add_many([User(), User()])
    for user in (ada, bob):
        session.add(Event(user_id=user.id, title="x", start_datetime=utc_now(), ical_uid="secret"))
    await session.flush()

    with pytest.raises(DuplicateKeyError, match="both have a row of events with one key") as caught:
        await users.merge(ada.id, bob.id)

    assert caught.value.constraint == "uq_events_ical_uid"
    assert "secret" not in str(caught.value)


@pytest.mark.parametrize("named", ["user_id", "written_by"])
async def test_a_table_of_a_service_moves_too(superuser: psycopg.Connection, cloned_database: URL, named: str) -> None:
    metadata = MetaData()
    for table in Base.metadata.sorted_tables:
        table.to_metadata(metadata)
    key = ForeignKeyConstraint(["tenant_id", named], ["users.tenant_id", "users.id"])
    ids = [Column(name, Uuid(), primary_key=True) for name in ("tenant_id", "id")]
    diaries = Table("diaries", metadata, *ids, Column(named, Uuid()), key)
    superuser.execute(
        f"CREATE TABLE diaries (tenant_id uuid, id uuid, {named} uuid, PRIMARY KEY (tenant_id, id),"
        f" FOREIGN KEY (tenant_id, {named}) REFERENCES users (tenant_id, id));"
        "GRANT ALL ON diaries TO public"
    )
    async with get_db() as session:
        ada, bob = await UserRepository(session).add_many([User(), User()])
        await session.execute(diaries.insert().values({"tenant_id": session.tenant_id, "id": uuid7(), named: bob.id}))
        await merge(session, ada.id, bob.id, metadata=metadata)

    assert superuser.execute(f"SELECT {named} FROM diaries").fetchall() == [(ada.id,)]  # noqa: S608 - of the parameters


async def taken_by(number: int) -> UUID:
    turn = await get_store().turn(Identity("google", "bob"), "web", str(number % 2), [a_message(str(number))])
    return turn.user.id


@pytest.mark.usefixtures("cloned_database")
async def test_a_turn_during_a_merge_continues_as_one_of_the_first_user(superuser: psycopg.Connection) -> None:
    """Of the two chats, the conversation of the first exists already, and the second starts one."""
    async with get_db() as session:
        ada, _ = await UserRepository(session).get_or_create_by_telegram_id(1)
    bob_id = await taken_by(0)

    async with get_db() as session:
        await UserRepository(session).merge(ada.id, bob_id)
        turns = [asyncio.ensure_future(taken_by(number)) for number in (1, 2)]
        while superuser.execute(WAITING).fetchone() != (2,):  # noqa: ASYNC110 - the server raises no event
            await asyncio.sleep(0.01)

    assert await asyncio.gather(*turns) == [ada.id, ada.id]
    owners = superuser.execute(
        "SELECT m.message_id, m.user_id, c.user_id, c.is_active FROM message_history m JOIN conversations c"
        " ON c.tenant_id = m.tenant_id AND c.id = m.conversation_id ORDER BY m.message_id"
    ).fetchall()
    assert owners == [(str(number), ada.id, ada.id, True) for number in range(3)]


@pytest.mark.usefixtures("cloned_database")
async def test_a_write_under_the_merged_id_during_a_merge_is_refused() -> None:
    async with get_db() as session:
        ada, bob = await UserRepository(session).add_many([User(), User()])

    async def write() -> None:
        async with get_db() as session:
            await NoteRepository(session).add(Note(user_id=bob.id, content="x"))

    async with get_db() as session:
        await UserRepository(session).merge(ada.id, bob.id)
        writing = asyncio.ensure_future(write())
        await asyncio.sleep(0.1)

    with pytest.raises(ForeignKeyError):
        await writing


@pytest.mark.usefixtures("cloned_database")
async def test_merges_and_turns_at_the_same_time_lose_no_message(superuser: psycopg.Connection) -> None:
    async with get_db() as session:
        ada, _ = await UserRepository(session).get_or_create_by_telegram_id(1)
    bob_id = await taken_by(0)

    async def merging(first: UUID, second: UUID) -> None:
        async def work(session: AsyncSession) -> None:
            await UserRepository(session).merge(first, second)

        await run_transaction(work)

    async def taking(number: int) -> UUID:
        async def work(_: AsyncSession) -> UUID:
            return await taken_by(number)

        return await run_transaction(work)

    works: list[Awaitable[Any]] = [taking(number) for number in range(1, 21)]
    works[7:7] = [merging(ada.id, bob_id), merging(bob_id, ada.id)]
    results = await asyncio.gather(*works, return_exceptions=True)

    failed = [one for one in results if isinstance(one, BaseException)]
    assert [type(one) for one in failed] == [NotFoundError]  # the second of the two merges
    [(owner,)] = superuser.execute("SELECT id FROM users").fetchall()
    assert superuser.execute("SELECT count(*), count(DISTINCT message_id) FROM message_history").fetchone() == (21, 21)
    assert superuser.execute("SELECT DISTINCT user_id FROM message_history").fetchall() == [(owner,)]
    assert superuser.execute("SELECT DISTINCT user_id FROM conversations").fetchall() == [(owner,)]
