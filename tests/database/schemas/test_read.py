"""Read schemas: of entities and of the store's rows, as JSON and back, without a statement."""

from __future__ import annotations

import json
from typing import Any

import pytest
from pydantic import ValidationError
from sqlalchemy import URL, select
from sqlalchemy.orm import defer

from scripts.attributes import package_mappers
from src.database import get_db
from src.database.base import utc_now
from src.database.errors import LazyLoadError
from src.database.models import Event, Note, User
from src.database.repositories import EventRepository, NewMessage, UserRepository
from src.database.schemas import ConversationRead, EventRead, MessageRead, NoteRead, Page, Read, UserRead
from src.database.session import AsyncSession
from src.database.store import get_store
from tests.database.repositories.user_rows import add_user_with_rows
from tests.database.test_declarations import schema_of

CANARY = "kanarienvogel"


def back(row: Read) -> Read:
    """Return what a client reads from the JSON of a row."""
    return type(row).model_validate_json(row.model_dump_json())


@pytest.mark.parametrize("model", [mapper.class_ for mapper in package_mappers()])
async def test_every_entity_is_json_and_back(session: AsyncSession, model: type[Any]) -> None:
    await add_user_with_rows(session, "Ada", preferences={"tone": ["dry"]})
    session.expunge_all()
    schema = schema_of(model)

    rows = [schema.model_validate(entity) for entity in await session.scalars(select(model))]

    assert rows
    assert [back(row) for row in rows] == rows
    assert all(json.loads(row.model_dump_json()).keys() == schema.model_fields.keys() for row in rows)


async def test_a_page_of_a_repository_is_json_and_back(session: AsyncSession) -> None:
    users = UserRepository(session)
    await users.add_many([User(display_name=name) for name in ("Ada", "Grace", "Barbara")])

    page = Page[UserRead].model_validate(await users.page(limit=2))

    assert [user.display_name for user in page.items] == ["Ada", "Grace"]
    assert Page[UserRead].model_validate_json(page.model_dump_json()) == page
    assert (await users.page(after=page.next_cursor)).items[0].display_name == "Barbara"


async def test_the_rows_of_the_store_are_read_without_what_they_lack(cloned_database: URL) -> None:
    store = get_store()
    turn = await store.turn(
        42, "telegram", "42", [NewMessage(message_id="telegram:1", role="user", content="Hello", extra={"a": 1})]
    )
    async with get_db() as session:
        due = Event(user_id=turn.user.id, title="x", start_datetime=utc_now(), reminder_offset=0)
        await EventRepository(session).add(due)
    messages = Page[MessageRead].model_validate(await store.page(turn.conversation.id))
    [event] = await store.claim_due_reminders("worker")
    read = [UserRead.model_validate(turn.user), ConversationRead.model_validate(turn.conversation)]
    read += [*messages.items, EventRead.model_validate(event)]

    assert messages.items[0].extra == {"a": 1}
    assert [back(row) for row in read] == read
    lacking = [type(row).model_fields.keys() - json.loads(row.model_dump_json()).keys() for row in read]
    assert lacking == [
        {"retention_days", "updated_at", "extra"},
        {"is_active", "closed_at", "close_reason", "updated_at", "extra"},
        {"updated_at"},
        {"status", "exdates", "ical_uid", "reminder_sent_at", "version", "created_at", "updated_at"},
    ]


async def test_an_attribute_that_is_not_loaded_is_an_error_and_no_statement(session: AsyncSession) -> None:
    user = await UserRepository(session).add(User(display_name=CANARY))
    session.expire(user, ["updated_at"])

    with pytest.raises(LazyLoadError, match=r"User\.updated_at is not loaded"):
        UserRead.model_validate(user)
    found = await session.scalars(select(User).options(defer(User.username)).execution_options(populate_existing=True))
    with pytest.raises(LazyLoadError, match=r"User\.username is not loaded"):
        UserRead.model_validate(found.one())
    with pytest.raises(LazyLoadError):  # here getattr would send a statement
        await session.run_sync(lambda _: UserRead.model_validate(user))
    with pytest.raises(LazyLoadError, match=r"Note\.id is not loaded"):
        NoteRead.model_validate(Note(content=CANARY))


async def test_a_row_of_another_table_is_rejected_without_its_content(session: AsyncSession) -> None:
    user = await UserRepository(session).add(User(display_name=CANARY))

    with pytest.raises(ValidationError, match="Field required") as caught:
        NoteRead.model_validate(user)

    assert CANARY not in str(caught.value)
    assert repr(UserRead.model_validate(user)) == f"UserRead(id={user.id!r})"


def test_the_json_schema_states_what_a_client_receives() -> None:
    schema = MessageRead.model_json_schema(mode="serialization")
    properties = schema["properties"]

    assert properties["role"]["enum"] == ["system", "developer", "user", "assistant", "tool"]
    assert properties["updated_at"] == {"title": "Updated At", "type": "string", "format": "date-time"}
    assert properties["content"]["anyOf"] == [{"type": "string"}, {"type": "null"}]
    assert schema["properties"].keys() - set(schema["required"]) == {"updated_at"}
