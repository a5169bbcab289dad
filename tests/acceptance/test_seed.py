"""thea-db seed: rows that satisfy the rules of the repositories, once, and only in development and test."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta
from typing import Any, cast

import psycopg
import pytest
from sqlalchemy import URL, func, select
from typer.core import TyperGroup
from typer.main import get_command
from typer.testing import CliRunner, Result

from src.config import Settings
from src.database import get_db, tenant_context
from src.database.calendar import Series
from src.database.cli.app import app
from src.database.cli.seed import seed_app
from src.database.errors import ConfigurationError
from src.database.models import Conversation, Event, MessageHistory, User
from src.database.repositories import (
    ConversationRepository,
    EventRepository,
    MessageHistoryRepository,
    NewMessage,
    NoteRepository,
    TenantRepository,
    UserRepository,
)
from src.database.session import AsyncSession

SIZES = ("--tenants", "2", "--users", "24", "--messages", "600", "--until", "2026-03-01")
UNTIL = datetime(2026, 3, 1, tzinfo=UTC)

pytestmark = pytest.mark.usefixtures("cloned_database")


def seed(*arguments: str) -> Result:
    return CliRunner().invoke(seed_app, [*SIZES, *arguments])


def seeded(*arguments: str) -> dict[str, Any]:
    done = seed("--json", *arguments)
    assert done.exit_code == 0, done.exception
    document: dict[str, Any] = json.loads(done.stdout)
    return document


@asynccontextmanager
async def of_tenant(slug: str = "seed-1-1") -> AsyncIterator[AsyncSession]:
    async with get_db() as session:
        tenant = await TenantRepository(session).get_by_slug(slug)
    assert tenant is not None
    with tenant_context(tenant.id):
        async with get_db() as session:
            yield session


def rows(superuser: psycopg.Connection) -> list[tuple[object, ...]]:
    tables = ("tenants", "users", "conversations", "message_history", "events", "notes")
    query = " UNION ALL ".join(f"SELECT '{name}', t.id, md5(t::text) FROM {name} AS t" for name in tables)  # noqa: S608 - names
    return superuser.execute(query + " ORDER BY 1, 2").fetchall()


@pytest.mark.slow
def test_a_repeated_seed_adds_nothing(superuser: psycopg.Connection) -> None:
    first = seeded()
    after_first = rows(superuser)
    again = seeded()
    without_until = CliRunner().invoke(seed_app, [*SIZES[:-2], "--quiet"])

    assert first["inserted"]["message_history"] == 600
    assert first["inserted"]["users"] == 24
    assert sum(first["unchanged"].values()) == 0
    assert again == first | {
        "inserted": dict.fromkeys(first["inserted"], 0),
        "unchanged": first["inserted"],
        "seconds": again["seconds"],
        "messages_per_second": 0,
    }
    assert without_until.exit_code == 0, without_until.exception  # the time of the existing tenants is used
    assert without_until.stdout == without_until.stderr == ""
    assert rows(superuser) == after_first
    assert superuser.execute("SELECT count(*) FROM events WHERE local_start_basis IS NULL").fetchone() == (0,)
    assert {row[0] for row in after_first} >= {
        "tenants",
        "users",
        "conversations",
        "message_history",
        "events",
        "notes",
    }


@pytest.mark.slow
def test_an_interrupted_seed_is_completed(superuser: psycopg.Connection) -> None:
    seeded()
    whole = rows(superuser)
    superuser.execute("DELETE FROM notes")
    superuser.execute("DELETE FROM message_history WHERE tenant_id = (SELECT id FROM tenants WHERE slug = 'seed-1-2')")

    done = seeded()

    assert done["inserted"]["message_history"] == done["tenants"][1]["messages"]
    assert done["inserted"]["users"] == 0
    assert rows(superuser) == whole


@pytest.mark.slow
def test_a_seed_of_another_size_is_not_mixed_in(superuser: psycopg.Connection) -> None:
    seeded()
    before = rows(superuser)

    done = seed("--messages", "601")

    assert isinstance(done.exception, ConfigurationError)
    assert (
        "the tenant seed-1-1 exists, and was created with other options (edition=3 tenants=2 users=24 messages=600"
        in str(done.exception)
    )
    assert "`thea-db tenant erase seed-1-1`" in str(done.exception)
    assert rows(superuser) == before


@pytest.mark.slow
def test_another_size_is_seeded_after_the_suggested_erasure(superuser: psycopg.Connection) -> None:
    seeded()
    superuser.execute("INSERT INTO tenants (id, slug, name) VALUES (gen_random_uuid(), 'real', 'Real')")

    for slug in ("seed-1-1", "seed-1-2"):
        refused = seed("--messages", "601").exception
        command = str(refused).partition("`thea-db ")[2].partition("`")[0]
        assert command.split()[-1] == slug
        assert CliRunner().invoke(app, [*command.split(), "--yes"]).exit_code == 0
    done = seeded("--messages", "601")

    assert done["inserted"]["message_history"] == 601
    assert superuser.execute("SELECT count(*) FROM tenants WHERE slug = 'real'").fetchall() == [(1,)]


def test_a_foreign_tenant_is_not_changed(superuser: psycopg.Connection) -> None:
    superuser.execute("INSERT INTO tenants (id, slug, name) VALUES (gen_random_uuid(), 'seed-1-2', 'Real')")

    assert "was created by another program" in str(seed().exception)
    assert superuser.execute("SELECT slug FROM tenants WHERE slug LIKE 'seed%'").fetchall() == [("seed-1-2",)]


@pytest.mark.parametrize("environment", ["staging", "production"])
def test_a_seed_is_rejected_in_staging_and_production(
    cloned_database: URL, use_database: Callable[..., Settings], environment: str
) -> None:
    use_database(cloned_database, ENVIRONMENT=environment)

    message = f"a seed is generated data: ENVIRONMENT must be development or test, got {environment}"
    assert str(seed().exception) == message


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--until", "soon"), "--until must be like 2026-03-01"),
        (("--until", "1970-01-01"), "--until must be from the year 2000"),
        (("--users", "1"), "--users must be at least one for each tenant, got 1 for 2"),
    ],
)
def test_invalid_options_are_rejected_before_any_write(arguments: tuple[str, ...], message: str) -> None:
    done = seed(*arguments)

    assert isinstance(done.exception, ConfigurationError)
    assert message in str(done.exception)


def test_without_faker_the_error_names_the_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("src.database.cli.seed.commands.find_spec", lambda _name: None)

    done = seed()

    assert isinstance(done.exception, ConfigurationError)
    assert 'pip install "thea-database[seed]"' in str(done.exception)


async def counted(slug: str) -> int | None:
    """Return the row counts of a tenant, as the application role."""
    async with of_tenant(slug) as session:
        return await session.scalar(select(func.count()).select_from(MessageHistory))


@pytest.mark.slow
def test_the_rows_keep_every_rule_that_the_repositories_keep(superuser: psycopg.Connection) -> None:
    for tenant in seeded()["tenants"]:
        assert asyncio.run(counted(tenant["slug"])) == tenant["messages"]

    def none(query: str) -> bool:
        return superuser.execute(query).fetchall() == []

    assert none(
        "SELECT c.id FROM conversations c"
        " LEFT JOIN message_history m ON (m.tenant_id, m.conversation_id) = (c.tenant_id, c.id)"
        " GROUP BY c.tenant_id, c.id HAVING c.last_seq <> count(m.id) OR c.last_seq <> coalesce(max(m.seq), 0)"
        " OR c.last_message_at IS DISTINCT FROM max(m.created_at)"
    )
    assert none(
        "SELECT id FROM message_history WHERE user_id <> (SELECT user_id FROM conversations WHERE id = conversation_id)"
    )
    assert none(
        "SELECT e.id FROM events e LEFT JOIN events s ON (s.tenant_id, s.id) = (e.tenant_id, e.series_id)"
        " WHERE e.series_id IS NOT NULL AND (s.user_id <> e.user_id OR s.rrule IS NULL)"
    )
    asyncio.run(_go_through_the_repositories())


async def _go_through_the_repositories() -> None:
    async with of_tenant() as session:
        users = (await UserRepository(session).page(limit=100)).items
        for user in users:
            await _read_as(session, user)
        await _append_and_retry(session)
        await _remind(session)


async def _read_as(session: AsyncSession, user: User) -> None:
    messages, start = MessageHistoryRepository(session), UNTIL - timedelta(days=30)
    for conversation in (await ConversationRepository(session).page_for_user(user.id)).items:
        tail = await messages.tail(conversation.id, 0, limit=1000)
        numbers = [message.seq for message in tail]
        assert numbers == sorted(set(numbers))
        assert len(await messages.recent(conversation.id, limit=1000)) == len(tail)  # each call has its result
        budget = await messages.recent(conversation.id, token_budget=300)
        assert sum(message.token_count or 0 for message in budget) <= 300
    occurrences = await EventRepository(session).occurrences(user.id, start, UNTIL + timedelta(days=90))
    moved = [one for one in occurrences if one.is_exception]
    assert len({(one.event.id, one.start) for one in occurrences}) == len(occurrences)
    for one in moved:
        assert one.event.series_id is not None
        assert one.recurrence_id in [slot.start for slot in await _slots(session, one.event)]
    if found := await NoteRepository(session).search(user.id, "lista or list or ideas"):
        assert all(hit.note.user_id == user.id for hit in found)
    for usage in await messages.usage(user_id=user.id, since=start, by=["model"]):
        assert usage.messages > 0


async def _slots(session: AsyncSession, event: Event) -> list[Any]:
    assert event.series_id is not None
    series = await EventRepository(session).get(event.series_id)
    assert event.recurrence_id is not None
    return list(
        Series(series).between(event.recurrence_id - timedelta(days=1), event.recurrence_id + timedelta(days=1))
    )


async def _append_and_retry(session: AsyncSession) -> None:
    """Conversations continue, and repeated messages are recognized by their fingerprints."""
    with_tools = select(MessageHistory.conversation_id).where(
        MessageHistory.tenant_id == session.tenant_id, MessageHistory.role == "tool"
    )
    conversation = await session.scalar(
        select(Conversation)
        .where(Conversation.tenant_id == session.tenant_id, Conversation.is_active, Conversation.id.in_(with_tools))
        .limit(1)
    )
    assert conversation is not None
    messages = MessageHistoryRepository(session)
    stored = await messages.recent(conversation.id, limit=1000)
    assert {"user", "assistant", "tool"} <= {message.role for message in stored}
    again = await messages.append_many(conversation.id, [_as_it_came(message) for message in stored])
    assert [one.message.id for one in again if not one.inserted] == [message.id for message in stored]
    new = await messages.append(conversation.id, NewMessage(message_id="telegram:bot:1:1", role="user", content="x"))
    assert (new.inserted, new.message.seq) == (True, stored[-1].seq + 1)
    channel, chat = conversation.channel, conversation.external_chat_id
    found, started = await ConversationRepository(session).get_or_start(conversation.user_id, channel, chat)
    assert (found.id, started) == (conversation.id, False)


def _as_it_came(message: MessageHistory) -> NewMessage:
    versions = message.extra.get("versions")
    return NewMessage(
        message_id=message.message_id,
        role=message.role,
        content=versions[0]["content"] if versions else message.content,
        parts=message.parts,
        attachments=message.attachments,
        tool_call_id=message.tool_call_id,
        tool_name=message.tool_name,
    )


async def _remind(session: AsyncSession) -> None:
    """Most past reminders are sent; a series waits for a future occurrence."""
    events = EventRepository(session)
    due = await session.scalar(
        select(func.count())
        .select_from(Event)
        .where(
            Event.tenant_id == session.tenant_id,
            Event.status == "scheduled",
            Event.reminder_sent_at.is_(None),
            Event.reminder_datetime <= UNTIL,
        )
    )
    assert due is not None
    for event in await events.claim_due_reminders("worker", limit=1000):
        assert event.reminder_token is not None
        await events.ack_reminder(event.id, event.reminder_token)
    series = await session.scalars(
        select(Event).where(
            Event.tenant_id == session.tenant_id, Event.rrule.is_not(None), Event.reminder_datetime.is_not(None)
        )
    )
    assert list(series)


def test_a_progress_bar_is_for_terminals() -> None:
    done = seed()

    assert done.stderr == ""
    assert done.stdout.startswith("seed 1 until 2026-03-01T00:00:00+00:00: seed-1-1, seed-1-2\n")
    assert "600 message_history" in done.stdout
    assert "messages/s" in done.stdout
    assert "seed" in cast("TyperGroup", get_command(app)).commands
