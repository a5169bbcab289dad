"""Times at the ends of the calendar, and ids that are none: refused by name, or served."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from datetime import UTC, datetime, timedelta, timezone
from typing import Any

import pytest

from src.database.base import uuid7
from src.database.models import Event, Note, User
from src.database.repositories import (
    ConversationRepository,
    EventRepository,
    MessageHistoryRepository,
    NewMessage,
    NoteRepository,
    UserRepository,
)
from src.database.repositories.retention import purge_expired
from src.database.tenancy import AsyncSession

DAY = timedelta(days=1)
FIRST, LAST = datetime.min.replace(tzinfo=UTC), datetime.max.replace(tzinfo=UTC)
BEYOND = [datetime.min.replace(tzinfo=timezone(DAY / 2)), datetime.max.replace(tzinfo=timezone(-DAY / 2))]

Step = Callable[[AsyncSession, User, datetime], Awaitable[Any]]


async def append(session: AsyncSession, user: User, now: datetime) -> None:
    found, _ = await ConversationRepository(session).get_or_start(user.id, "telegram")
    message = NewMessage(message_id=str(uuid7()), role="user", content="x", created_at=now)
    await MessageHistoryRepository(session).append(found.id, message)


async def archive(session: AsyncSession, user: User, now: datetime) -> None:
    note = await NoteRepository(session).add(Note(user_id=user.id, content="x"))
    await NoteRepository(session).archive(note.id, now=now)


async def a_series(session: AsyncSession, user: User) -> Event:
    start = datetime.now(UTC) + timedelta(hours=1)
    event = Event(
        user_id=user.id, title="x", start_datetime=start, reminder_datetime=start - DAY, rrule="FREQ=DAILY"
    )  # fmt: skip
    return await EventRepository(session).add(event)


async def ack(session: AsyncSession, user: User, now: datetime) -> None:
    await a_series(session, user)
    [claimed] = await EventRepository(session).claim_due_reminders("w", limit=1)
    assert claimed.reminder_token is not None
    await EventRepository(session).ack_reminder(claimed.id, claimed.reminder_token, now=now)


async def reschedule(session: AsyncSession, user: User, now: datetime) -> None:
    event = await a_series(session, user)
    await EventRepository(session).reschedule(event.id, start=datetime.now(UTC) + DAY, scope="all", now=now)


STEPS: dict[str, tuple[Step, set[datetime]]] = {
    "append": (append, set()),
    "archive": (archive, set()),
    "purge": (lambda s, _, now: MessageHistoryRepository(s).purge(now), set()),
    "usage": (lambda s, _, now: MessageHistoryRepository(s).usage(since=now, until=now), set()),
    "touch_seen": (lambda s, u, now: UserRepository(s).touch_seen(u.id, now=now), {FIRST}),
    "purge_expired": (lambda s, _, now: purge_expired(s, now=now), {FIRST}),
    "get_or_start": (
        lambda s, u, now: ConversationRepository(s).get_or_start(u.id, "c", idle_timeout=DAY, now=now),
        {FIRST},
    ),
    "close_stale": (lambda s, _, now: ConversationRepository(s).close_stale(DAY, now=now), {FIRST}),
    "upcoming": (lambda s, u, now: EventRepository(s).upcoming(u.id, now=now, within=DAY), {FIRST, LAST}),
    "ack_reminder": (ack, {FIRST, LAST}),
    "reschedule": (reschedule, {FIRST, LAST}),
}
"""And which of the first and the last instant it refuses."""


@pytest.mark.parametrize("name", STEPS)
async def test_the_ends_of_the_calendar_are_served_or_refused_by_name(
    session: AsyncSession, user: User, name: str
) -> None:
    step, refused = STEPS[name]
    for now in (*BEYOND, FIRST, LAST):
        if now in (*BEYOND, *refused):
            with pytest.raises(ValueError, match=r"(now|before|since|a datetime|within) must (be|not lead)"):
                await step(session, user, now)
        else:
            await step(session, user, now)


@pytest.mark.parametrize(
    ("row_id", "error"),
    [("nope", ValueError), ("", ValueError), (5, TypeError), (b"x" * 16, TypeError), (None, TypeError)],
)
async def test_what_is_no_id_is_refused_by_name(session: AsyncSession, row_id: Any, error: type[Exception]) -> None:
    users, messages = UserRepository(session), MessageHistoryRepository(session)
    conversations = ConversationRepository(session)
    for call in (users.get, users.get_or_none, users.update, users.delete, users.restore):
        with pytest.raises(error, match=r"row_id must be a uuid\.UUID, got"):
            await call(row_id)
    with pytest.raises(error, match=r"row_ids must be a uuid\.UUID, got"):
        await users.get_many([uuid7(), row_id])
    for of in (messages.recent, messages.pop_last, conversations.close):
        with pytest.raises(error, match=r"conversation_id must be a uuid\.UUID, got"):
            await of(row_id)


async def test_the_text_of_an_id_is_one(session: AsyncSession, user: User) -> None:
    as_text: Any = str(user.id)

    assert await UserRepository(session).get(as_text) is user
    assert await UserRepository(session).get_many([as_text]) == [user]
