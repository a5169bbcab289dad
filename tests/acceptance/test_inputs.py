"""Schemas and repositories together: JSON input becomes the expected row."""

from __future__ import annotations

import json
from datetime import UTC, datetime
from typing import Any

import pytest
from sqlalchemy import select

from src.database.base import Base
from src.database.models import Conversation, Event, Note, Tenant, User
from src.database.repositories import (
    ConversationRepository,
    EventRepository,
    MessageHistoryRepository,
    NoteRepository,
    UserRepository,
)
from src.database.schemas import (
    ConversationCreate,
    ConversationUpdate,
    EventCreate,
    EventUpdate,
    MessageCreate,
    MessageUpdate,
    NoteCreate,
    NoteUpdate,
    TenantCreate,
    UserCreate,
    UserUpdate,
)
from src.database.session import AsyncSession

START = datetime(2026, 3, 1, 12, tzinfo=UTC)


async def stored(session: AsyncSession, row: Base) -> dict[str, Any]:
    """Return the stored row."""
    await session.flush()
    await session.refresh(row)
    return {one.key: getattr(row, one.key) for one in row.__mapper__.column_attrs if one.key != "search"}


@pytest.fixture
async def conversation(session: AsyncSession, user: User) -> Conversation:
    new = ConversationCreate.model_validate(json.loads(f'{{"user_id": "{user.id}", "channel": "web\\u0000"}}'))
    return await ConversationRepository(session).add(Conversation(**new.to_values()))


async def test_a_user_is_created_found_and_changed(session: AsyncSession) -> None:
    new = UserCreate.model_validate(
        {"telegram_id": 2**63 - 1, "username": "x" * 64, "locale": "es-MX", "preferences": {"a": [1, None, "\0"]}}
    )
    users = UserRepository(session)

    user, created = await users.get_or_create_by_telegram_id(**new.to_values())
    change = UserUpdate(locale=None, timezone="America/Mexico_City", retention_days=2**31 - 1)
    await users.update(user.id, **change.to_values())

    assert created
    row = await stored(session, user)
    assert new.to_values() | change.to_values() == {name: row[name] for name in UserCreate.model_fields}


async def test_a_conversation_is_added_and_changed(session: AsyncSession, conversation: Conversation) -> None:
    change = ConversationUpdate(title="Cena", extra={"a": 1})

    await ConversationRepository(session).update(conversation.id, **change.to_values())

    row = await stored(session, conversation)
    assert (row["channel"], row["title"], row["extra"]) == ("web\ufffd", "Cena", {"a": 1})


async def test_a_message_is_appended_edited_and_changed(session: AsyncSession, conversation: Conversation) -> None:
    new = MessageCreate(message_id="m" * 512, role="tool", content="\0", parts=[{"a": 1}], output_tokens=0, extra={})
    messages = MessageHistoryRepository(session)

    appended = await messages.append(conversation.id, new.to_new_message())
    await messages.edit(new.message_id, "later", edited_at=datetime.now(UTC))
    await messages.update(appended.message.id, **MessageUpdate(token_count=7).to_values())

    assert appended.inserted
    row = await stored(session, appended.message)
    assert (row["content"], row["parts"], row["token_count"]) == ("later", [{"a": 1}], 7)
    assert row["extra"]["versions"][0]["content"] == "\ufffd"


async def test_an_event_is_added_and_changed(session: AsyncSession, user: User) -> None:
    new = EventCreate.model_validate(
        {"user_id": str(user.id), "title": "x" * 500, "start_datetime": START.isoformat(), "timezone": "Europe/Madrid"}
        | {"exdates": ["2026-03-08T12:00:00Z"], "rrule": "FREQ=WEEKLY", "reminder_offset": 0}
    )
    events = EventRepository(session)

    event = await events.add(Event(**new.to_values()), now=START.replace(hour=0))
    change = EventUpdate(status="done", end_datetime=START)
    await events.update(event.id, **change.to_values())

    row = await stored(session, event)
    reminded = {"reminder_datetime": START}  # computed from the offset
    assert new.to_values() | reminded | change.to_values() == {name: row[name] for name in EventCreate.model_fields}


async def test_a_note_is_added_and_changed(session: AsyncSession, user: User) -> None:
    new = NoteCreate(user_id=user.id, content="ñ" * 100_000, tags=[str(n) for n in range(64)])
    notes = NoteRepository(session)

    note = await notes.add(Note(**new.to_values()))
    await notes.update(note.id, **NoteUpdate(pinned=True, title="t").to_values())

    row = await stored(session, note)
    assert new.to_values() | {"pinned": True, "title": "t"} == {name: row[name] for name in NoteCreate.model_fields}


async def test_a_tenant_is_registered(session: AsyncSession) -> None:
    new = TenantCreate(slug="a" + "-" * 62, name="\0" * 200, retention_days=1)

    session.add(Tenant(**new.to_values()))

    await session.flush()
    found = await session.scalar(select(Tenant).where(Tenant.slug == new.slug))
    assert found is not None
    assert found.name == "\ufffd" * 200
