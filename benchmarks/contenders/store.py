"""This project's fast path."""

from __future__ import annotations

from typing import Any
from uuid import UUID

from benchmarks.contenders.base import Contender, Place, Said
from src.database import get_engine
from src.database.repositories import NewMessage
from src.database.store import get_store

__all__ = ["StoreContender", "new_message"]


def new_message(said: Said) -> NewMessage:
    """Make of what was said what an adapter hands over."""
    return NewMessage(
        message_id=said.message_id,
        role="user" if said.role == "user" else "assistant",
        content=said.content,
        token_count=said.token_count,
        created_at=said.created_at,
    )


class StoreContender(Contender):
    """`get_store()`, under row-level security, idempotent and without gaps."""

    async def open(self, place: Place) -> None:
        """Nothing: the settings say where, and connections open with the first calls."""

    async def close(self) -> None:
        await get_engine("store").dispose()

    async def user_by_telegram_id(self, telegram_id: int) -> Any:
        return await get_store().user_by_telegram_id(telegram_id)

    async def get_or_create_user(self, telegram_id: int) -> Any:
        return await get_store().get_or_create_user(telegram_id)

    async def append(self, conversation_id: UUID, said: Said) -> Any:
        return await get_store().append(conversation_id, new_message(said))

    append_locked = append

    async def append_many(self, conversation_id: UUID, said: list[Said]) -> Any:
        return await get_store().append_many(conversation_id, [new_message(one) for one in said])

    async def recent(self, conversation_id: UUID, limit: int) -> Any:
        return await get_store().recent(conversation_id, limit=limit)

    async def turn(self, telegram_id: int, chat: str, said: list[Said]) -> Any:
        turn = await get_store().turn(telegram_id, "telegram", chat, [new_message(one) for one in said])
        return turn.recent

    async def pages(self, conversation_id: UUID, pages: int) -> int:
        store, count, cursor = get_store(), 0, None
        for _ in range(pages):
            page = await store.page(conversation_id, after=cursor)
            count, cursor = count + len(page.items), page.next_cursor
        return count

    async def stream(self, user_id: UUID) -> int:
        count = 0
        async for _ in get_store().stream_messages(user_id):
            count += 1
        return count
