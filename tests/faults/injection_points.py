"""The injection points: each argument that takes text, and the expected answer."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Any, Final

from sqlalchemy import Text, cast, func, select, text
from sqlalchemy.orm import selectinload

from src.database.base import clean_text, utc_now, uuid7
from src.database.models import Conversation, Event, MessageHistory, Note, User
from src.database.repositories import (
    ConversationRepository,
    EventRepository,
    MessageHistoryRepository,
    NewMessage,
    NoteRepository,
    UserRepository,
)
from src.database.repositories.tenants import TenantRepository
from src.database.session import AsyncSession
from src.database.statements.pagination import encode_cursor
from src.database.store import Profile, Store
from tests.acceptance.calls import Rows

__all__ = ["WAYS", "Place", "Way"]


@dataclass(frozen=True)
class Place:
    """A session of a tenant, its rows, and a store in the same transaction."""

    session: AsyncSession
    rows: Rows
    store: Store


Way = Callable[[Place, str], Awaitable[Any]]


async def named(p: Place, value: str) -> Any:
    found = await UserRepository(p.session).get_by_username(value)
    assert found is None or str(found.username).lower() == clean_text(value.removeprefix("@")).lower()
    return found


async def equal(p: Place, value: str) -> Any:
    found = await NoteRepository(p.session).page(Note.content == value)
    assert all(note.content == clean_text(value) for note in found.items)
    return found


async def one_of(p: Place, value: str) -> Any:
    notes = NoteRepository(p.session)
    assert await notes.count(Note.content.in_([value, "secret"])) == 2
    return await notes.exists(Note.content.not_in([value, "secret"]))


async def containing(p: Place, value: str) -> Any:
    found = await NoteRepository(p.session).page(Note.content.contains(clean_text(value), autoescape=True))
    assert all(clean_text(value) in note.content for note in found.items)
    return found


async def tagged(p: Place, value: str) -> Any:
    found = (await NoteRepository(p.session).page_for_user(p.rows.user, tags=[value])).items
    assert all(note.tags == ["secret"] for note in found)
    return found


async def searched(p: Place, value: str) -> Any:
    notes = NoteRepository(p.session)
    return [
        *await notes.search(p.rows.user, value),
        *await notes.search(p.rows.user, value, prefix=False, tags=["secret", value], match="any"),
    ]


async def by_json_name(p: Place, value: str) -> Any:
    found = await NoteRepository(p.session).page(Note.extra[clean_text(value)].as_string() == clean_text(value))
    assert not found.items, "no row has such a name"
    return found


async def by_json_path(p: Place, value: str) -> Any:
    path = (clean_text(value), clean_text(value))
    found = await NoteRepository(p.session).page(Note.extra[path].as_string() == clean_text(value))
    assert not found.items
    return found


async def by_json_value(p: Place, value: str) -> Any:
    found = await UserRepository(p.session).page(User.preferences.contains({value: [value]}))
    assert not found.items
    return found


async def refused_conditions(p: Place, value: str) -> Any:
    """Conditions that are no expressions over mapped attributes are rejected."""
    notes = NoteRepository(p.session)
    for condition in (value, text("true"), func.length(cast(User.username, Text)) > 0):
        try:
            found = await notes.page(condition)  # type: ignore[arg-type] # what is tested
        except ValueError:
            continue
        raise AssertionError(f"{condition!r} was accepted as a condition: {found!r}")


async def refused_orders(p: Place, value: str) -> Any:
    try:
        found = await NoteRepository(p.session).page(order_by=value)  # type: ignore[arg-type] # what is tested
    except ValueError:
        return None
    raise AssertionError(f"a text was taken for an order: {found!r}")


async def refused_names(p: Place, value: str) -> None:
    """Text in place of the name of an attribute or a group is rejected."""
    notes, messages = NoteRepository(p.session), MessageHistoryRepository(p.session)
    values: dict[str, Any] = {value: value}
    calls: list[Callable[[], Awaitable[Any]]] = [
        lambda: notes.update(p.rows.note, **values),
        lambda: notes.upsert(values, key=[value]),  # type: ignore[arg-type] # what is tested
        lambda: notes.upsert({"id": p.rows.note}, key=[value]),
        lambda: messages.usage(user_id=p.rows.user, by=[value]),  # type: ignore[list-item] # what is tested
        lambda: messages.usage(user_id=p.rows.user, by=["day"], timezone=value),
    ]
    for call in calls:
        try:
            await call()
        except (ValueError, TypeError):
            continue
        if value != "UTC":
            raise AssertionError("a text was taken for a name")


async def cursors(p: Place, value: str) -> Any:
    """Cursors as they arrive, and forged ones: a client can compute the checksum of a query."""
    notes, tenant = NoteRepository(p.session), p.session.tenant_id
    found: list[Any] = []
    forged = [
        encode_cursor([clean_text(value), uuid7()], scope=f"notes:content,id:False:{tenant}"),
        encode_cursor([clean_text(value)], scope=f"notes:content,id:False:{tenant}"),
        encode_cursor([uuid7(), clean_text(value)], scope=f"notes:content,id:False:{tenant}"),
    ]
    for after in (value, *forged):
        try:
            found += (await notes.page(order_by=Note.content, after=after)).items
        except ValueError:
            continue
    try:
        found += (await p.store.page(p.rows.conversation, after=value)).items
    except ValueError:
        return found
    raise AssertionError("a text was taken for a cursor")


async def ids(p: Place, value: str) -> Any:
    for call in (UserRepository(p.session).get_or_none, NoteRepository(p.session).get_or_none):
        try:
            found = await call(value)  # type: ignore[arg-type] # what is tested
        except ValueError:
            continue
        raise AssertionError(f"a text was taken for an id: {found!r}")


async def stored_as_note(p: Place, value: str) -> Any:
    note = Note(
        user_id=p.rows.user, title=value[:200] or None, content=value or "-", extra={value: [value, {value: value}]}
    )
    added = await NoteRepository(p.session).add(note)
    await p.session.refresh(added)
    assert added.content == clean_text(value or "-")
    assert added.extra == {value: [value, {value: value}]}
    return added


async def stored_as_message(p: Place, value: str) -> Any:
    message = NewMessage(
        message_id=f"{uuid7()}{value[:50]}",
        role="user",
        content=value,
        parts=[{value: value}],
        tool_name=value[:60] or None,
    )
    appended = await MessageHistoryRepository(p.session).append(p.rows.conversation, message)
    [*_, last] = await MessageHistoryRepository(p.session).recent(p.rows.conversation)
    assert (last.content, last.parts) == (clean_text(value), [{value: value}])
    return appended


async def stored_by_store(p: Place, value: str) -> Any:
    key = f"{uuid7()}{value[:50]}"
    turn = await p.store.turn(
        987, value[:30] or "-", value[:100] or None, [NewMessage(message_id=key, role="user", content=value)],
        profile=Profile(username=value[:60] or None, display_name=value or None),
    )  # fmt: skip
    [row] = await p.store.recent(turn.conversation.id, limit=1)
    assert row.content == clean_text(value)
    assert row.message_id == clean_text(key)
    assert turn.user.display_name == (clean_text(value) or None)
    return [turn, row]


async def stored_as_event(p: Place, value: str) -> Any:
    event = Event(user_id=p.rows.user, title=value or "-", location=value or None, start_datetime=utc_now())
    added = await EventRepository(p.session).add(event)
    await p.session.refresh(added)
    assert added.title == clean_text(value or "-")
    return added


async def refused_rules(p: Place, value: str) -> Any:
    """Rules and time zones, valid or not: no text becomes part of a statement."""
    events = EventRepository(p.session)
    event = Event(user_id=p.rows.user, title="x", start_datetime=utc_now(), rrule=value, timezone=value)
    return await events.add(event)


async def chats(p: Place, value: str) -> Any:
    conversations = ConversationRepository(p.session)
    found = [
        await conversations.get_by_session_id(value),
        await conversations.get_active(p.rows.user, value, value),
        await conversations.set_summary(p.rows.conversation, value, upto_seq=1, expected_upto=0),
        await conversations.close(p.rows.conversation, reason=value[:60] or None),
    ]
    assert found[:2] == [None, None] or value == "same"
    assert found[2] is not None
    assert found[2].summary == clean_text(value)
    return found


async def keys(p: Place, value: str) -> Any:
    messages = MessageHistoryRepository(p.session)
    assert await messages.get_by_message_id(value) is None or value in {"same", "unfinished"}
    return [
        await EventRepository(p.session).claim_due_reminders(value[:60] or "w"),
        await ConversationRepository(p.session).claim_turn(p.rows.conversation, value[:60] or "w"),
    ]


async def tenants(p: Place, value: str) -> Any:
    registry = TenantRepository(p.session)
    assert await registry.get_by_slug(value) is None
    made = await registry.create(f"s-{uuid7()}", value[:200] or "-")
    await p.session.refresh(made)
    assert made.name == clean_text(value[:200] or "-")


async def mapped(p: Place, value: str) -> Any:
    statement = select(User).where(User.username == value, User.preferences[clean_text(value)].is_not(None))
    return list(await p.session.scalars(statement.options(selectinload(User.notes))))


async def messages_like(p: Place, value: str) -> Any:
    messages = MessageHistoryRepository(p.session)
    found = await messages.page(MessageHistory.content.icontains(clean_text(value), autoescape=True))
    titled = await ConversationRepository(p.session).page(Conversation.title.startswith(clean_text(value)))
    return [*found.items, *titled.items]


WAYS: Final[list[Way]] = [
    named,
    equal,
    one_of,
    containing,
    tagged,
    searched,
    by_json_name,
    by_json_path,
    by_json_value,
    refused_conditions,
    refused_orders,
    refused_names,
    cursors,
    ids,
    stored_as_note,
    stored_as_message,
    stored_by_store,
    stored_as_event,
    refused_rules,
    chats,
    keys,
    tenants,
    mapped,
    messages_like,
]
