"""Two tenants with the same keys: no repository method reads or changes the other's rows.

Once as the application's role, where row-level security and the repositories' own filters both stand; once as a
superuser, whom row-level security does not bind: there the filters stand alone. A method that is added without being
tried here fails the last test.
"""

from __future__ import annotations

import inspect
import re
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass
from datetime import timedelta
from typing import Any
from uuid import UUID

import pytest
from pytest_postgresql.executors import NoopExecutor
from sqlalchemy import event
from sqlalchemy.ext.asyncio import AsyncConnection

from src.config import Settings
from src.database import create_engine
from src.database.base import tenant_tables, utc_now, uuid7
from src.database.connect.embedded import APP_ROLE, SUPERUSER
from src.database.errors import ForeignKeyError, NotFoundError, StaleDataError
from src.database.models import Conversation, Event, MessageHistory, Note, User
from src.database.repositories import (
    ConversationRepository,
    EventRepository,
    MessageHistoryRepository,
    NewMessage,
    NoteRepository,
    Repository,
    UserRepository,
)
from src.database.tenancy import AsyncSession, TenantBinding
from tests.conftest import url_of

REPOSITORIES: list[type[Repository[Any]]] = [
    UserRepository,
    ConversationRepository,
    MessageHistoryRepository,
    EventRepository,
    NoteRepository,
]
TOKEN = uuid7()


@dataclass(frozen=True)
class Rows:
    """The ids of one tenant's rows."""

    user: UUID
    conversation: UUID
    message: UUID
    event: UUID
    note: UUID

    def of(self, model: type) -> UUID:
        by_model: dict[type, UUID] = {
            User: self.user,
            Conversation: self.conversation,
            MessageHistory: self.message,
            Event: self.event,
            Note: self.note,
        }
        return by_model[model]


async def fill(session: AsyncSession) -> Rows:
    """Give a tenant one row of each kind, under keys that every tenant has."""
    user = User(telegram_id=1, username="same")
    session.add(user)
    await session.flush()
    conversation = Conversation(user_id=user.id, channel="telegram", external_chat_id="1", session_id="same")
    session.add(conversation)
    await session.flush()
    message = MessageHistory(
        conversation_id=conversation.id, user_id=user.id, seq=1, message_id="same", role="user", content="secret"
    )
    conversation.last_seq = 1
    now = utc_now() - timedelta(hours=1)
    due = Event(user_id=user.id, title="secret", start_datetime=now, reminder_datetime=now)
    held = Event(
        user_id=user.id,
        title="secret",
        start_datetime=now,
        reminder_token=TOKEN,
        reminder_claimed_by="w",
        reminder_claimed_until=now,
    )
    note = Note(user_id=user.id, content="secret")
    session.add_all([message, due, held, note])
    await session.commit()
    return Rows(user.id, conversation.id, message.id, held.id, note.id)


@dataclass
class World:
    """Tenants A, which has nothing, and B, which has a row of each kind; A acts."""

    session: AsyncSession
    b: Rows
    connection: AsyncConnection
    tenant_b: UUID

    async def rows_of_b(self) -> dict[str, list[Any]]:
        """Read all that B has, as B."""
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


@pytest.fixture(params=[APP_ROLE, SUPERUSER])
async def world(request: pytest.FixtureRequest, postgresql_shared: NoopExecutor) -> AsyncIterator[World]:
    url = url_of(postgresql_shared.template_dbname, request.param)
    engine = create_engine(Settings(ENVIRONMENT="test", DATABASE_URL=url))
    async with engine.connect() as connection:
        outer = await connection.begin()
        a, b = uuid7(), uuid7()
        async with act_as(b, connection) as session:
            rows = await fill(session)
        asked: list[str] = []
        event.listen(connection.sync_connection, "before_cursor_execute", lambda *call: asked.append(call[2]))
        async with act_as(a, connection) as session:
            yield World(session, rows, connection, b)
        await outer.rollback()
    await engine.dispose()
    check_statements(asked)


def check_statements(asked: list[str]) -> None:
    """Want the tenant beside each table that is read or changed: in WHERE, not among the columns."""
    names = "|".join(table.name for table in tenant_tables())
    for statement in asked:
        tables = re.findall(rf"(?:FROM|JOIN|UPDATE|DELETE FROM) (?:{names})\b", statement)
        assert len(re.findall(r"\btenant_id = ", statement)) >= len(tables), statement


Call = Callable[[Any, Rows], Awaitable[Any]]


async def nothing() -> None:
    """Events keep no deleted rows."""


async def streamed(repository: Repository[Any]) -> list[Any]:
    return [row async for row in repository.stream()]


async def page_items(repository: Repository[Any]) -> list[Any]:
    return list((await repository.page()).items)


OF_EVERY_TABLE: dict[str, Call] = {
    "get": lambda r, b: r.get(b.of(r.model)),
    "get_or_none": lambda r, b: r.get_or_none(b.of(r.model)),
    "get_one": lambda r, _: r.get_one(),
    "get_many": lambda r, b: r.get_many([b.of(r.model)]),
    "exists": lambda r, _: r.exists(),
    "count": lambda r, _: r.count(),
    "update": lambda r, b: r.update(b.of(r.model), extra={"stolen": True}),
    "delete": lambda r, b: r.delete(b.of(r.model), hard=True),
    "restore": lambda r, b: r.restore(b.of(r.model)) if hasattr(r.model, "deleted_at") else nothing(),
    "page": lambda r, _: page_items(r),
    "stream": lambda r, _: streamed(r),
}
OF_ONE_TABLE: dict[tuple[type, str], Call] = {
    (UserRepository, "get_by_telegram_id"): lambda r, _: r.get_by_telegram_id(1),
    (ConversationRepository, "get_active"): lambda r, b: r.get_active(b.user, "telegram", "1"),
    (ConversationRepository, "get_or_start"): lambda r, b: r.get_or_start(b.user, "telegram", "1"),
    (MessageHistoryRepository, "append"): lambda r, b: r.append(b.conversation, message("same")),
    (MessageHistoryRepository, "append_many"): lambda r, b: r.append_many(b.conversation, [message("new")]),
    (MessageHistoryRepository, "recent"): lambda r, b: r.recent(b.conversation),
    (MessageHistoryRepository, "get_by_message_id"): lambda r, _: r.get_by_message_id("same"),
    (MessageHistoryRepository, "edit"): lambda r, _: r.edit("same", "stolen", edited_at=utc_now()),
    (EventRepository, "upcoming"): lambda r, b: r.upcoming(b.user, now=utc_now().replace(year=2000)),
    (EventRepository, "claim_due_reminders"): lambda r, _: r.claim_due_reminders("thief"),
    (EventRepository, "ack_reminder"): lambda r, b: r.ack_reminder(b.event, TOKEN),
    (NoteRepository, "search"): lambda r, b: r.search(b.user, "secret"),
}
OWN_ROWS = {"add", "add_many", "upsert", "get_or_create_by_telegram_id"}
"""They make rows, of the acting tenant; each has its test below."""

CALLS = [
    pytest.param(repository, call, id=f"{repository.__name__}.{name}")
    for repository in REPOSITORIES
    for name, call in OF_EVERY_TABLE.items()
] + [
    pytest.param(repository, call, id=f"{repository.__name__}.{name}")
    for (repository, name), call in OF_ONE_TABLE.items()
]


def message(key: str) -> NewMessage:
    return NewMessage(message_id=key, role="user", content="x")


@pytest.mark.parametrize(("repository", "call"), CALLS)
async def test_reads_and_changes_nothing_of_another_tenants(
    world: World, repository: type[Repository[Any]], call: Call
) -> None:
    before = await world.rows_of_b()
    try:
        found = await call(repository(world.session), world.b)
        await world.session.commit()
    except (NotFoundError, StaleDataError):
        found = None
    except ForeignKeyError:
        assert call is OF_ONE_TABLE[ConversationRepository, "get_or_start"], "it should not have got so far"
        found = None
    await world.session.rollback()

    assert not found
    assert await world.rows_of_b() == before


async def test_makes_rows_of_its_own_beside_the_other_tenants(world: World) -> None:
    users = UserRepository(world.session)

    user, created = await users.get_or_create_by_telegram_id(1)
    again = await users.upsert({"telegram_id": 1, "username": "same"}, key=["telegram_id"])
    conversation, started = await ConversationRepository(world.session).get_or_start(user.id, "telegram", "1")
    appended = await MessageHistoryRepository(world.session).append(conversation.id, message("same"))
    await ConversationRepository(world.session).update(conversation.id, is_active=False)
    successor, _ = await ConversationRepository(world.session).get_or_start(user.id, "telegram", "1")
    duplicate = await MessageHistoryRepository(world.session).append(successor.id, message("same"))
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


async def test_what_is_due_for_others_does_not_stand_in_the_way(world: World) -> None:
    user = await UserRepository(world.session).add(User())
    now = utc_now() - timedelta(minutes=1)
    own = await EventRepository(world.session).add(
        Event(user_id=user.id, title="x", start_datetime=now, reminder_datetime=now)
    )
    await world.session.commit()

    assert await EventRepository(world.session).claim_due_reminders("w", limit=1) == [own]


@pytest.mark.parametrize("repository", REPOSITORIES)
def test_every_public_method_is_tried_here(repository: type[Repository[Any]]) -> None:
    public = {name for name, _ in inspect.getmembers(repository, inspect.isfunction) if not name.startswith("_")}
    tried = {*OF_EVERY_TABLE, *OWN_ROWS, *(name for kind, name in OF_ONE_TABLE if kind is repository)}

    assert public <= tried
