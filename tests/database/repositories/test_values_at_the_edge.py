"""Times at the ends of the calendar, invalid ids and values that JSON lacks: rejected by name, or accepted."""

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
from src.database.session import AsyncSession
from src.database.statements.retention import purge_expired

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
            with pytest.raises(ValueError, match=r"(now|before|since|a datetime|within|created_at) must (be|not lead)"):
                await step(session, user, now)
        else:
            await step(session, user, now)


@pytest.mark.parametrize(
    ("row_id", "error"),
    [("nope", ValueError), ("", ValueError), (5, TypeError), (b"x" * 16, TypeError), (None, TypeError)],
)
async def test_an_invalid_id_is_rejected_with_the_name_of_the_argument(
    session: AsyncSession, row_id: Any, error: type[Exception]
) -> None:
    users, messages = UserRepository(session), MessageHistoryRepository(session)
    conversations = ConversationRepository(session)
    for call in (users.get, users.get_or_none, users.update, users.delete, users.restore):
        with pytest.raises(error, match=r"row_id must be a uuid\.UUID, got"):
            await call(row_id)
    with pytest.raises(error, match=r"row_ids must be a uuid\.UUID, got"):
        await users.get_many([uuid7(), row_id])
    for of in (messages.recent, messages.pop, conversations.close):
        with pytest.raises(error, match=r"conversation_id must be a uuid\.UUID, got"):
            await of(row_id)


async def test_an_id_is_accepted_as_text(session: AsyncSession, user: User) -> None:
    as_text: Any = str(user.id)

    assert await UserRepository(session).get(as_text) is user
    assert await UserRepository(session).get_many([as_text]) == [user]


NAN = {"a": [1, {"b": float("nan")}]}
DEEP: Any = []
for _ in range(500):
    DEEP = [DEEP]
WRONG = {
    "NaN": (NAN, r"must have only finite numbers, got nan at \w+(\[0\]|\.x)?\.a\[1\]\.b$"),
    "mixed names": ({1: 1, "a": 2}, r"must have only strings as keys, got int at \w+(\[0\]|\.x)?$"),
    "nesting": ({"a": DEEP}, r"must be nested at most 100 levels deep, got more at \w+(\[0\]|\.x)?\.a\[0\]\[0\]"),
}


async def append_one_of_fifty(session: AsyncSession, user: User, **wrong: Any) -> None:
    found, _ = await ConversationRepository(session).get_or_start(user.id, "telegram")
    messages = [NewMessage(message_id=f"t:b:1:{number}", role="user", content="x") for number in range(50)]
    messages[31] = NewMessage(message_id="t:b:1:31", role="user", content="x", **wrong)
    await MessageHistoryRepository(session).append_many(found.id, messages)


async def append_a_duplicate(session: AsyncSession, user: User, value: Any) -> None:
    """Compare two messages with one key."""
    found, _ = await ConversationRepository(session).get_or_start(user.id, "telegram")
    messages = [NewMessage(message_id="t:b:1:31", role="user", parts=[value]) for _ in range(2)]
    await MessageHistoryRepository(session).append_many(found.id, messages)


async def complete(session: AsyncSession, user: User, value: Any) -> None:
    found, _ = await ConversationRepository(session).get_or_start(user.id, "telegram")
    messages = MessageHistoryRepository(session)
    await messages.append(found.id, NewMessage(message_id="t:b:1:1", role="assistant", state="incomplete"))
    await messages.mark_complete("t:b:1:1", parts=[value])


async def change_in_place(session: AsyncSession, user: User, value: Any) -> None:
    user.preferences["x"] = value
    await session.flush()


async def create_user(session: AsyncSession, user: User, value: Any) -> None:
    await UserRepository(session).get_or_create_by_telegram_id(99, preferences=value)


async def upsert_note(session: AsyncSession, user: User, value: Any) -> None:
    await NoteRepository(session).upsert(
        {"id": uuid7(), "user_id": user.id, "content": "x", "extra": value}, key=["id"]
    )


JSON_STEPS: dict[str, tuple[Callable[[AsyncSession, User, Any], Awaitable[Any]], str]] = {
    "parts": (lambda s, u, v: append_one_of_fifty(s, u, parts=[v]), r"message 't:b:1:31': parts "),
    "attachments": (lambda s, u, v: append_one_of_fifty(s, u, attachments=[v]), r"message 't:b:1:31': attachments "),
    "extra": (lambda s, u, v: append_one_of_fifty(s, u, extra=v), r"message 't:b:1:31': extra "),
    "a duplicate": (append_a_duplicate, r"message 't:b:1:31': parts "),
    "mark_complete": (complete, "parts "),
    "get_or_create": (create_user, "preferences "),
    "add": (lambda s, u, v: NoteRepository(s).add(Note(user_id=u.id, content="x", extra=v)), "extra "),
    "add_many": (
        lambda s, u, v: NoteRepository(s).add_many(
            [Note(user_id=u.id, content="x"), Note(user_id=u.id, content="x", extra=v)]
        ),
        "extra ",
    ),
    "update": (lambda s, u, v: UserRepository(s).update(u.id, preferences=v), "preferences "),
    "upsert": (upsert_note, "extra "),
    "in place": (change_in_place, "preferences "),
}


@pytest.mark.parametrize("wrong", WRONG)
@pytest.mark.parametrize("name", JSON_STEPS)
async def test_a_value_that_jsonb_cannot_store_is_rejected_with_attribute_and_path(
    session: AsyncSession, user: User, name: str, wrong: str
) -> None:
    step, where = JSON_STEPS[name]
    value, rule = WRONG[wrong]

    with pytest.raises(ValueError, match=f"^{where}{rule}"):
        await step(session, user, value)


@pytest.mark.parametrize(
    ("attribute", "value", "rule"),
    [("parts", {"a": 1}, "a list, got dict"), ("extra", ["a"], "a dict, got list"), ("parts", "x", "a list, got str")],
)
async def test_json_of_another_kind_is_refused_by_name(
    session: AsyncSession, user: User, attribute: str, value: Any, rule: str
) -> None:
    with pytest.raises(ValueError, match=f"^{attribute} must be {rule}$"):
        await append_one_of_fifty(session, user, **{attribute: value})


@pytest.mark.parametrize("value", ["text", ["a"], float("nan")])
async def test_preferences_that_are_no_dict_are_refused_by_name(session: AsyncSession, user: User, value: Any) -> None:
    with pytest.raises(ValueError, match=r"^preferences must be a dict, got "):
        await create_user(session, user, value)
