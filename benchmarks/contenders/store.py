"""This project's store: `get_store()`, one call an operation, each in the context of its tenant."""

from __future__ import annotations

from typing import Any
from uuid import UUID

from benchmarks.contenders.base import Contender, Incoming, Place
from src.database import get_engine, tenant_context
from src.database.repositories import NewMessage
from src.database.store import get_store

__all__ = ["StoreContender", "new_message"]


def new_message(message: Incoming) -> NewMessage:
    """Return what an adapter passes to this project for a message."""
    return NewMessage(
        message_id=message.message_id,
        role="user" if message.role == "user" else "assistant",
        content=message.content,
        token_count=message.token_count,
        created_at=message.created_at,
    )


class StoreContender(Contender):
    """Under row-level security, idempotent and without gaps."""

    async def open(self, place: Place) -> None:
        """Do nothing: the settings name the database, and the first calls open connections."""

    async def close(self) -> None:
        await get_engine("store").dispose()

    async def user_by_telegram_id(self, tenant_id: UUID, telegram_id: int) -> Any:
        with tenant_context(tenant_id):
            return await get_store().user_by_telegram_id(telegram_id)

    async def get_or_create_user(self, tenant_id: UUID, telegram_id: int) -> Any:
        with tenant_context(tenant_id):
            return await get_store().get_or_create_user(telegram_id)

    async def append(self, tenant_id: UUID, conversation_id: UUID, message: Incoming) -> Any:
        with tenant_context(tenant_id):
            return await get_store().append(conversation_id, new_message(message))

    append_locked = append

    async def append_many(self, tenant_id: UUID, conversation_id: UUID, messages: list[Incoming]) -> Any:
        with tenant_context(tenant_id):
            return await get_store().append_many(conversation_id, [new_message(message) for message in messages])

    async def recent(self, tenant_id: UUID, conversation_id: UUID, limit: int) -> Any:
        with tenant_context(tenant_id):
            return await get_store().recent(conversation_id, limit=limit)

    async def turn(self, tenant_id: UUID, telegram_id: int, chat: str, messages: list[Incoming]) -> Any:
        with tenant_context(tenant_id):
            new = [new_message(message) for message in messages]
            return (await get_store().turn(telegram_id, "telegram", chat, new)).recent

    async def pages(self, tenant_id: UUID, conversation_id: UUID, pages: int) -> int:
        store, count, cursor = get_store(), 0, None
        with tenant_context(tenant_id):
            for _ in range(pages):
                page = await store.page(conversation_id, after=cursor)
                count, cursor = count + len(page.items), page.next_cursor
        return count

    async def stream(self, tenant_id: UUID, user_id: UUID) -> int:
        count = 0
        with tenant_context(tenant_id):
            async for _ in get_store().stream_messages(user_id):
                count += 1
        return count
