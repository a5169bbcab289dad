"""This project's repositories, through `get_db` and `get_read_db`, each session in the context of its tenant."""

from __future__ import annotations

from datetime import datetime
from typing import Any
from uuid import UUID

from benchmarks.contenders.base import Contender, Incoming, Place
from benchmarks.contenders.store import new_message
from src.database import engine, get_db, get_read_db, tenant_context
from src.database.models import MessageHistory, Note
from src.database.repositories import (
    ConversationRepository,
    EventRepository,
    MessageHistoryRepository,
    NoteRepository,
    UserRepository,
)

__all__ = ["RepositoriesContender"]


class RepositoriesContender(Contender):
    """As a service uses them: a session for each unit of work."""

    async def open(self, place: Place) -> None:
        """Do nothing: the settings name the database, and the first calls open connections."""

    async def close(self) -> None:
        await engine.dispose()

    async def user_by_telegram_id(self, tenant_id: UUID, telegram_id: int) -> Any:
        with tenant_context(tenant_id):
            async with get_read_db() as session:
                return await UserRepository(session).get_by_telegram_id(telegram_id)

    async def get_or_create_user(self, tenant_id: UUID, telegram_id: int) -> Any:
        with tenant_context(tenant_id):
            async with get_db() as session:
                return await UserRepository(session).get_or_create_by_telegram_id(telegram_id)

    async def get_or_start(self, tenant_id: UUID, user_id: UUID, chat: str) -> Any:
        with tenant_context(tenant_id):
            async with get_db() as session:
                return await ConversationRepository(session).get_or_start(user_id, "telegram", chat)

    async def append(self, tenant_id: UUID, conversation_id: UUID, message: Incoming) -> Any:
        with tenant_context(tenant_id):
            async with get_db() as session:
                return await MessageHistoryRepository(session).append(conversation_id, new_message(message))

    append_locked = append

    async def append_many(self, tenant_id: UUID, conversation_id: UUID, messages: list[Incoming]) -> Any:
        with tenant_context(tenant_id):
            async with get_db() as session:
                new = [new_message(message) for message in messages]
                return await MessageHistoryRepository(session).append_many(conversation_id, new)

    async def recent(self, tenant_id: UUID, conversation_id: UUID, limit: int) -> Any:
        with tenant_context(tenant_id):
            async with get_read_db() as session:
                return await MessageHistoryRepository(session).recent(conversation_id, limit=limit)

    async def turn(self, tenant_id: UUID, telegram_id: int, chat: str, messages: list[Incoming]) -> Any:
        with tenant_context(tenant_id):
            async with get_db() as session:
                user, _ = await UserRepository(session).get_or_create_by_telegram_id(telegram_id)
                conversation, _ = await ConversationRepository(session).get_or_start(user.id, "telegram", chat)
                history = MessageHistoryRepository(session)
                before = await history.recent(conversation.id, limit=20)
                await history.append_many(conversation.id, [new_message(message) for message in messages])
                return before

    async def pages(self, tenant_id: UUID, conversation_id: UUID, pages: int) -> int:
        count, seq = 0, 0
        with tenant_context(tenant_id):
            for _ in range(pages):
                async with get_read_db() as session:
                    rows = await MessageHistoryRepository(session).after(conversation_id, seq, limit=100)
                count, seq = count + len(rows), rows[-1].seq
        return count

    async def stream(self, tenant_id: UUID, user_id: UUID) -> int:
        count = 0
        with tenant_context(tenant_id):
            async with get_read_db() as session:
                async for _ in MessageHistoryRepository(session).stream(MessageHistory.user_id == user_id):
                    count += 1
        return count

    async def search(self, tenant_id: UUID, user_id: UUID, query: str) -> Any:
        with tenant_context(tenant_id):
            async with get_read_db() as session:
                hits = await NoteRepository(session).search(user_id, query, prefix=False, limit=10)
        return [(hit.note, hit.snippet) for hit in hits]

    async def user_by_id(self, tenant_id: UUID, user_id: UUID) -> Any:
        with tenant_context(tenant_id):
            async with get_read_db() as session:
                return await UserRepository(session).get(user_id)

    async def conversations_of(self, tenant_id: UUID, user_id: UUID) -> Any:
        with tenant_context(tenant_id):
            async with get_read_db() as session:
                return (await ConversationRepository(session).page_for_user(user_id, limit=20)).items

    async def notes_of(self, tenant_id: UUID, user_id: UUID) -> Any:
        with tenant_context(tenant_id):
            async with get_read_db() as session:
                return (await NoteRepository(session).page_for_user(user_id, limit=20)).items

    async def upcoming(self, tenant_id: UUID, user_id: UUID, now: datetime) -> Any:
        with tenant_context(tenant_id):
            async with get_read_db() as session:
                return await EventRepository(session).upcoming(user_id, now=now, limit=10)

    async def add_note(self, tenant_id: UUID, user_id: UUID, title: str, content: str) -> Any:
        with tenant_context(tenant_id):
            async with get_db() as session:
                return await NoteRepository(session).add(Note(user_id=user_id, title=title, content=content))

    async def set_timezone(self, tenant_id: UUID, user_id: UUID, timezone: str) -> Any:
        with tenant_context(tenant_id):
            async with get_db() as session:
                return await UserRepository(session).set_timezone(user_id, timezone)
