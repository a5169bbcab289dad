"""A user with a row of every table, some of them deleted, and another user whose rows refer to them."""

from __future__ import annotations

from datetime import datetime, timedelta
from typing import Any, Final
from uuid import UUID

from sqlalchemy import func, select

from src.database.base import tenant_tables, utc_now
from src.database.models import Conversation, Event, MessageHistory, Note, StateEntry, User, UserIdentity
from src.database.session import AsyncSession

ROWS_OF_A_USER: Final = 11


async def add_user_with_rows(session: AsyncSession, name: str, *, at: datetime | None = None, **values: Any) -> User:
    """Create a user with an identity, a conversation of two messages, a series of events and two notes.

    One message and one note are deleted. The user and the conversation have an entry of state each.
    There are `ROWS_OF_A_USER` rows in all.
    """
    at = at or utc_now()
    user = User(display_name=name, created_at=at, **values)
    session.add(user)
    await session.flush()
    conversation = Conversation(user_id=user.id, channel="telegram", session_id=name, last_seq=2)
    series = Event(user_id=user.id, title=name, start_datetime=at, rrule="FREQ=DAILY")
    session.add_all([conversation, series, UserIdentity(user_id=user.id, provider="mail", subject=name)])
    await session.flush()
    question = message(user, conversation, 1, at)
    session.add(question)
    await session.flush()
    session.add_all(
        [
            message(user, conversation, 2, at, parent_id=question.id, deleted_at=at, fingerprint=b"\1" * 32),
            Event(user_id=user.id, title=name, start_datetime=at, series_id=series.id, recurrence_id=at),
            Note(user_id=user.id, content=name, tags=["a"], source_message_id=question.id),
            Note(user_id=user.id, content=name, deleted_at=at),
            StateEntry(user_id=user.id, namespace="a", key=name, data={"a": [None]}),
            StateEntry(conversation_id=conversation.id, namespace="a", key=name, blob=b"\0"),
        ]
    )
    await session.flush()
    return user


def message(user: User, conversation: Conversation, seq: int, at: datetime, **values: Any) -> MessageHistory:
    return MessageHistory(
        user_id=user.id,
        conversation_id=conversation.id,
        seq=seq,
        message_id=f"{conversation.session_id}:{seq}",
        role="user",
        content="x",
        created_at=at,
        **values,
    )


def days_ago(days: float) -> datetime:
    return utc_now() - timedelta(days=days)


async def first_of(session: AsyncSession, model: Any, user: User) -> Any:
    rows = await session.scalars(select(model).where(model.user_id == user.id).order_by(model.id).limit(1))
    return rows.one()


async def counts(session: AsyncSession, tenant_id: UUID) -> dict[str, int]:
    """Count the rows of every table, deleted ones too."""
    return {
        table.name: await session.scalar(select(func.count()).select_from(table).where(table.c.tenant_id == tenant_id))
        or 0
        for table in tenant_tables()
    }
