"""The store and the repositories behind one protocol, so that one suite tests both paths."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime, timedelta
from typing import Any, NamedTuple, Protocol
from uuid import UUID

from src.database import get_db
from src.database.repositories import (
    ConversationRepository,
    EventRepository,
    MessageHistoryRepository,
    NewMessage,
    UserRepository,
)
from src.database.statements import Page, Turn, whole_pairs
from src.database.store import Profile, get_store

ROW = (
    "id",
    "conversation_id",
    "user_id",
    "seq",
    "message_id",
    "role",
    "content",
    "parts",
    "attachments",
    "parent_id",
    "tool_call_id",
    "tool_name",
    "model",
    "input_tokens",
    "output_tokens",
    "token_count",
    "state",
    "created_at",
    "edited_at",
    "extra",
)

USER = ("id", "telegram_id", "display_name", "locale", "timezone", "preferences")
CONVERSATION = ("id", "session_id", "channel", "external_chat_id", "title", "summary", "summary_upto_seq", "last_seq")
EVENT = ("id", "title", "start_datetime", "reminder_datetime", "reminder_attempts", "rrule", "extra")


class Stored(NamedTuple):
    message_id: str
    conversation_id: UUID
    seq: int
    inserted: bool
    is_there: bool


class Taken(NamedTuple):
    """The result of a turn: ids, created rows, the numbers of earlier messages, and the appended messages."""

    user_id: UUID
    user_created: bool
    conversation_id: UUID
    conversation_started: bool
    recent: list[int]
    appended: list[Stored]


class Path(Protocol):
    async def get_or_create_user(self, telegram_id: int, **profile: Any) -> tuple[UUID, bool]: ...
    async def user(self, telegram_id: int) -> tuple[Any, ...] | None: ...
    async def append_many(
        self, conversation_id: UUID, messages: Sequence[NewMessage], **options: int | None
    ) -> list[Stored]: ...
    async def recent(self, conversation_id: UUID, **options: Any) -> list[tuple[Any, ...]]: ...
    async def turn(
        self, telegram_id: int, chat: str | None, messages: Sequence[NewMessage], *, idle: timedelta | None = None
    ) -> Taken: ...
    async def claim(self, worker: str, **options: Any) -> list[tuple[Any, ...]]: ...
    async def open(self, session_id: str, user_id: UUID, **options: Any) -> tuple[UUID, bool]: ...
    async def clear(self, conversation_id: UUID, **options: Any) -> int: ...
    async def pop(self, conversation_id: UUID, limit: int = 1, **options: Any) -> list[tuple[Any, ...]]: ...
    async def fork(self, conversation_id: UUID, **options: Any) -> dict[str, Any]: ...
    async def claim_turn(self, conversation_id: UUID, worker: str, **options: Any) -> Turn | None: ...
    async def renew_turn(self, turn: Turn, **options: Any) -> Turn: ...
    async def release_turn(self, turn: Turn) -> None: ...
    async def delete(self, conversation_id: UUID) -> None: ...
    async def latest(self, user_id: UUID, **options: Any) -> Page[Any]: ...
    async def page_since(self, since: datetime, **options: Any) -> Page[Any]: ...
    async def search(self, user_id: UUID, query: str, **options: Any) -> Page[Any]: ...
    async def stream(self, conversation_id: UUID, **options: Any) -> list[tuple[Any, ...]]: ...
    async def last(self, conversation_id: UUID, limit: int) -> list[int]: ...


class ByRepositories:
    async def get_or_create_user(self, telegram_id: int, **profile: Any) -> tuple[UUID, bool]:
        async with get_db() as session:
            user, created = await UserRepository(session).get_or_create_by_telegram_id(telegram_id, **profile)
        return user.id, created

    async def user(self, telegram_id: int) -> tuple[Any, ...] | None:
        async with get_db() as session:
            user = await UserRepository(session).get_by_telegram_id(telegram_id)
        return None if user is None else tuple(getattr(user, name) for name in USER)

    async def append_many(
        self, conversation_id: UUID, messages: Sequence[NewMessage], **options: int | None
    ) -> list[Stored]:
        async with get_db() as session:
            rows = await MessageHistoryRepository(session).append_many(conversation_id, messages, **options)
        return [_stored(one) for one in rows]

    async def recent(self, conversation_id: UUID, **options: Any) -> list[tuple[Any, ...]]:
        async with get_db() as session:
            rows = await MessageHistoryRepository(session).recent(conversation_id, **options)
        return [tuple(getattr(row, name) for name in ROW) for row in rows]

    async def turn(
        self, telegram_id: int, chat: str | None, messages: Sequence[NewMessage], *, idle: timedelta | None = None
    ) -> Taken:
        async with get_db() as session:
            user, created = await UserRepository(session).get_or_create_by_telegram_id(telegram_id)
            conversations, history = ConversationRepository(session), MessageHistoryRepository(session)
            conversation, started = await conversations.get_or_start(user.id, "telegram", chat, idle_timeout=idle)
            appended = [_stored(one) for one in await history.append_many(conversation.id, messages)]
            first = min(
                (one.seq for one in appended if one.conversation_id == conversation.id),
                default=conversation.last_seq + 1,
            )
            before = await history.before(conversation.id, first, limit=20)
            recent = [row.seq for row in whole_pairs(before, following=messages)]
        return Taken(user.id, created, conversation.id, started, recent, appended)

    async def claim(self, worker: str, **options: Any) -> list[tuple[Any, ...]]:
        async with get_db() as session:
            claimed = await EventRepository(session).claim_due_reminders(worker, **options)
        return [tuple(getattr(event, name) for name in EVENT) for event in claimed]

    async def open(self, session_id: str, user_id: UUID, **options: Any) -> tuple[UUID, bool]:
        async with get_db() as session:
            conversation, is_new = await ConversationRepository(session).open(session_id, user_id, **options)
        return conversation.id, is_new

    async def clear(self, conversation_id: UUID, **options: Any) -> int:
        async with get_db() as session:
            return await ConversationRepository(session).clear(conversation_id, **options)

    async def pop(self, conversation_id: UUID, limit: int = 1, **options: Any) -> list[tuple[Any, ...]]:
        async with get_db() as session:
            rows = await MessageHistoryRepository(session).pop(conversation_id, limit, **options)
        return [tuple(getattr(row, name) for name in ROW) for row in rows]

    async def fork(self, conversation_id: UUID, **options: Any) -> dict[str, Any]:
        async with get_db() as session:
            copy = await ConversationRepository(session).fork(conversation_id, **options)
        return {name: getattr(copy, name) for name in CONVERSATION}

    async def claim_turn(self, conversation_id: UUID, worker: str, **options: Any) -> Turn | None:
        async with get_db() as session:
            return await ConversationRepository(session).claim_turn(conversation_id, worker, **options)

    async def renew_turn(self, turn: Turn, **options: Any) -> Turn:
        async with get_db() as session:
            return await ConversationRepository(session).renew_turn(turn, **options)

    async def release_turn(self, turn: Turn) -> None:
        async with get_db() as session:
            await ConversationRepository(session).release_turn(turn)

    async def delete(self, conversation_id: UUID) -> None:
        async with get_db() as session:
            await ConversationRepository(session).delete(conversation_id)

    async def latest(self, user_id: UUID, **options: Any) -> Page[Any]:
        async with get_db() as session:
            return await ConversationRepository(session).latest(user_id, **options)

    async def page_since(self, since: datetime, **options: Any) -> Page[Any]:
        async with get_db() as session:
            return await MessageHistoryRepository(session).page_since(since, **options)

    async def search(self, user_id: UUID, query: str, **options: Any) -> Page[Any]:
        async with get_db() as session:
            return await MessageHistoryRepository(session).search(user_id, query, **options)

    async def stream(self, conversation_id: UUID, **options: Any) -> list[tuple[Any, ...]]:
        async with get_db() as session:
            rows = MessageHistoryRepository(session).stream_conversation(conversation_id, **options)
            return [tuple(getattr(row, name) for name in ROW) async for row in rows]

    async def last(self, conversation_id: UUID, limit: int) -> list[int]:
        async with get_db() as session:
            return [row.seq for row in await MessageHistoryRepository(session).last(conversation_id, limit)]


class ByStore:
    async def get_or_create_user(self, telegram_id: int, **profile: Any) -> tuple[UUID, bool]:
        user, created = await get_store().get_or_create_user(telegram_id, Profile(**profile))
        return user.id, created

    async def user(self, telegram_id: int) -> tuple[Any, ...] | None:
        user = await get_store().user_by_telegram_id(telegram_id)
        return None if user is None else tuple(getattr(user, name) for name in USER)

    async def append_many(
        self, conversation_id: UUID, messages: Sequence[NewMessage], **options: int | None
    ) -> list[Stored]:
        rows = await get_store().append_many(conversation_id, messages, **options)
        return [Stored._make(getattr(row, name) for name in Stored._fields) for row in rows]

    async def recent(self, conversation_id: UUID, **options: Any) -> list[tuple[Any, ...]]:
        rows = await get_store().recent(conversation_id, **options)
        return [tuple(getattr(row, name) for name in ROW) for row in rows]

    async def turn(
        self, telegram_id: int, chat: str | None, messages: Sequence[NewMessage], *, idle: timedelta | None = None
    ) -> Taken:
        turn = await get_store().turn(telegram_id, "telegram", chat, messages, idle_timeout=idle)
        appended = [
            Stored(row.message_id, row.conversation_id, row.seq, row.inserted, row.is_there) for row in turn.appended
        ]
        recent = [row.seq for row in turn.recent]
        return Taken(turn.user.id, turn.user_created, turn.conversation.id, turn.conversation_started, recent, appended)

    async def claim(self, worker: str, **options: Any) -> list[tuple[Any, ...]]:
        claimed = await get_store().claim_due_reminders(worker, **options)
        return [tuple(getattr(event, name) for name in EVENT) for event in claimed]

    async def open(self, session_id: str, user_id: UUID, **options: Any) -> tuple[UUID, bool]:
        conversation, is_new = await get_store().open_conversation(session_id, user_id, **options)
        return conversation.id, is_new

    async def clear(self, conversation_id: UUID, **options: Any) -> int:
        return await get_store().clear(conversation_id, **options)

    async def pop(self, conversation_id: UUID, limit: int = 1, **options: Any) -> list[tuple[Any, ...]]:
        rows = await get_store().pop(conversation_id, limit, **options)
        return [tuple(getattr(row, name) for name in ROW) for row in rows]

    async def fork(self, conversation_id: UUID, **options: Any) -> dict[str, Any]:
        copy = await get_store().fork(conversation_id, **options)
        return {name: getattr(copy, name) for name in CONVERSATION}

    async def claim_turn(self, conversation_id: UUID, worker: str, **options: Any) -> Turn | None:
        return await get_store().claim_turn(conversation_id, worker, **options)

    async def renew_turn(self, turn: Turn, **options: Any) -> Turn:
        return await get_store().renew_turn(turn, **options)

    async def release_turn(self, turn: Turn) -> None:
        await get_store().release_turn(turn)

    async def delete(self, conversation_id: UUID) -> None:
        await get_store().delete_conversation(conversation_id)

    async def latest(self, user_id: UUID, **options: Any) -> Page[Any]:
        return await get_store().latest_conversations(user_id, **options)

    async def page_since(self, since: datetime, **options: Any) -> Page[Any]:
        return await get_store().page_since(since, **options)

    async def search(self, user_id: UUID, query: str, **options: Any) -> Page[Any]:
        return await get_store().search(user_id, query, **options)

    async def stream(self, conversation_id: UUID, **options: Any) -> list[tuple[Any, ...]]:
        rows = get_store().stream_conversation(conversation_id, **options)
        return [tuple(getattr(row, name) for name in ROW) async for row in rows]

    async def last(self, conversation_id: UUID, limit: int) -> list[int]:
        return [row.seq for row in await get_store().last(conversation_id, limit)]


def _stored(one: Any) -> Stored:
    row = one.message
    return Stored(row.message_id, row.conversation_id, row.seq, one.inserted, one.is_there)


def new_message(key: object, content: str | None = "hello", **values: object) -> NewMessage:
    return NewMessage(message_id=str(key), role=values.pop("role", "user"), content=content, **values)  # type: ignore[arg-type]
