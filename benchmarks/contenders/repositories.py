"""This project's repositories, through `get_db` and `get_read_db`."""

from __future__ import annotations

from datetime import datetime
from typing import Any
from uuid import UUID

from benchmarks.contenders.base import Contender, Place, Said
from benchmarks.contenders.store import new_message
from src.database import engine, get_db, get_read_db
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
    """As a service uses them: a session for each piece of work."""

    async def open(self, place: Place) -> None:
        """Nothing: the settings say where, and connections open with the first calls."""

    async def close(self) -> None:
        await engine.dispose()

    async def user_by_telegram_id(self, telegram_id: int) -> Any:
        async with get_read_db() as session:
            return await UserRepository(session).get_by_telegram_id(telegram_id)

    async def get_or_create_user(self, telegram_id: int) -> Any:
        async with get_db() as session:
            return await UserRepository(session).get_or_create_by_telegram_id(telegram_id)

    async def append(self, conversation_id: UUID, said: Said) -> Any:
        async with get_db() as session:
            return await MessageHistoryRepository(session).append(conversation_id, new_message(said))

    append_locked = append

    async def append_many(self, conversation_id: UUID, said: list[Said]) -> Any:
        async with get_db() as session:
            messages = MessageHistoryRepository(session)
            return await messages.append_many(conversation_id, [new_message(one) for one in said])

    async def recent(self, conversation_id: UUID, limit: int) -> Any:
        async with get_read_db() as session:
            return await MessageHistoryRepository(session).recent(conversation_id, limit=limit)

    async def turn(self, telegram_id: int, chat: str, said: list[Said]) -> Any:
        async with get_db() as session:
            user, _ = await UserRepository(session).get_or_create_by_telegram_id(telegram_id)
            talk, _ = await ConversationRepository(session).get_or_start(user.id, "telegram", chat)
            messages = MessageHistoryRepository(session)
            before = await messages.recent(talk.id, limit=20)
            await messages.append_many(talk.id, [new_message(one) for one in said])
            return before

    async def pages(self, conversation_id: UUID, pages: int) -> int:
        count, seq = 0, 0
        for _ in range(pages):
            async with get_read_db() as session:
                rows = await MessageHistoryRepository(session).after(conversation_id, seq, limit=100)
            count, seq = count + len(rows), rows[-1].seq
        return count

    async def stream(self, user_id: UUID) -> int:
        count = 0
        async with get_read_db() as session:
            async for _ in MessageHistoryRepository(session).stream(MessageHistory.user_id == user_id):
                count += 1
        return count

    async def search(self, user_id: UUID, query: str) -> Any:
        async with get_read_db() as session:
            hits = await NoteRepository(session).search(user_id, query, prefix=False, limit=10)
        return [(hit.note, hit.snippet) for hit in hits]

    async def user_by_id(self, user_id: UUID) -> Any:
        async with get_read_db() as session:
            return await UserRepository(session).get(user_id)

    async def conversations_of(self, user_id: UUID) -> Any:
        async with get_read_db() as session:
            return (await ConversationRepository(session).page_for_user(user_id, limit=20)).items

    async def notes_of(self, user_id: UUID) -> Any:
        async with get_read_db() as session:
            return (await NoteRepository(session).page_for_user(user_id, limit=20)).items

    async def upcoming(self, user_id: UUID, now: datetime) -> Any:
        async with get_read_db() as session:
            return await EventRepository(session).upcoming(user_id, now=now, limit=10)

    async def add_note(self, user_id: UUID, title: str, content: str) -> Any:
        async with get_db() as session:
            return await NoteRepository(session).add(Note(user_id=user_id, title=title, content=content))

    async def set_timezone(self, user_id: UUID, timezone: str) -> Any:
        async with get_db() as session:
            return await UserRepository(session).set_timezone(user_id, timezone)
