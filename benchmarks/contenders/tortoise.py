"""Tortoise as its documentation shows it: models, query sets, `in_transaction`."""

from __future__ import annotations

from typing import Any
from uuid import UUID, uuid4

from tortoise import Tortoise
from tortoise.exceptions import DoesNotExist
from tortoise.expressions import F
from tortoise.transactions import in_transaction

from benchmarks.contenders.base import POOL_SIZE, Contender, Incoming, Place
from benchmarks.contenders.tortoise_models import Conversation, Message, User

__all__ = ["TortoiseOrm"]


class TortoiseOrm(Contender):
    """On asyncpg's pool, as Tortoise creates it."""

    async def open(self, place: Place) -> None:
        await Tortoise.init(
            config={
                "connections": {
                    "default": {
                        "engine": "tortoise.backends.asyncpg",
                        "credentials": {
                            "host": place.host,
                            "port": 5432,
                            "user": place.user,
                            "password": None,
                            "database": place.database,
                            "minsize": POOL_SIZE,
                            "maxsize": POOL_SIZE,
                        },
                    }
                },
                "apps": {"bench": {"models": ["benchmarks.contenders.tortoise_models"]}},
                "use_tz": True,
            }
        )

    async def close(self) -> None:
        await Tortoise.close_connections()

    async def user_by_telegram_id(self, tenant_id: UUID, telegram_id: int) -> Any:
        return await User.get_or_none(tenant_id=tenant_id, telegram_id=telegram_id, deleted_at=None)

    async def get_or_create_user(self, tenant_id: UUID, telegram_id: int) -> Any:
        user, _ = await User.get_or_create(tenant_id=tenant_id, telegram_id=telegram_id, deleted_at=None)
        return user

    async def get_or_start(self, tenant_id: UUID, user_id: UUID, chat: str) -> Any:
        conversation, _ = await Conversation.get_or_create(
            {"session_id": uuid4().hex},
            tenant_id=tenant_id,
            user_id=user_id,
            channel="telegram",
            external_chat_id=chat,
            is_active=True,
            deleted_at=None,
        )
        return conversation

    async def append(self, tenant_id: UUID, conversation_id: UUID, message: Incoming) -> Any:
        async with in_transaction():
            conversation = await self._advance(tenant_id, conversation_id, [message])
            return await Message.create(
                tenant_id=tenant_id,
                conversation_id=conversation_id,
                user_id=conversation.user_id,
                seq=conversation.last_seq,
                **message._asdict(),
            )

    async def append_many(self, tenant_id: UUID, conversation_id: UUID, messages: list[Incoming]) -> Any:
        async with in_transaction():
            conversation = await self._advance(tenant_id, conversation_id, messages)
            new = self._messages(tenant_id, conversation, messages)
            await Message.bulk_create(new)
            return new

    async def recent(self, tenant_id: UUID, conversation_id: UUID, limit: int) -> Any:
        rows = await self._of(tenant_id, conversation_id).order_by("-seq").limit(limit)
        return rows[::-1]

    async def turn(self, tenant_id: UUID, telegram_id: int, chat: str, messages: list[Incoming]) -> Any:
        async with in_transaction():
            user = await User.get(tenant_id=tenant_id, telegram_id=telegram_id, deleted_at=None)
            conversation = await Conversation.get(
                tenant_id=tenant_id,
                user_id=user.id,
                channel="telegram",
                external_chat_id=chat,
                is_active=True,
                deleted_at=None,
            )
            rows = await self._of(tenant_id, conversation.id).order_by("-seq").limit(20)
            conversation = await self._advance(tenant_id, conversation.id, messages)
            await Message.bulk_create(self._messages(tenant_id, conversation, messages))
            return rows[::-1]

    async def pages(self, tenant_id: UUID, conversation_id: UUID, pages: int) -> int:
        count, seq = 0, 0
        for _ in range(pages):
            rows = await self._of(tenant_id, conversation_id).filter(seq__gt=seq).order_by("seq").limit(100)
            count, seq = count + len(rows), rows[-1].seq
        return count

    async def stream(self, tenant_id: UUID, user_id: UUID) -> int:
        count = 0
        of_user = Message.filter(tenant_id=tenant_id, user_id=user_id, deleted_at=None)
        async for _ in of_user.order_by("created_at"):  # reads all of them into memory first
            count += 1
        return count

    def _of(self, tenant_id: UUID, conversation_id: UUID) -> Any:
        return Message.filter(tenant_id=tenant_id, conversation_id=conversation_id, deleted_at=None)

    async def _advance(self, tenant_id: UUID, conversation_id: UUID, messages: list[Incoming]) -> Any:
        """Advance the counter, and read the row that the update has locked: the update returns no row."""
        rows = Conversation.filter(tenant_id=tenant_id, id=conversation_id)
        if not await rows.update(last_seq=F("last_seq") + len(messages), last_message_at=messages[-1].created_at):
            raise DoesNotExist(Conversation)
        return await rows.get()

    def _messages(self, tenant_id: UUID, conversation: Any, messages: list[Incoming]) -> list[Any]:
        first = conversation.last_seq - len(messages) + 1
        return [
            Message(
                tenant_id=tenant_id,
                conversation_id=conversation.id,
                user_id=conversation.user_id,
                seq=first + place,
                **one._asdict(),
            )
            for place, one in enumerate(messages)
        ]
