"""Calls with a typo or a wrong type, each with its correct twin above, for type checkers: no test runs this file.

mypy reports a `type: ignore` that is not needed, so each ignored line is an error. tests/frameworks/test_typos.py also
runs pyright, over a copy without the comments.
"""

from __future__ import annotations

from datetime import datetime
from typing import Any
from uuid import UUID

from sqlalchemy import func

from src.database.base import TenantBase
from src.database.models import Conversation, Event, Note, User, attributes
from src.database.repositories import (
    ConversationRepository,
    EventRepository,
    MessageHistoryRepository,
    NewMessage,
    NoteRepository,
    Repository,
    TenantRepository,
    UserRepository,
)
from src.database.schemas import UserUpdate
from src.database.session import AsyncSession
from src.database.store import Profile, get_store


async def of_users(users: UserRepository, row_id: UUID) -> None:
    await users.update(row_id, display_name="Ada")
    await users.update(row_id, display_nam="Ada")  # type: ignore[call-arg]

    await users.update(row_id, retention_days=None)
    await users.update(row_id, timezone=None)  # type: ignore[arg-type]

    await users.update(row_id, telegram_id=7)
    await users.update(row_id, telegram_id="7")  # type: ignore[arg-type]

    await users.update(row_id, last_seen_at=func.now(), username=func.lower(User.display_name))
    await users.update(row_id, tenant_id=row_id)  # type: ignore[call-arg]

    await users.get_or_create_by_telegram_id(1, display_name="Ada")
    await users.get_or_create_by_telegram_id(1, dislay_name="Ada")  # type: ignore[call-arg]

    await users.upsert({"telegram_id": 1, "display_name": "Ada"}, key=["telegram_id"])
    await users.upsert({"telegram_id": 1, "displayname": "Ada"}, key=["telegram_id"])  # type: ignore[typeddict-unknown-key]

    await users.upsert({"telegram_id": 1, "locale": None}, key=["telegram_id"])
    await users.upsert({"telegram_id": 1, "is_active": None}, key=["telegram_id"])  # type: ignore[typeddict-item]

    await users.add(User(display_name="Ada"))
    await users.add(User(displayname="Ada"))  # type: ignore[call-arg]


async def of_the_others(session: AsyncSession, row_id: UUID, start: datetime) -> None:
    conversations = ConversationRepository(session)
    await conversations.update(row_id, title="x")
    await conversations.update(row_id, titel="x")  # type: ignore[call-arg]

    await conversations.upsert({"user_id": row_id, "channel": "telegram", "session_id": "1"}, key=["session_id"])
    await conversations.update(row_id, user_id=row_id)  # type: ignore[call-arg]

    events = EventRepository(session)
    await events.update(row_id, start_datetime=start, status="cancelled")
    await events.update(row_id, start_datetime=start, status="canceled")  # type: ignore[arg-type]

    await events.upsert({"user_id": row_id, "ical_uid": "1", "title": "x"}, key=["user_id", "ical_uid"])
    await events.upsert({"user_id": row_id, "ical_id": "1", "title": "x"}, key=["user_id", "ical_uid"])  # type: ignore[typeddict-unknown-key]

    notes = NoteRepository(session)
    await notes.update(row_id, pinned=True)
    await notes.update(row_id, pined=True)  # type: ignore[call-arg]

    await notes.add_many([Note(user_id=row_id, content="x"), Note(user_id=row_id, content="y")])
    await notes.add_many([Note(user_id=row_id, content="x"), Note(user_id=row_id, contnet="y")])  # type: ignore[call-arg]

    messages = MessageHistoryRepository(session)
    await messages.update(row_id, output_tokens=7)
    await messages.update(row_id, output_token=7)  # type: ignore[call-arg]

    tenants = TenantRepository(session)
    await tenants.update(row_id, status="suspended")
    await tenants.update(row_id, state="suspended")  # type: ignore[call-arg]


async def of_the_store(conversation: Conversation) -> None:
    await get_store().get_or_create_user(1, Profile(display_name="Ada"))
    await get_store().get_or_create_user(1, Profile(display_nam="Ada"))  # type: ignore[call-arg]

    await get_store().append(conversation.id, NewMessage(message_id="telegram:1", role="user", content="Hello"))
    await get_store().append(conversation.id, NewMessage(message_id="telegram:1", rol="user", content="Hello"))  # type: ignore[call-arg]


class Label(TenantBase):
    """A service's own table has no generated types: the names are checked at run time."""

    __tablename__ = "typing_labels"


class LabelRepository(Repository[Label]):
    """A repository of that table."""

    model = Label


async def of_a_service(session: AsyncSession, event: Event, change: UserUpdate, values: dict[str, Any]) -> None:
    labels = LabelRepository(session)
    label: Label = await labels.update(event.id, color="red")
    await labels.upsert({"id": label.id, "color": "red"}, key=["id"])

    users = UserRepository(session)
    await users.update(event.user_id, **change.to_values())
    await users.update(event.user_id, **values)
    row: attributes.UserUpsert = {"telegram_id": 1}
    await users.upsert({**row, "display_name": "Ada"}, key=["telegram_id"])
    await EventRepository(session).update(event.id, status=event.status, version=2)  # type: ignore[call-arg]
