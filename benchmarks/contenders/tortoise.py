"""Tortoise as its documentation shows it: models, query sets, `in_transaction`."""

from __future__ import annotations

from typing import Any
from uuid import UUID

from tortoise import Tortoise
from tortoise.exceptions import DoesNotExist
from tortoise.expressions import F
from tortoise.transactions import in_transaction

from benchmarks.contenders.base import POOL_SIZE, Contender, Place, Said
from benchmarks.contenders.tortoise_models import Conversation, Message, User

__all__ = ["TortoiseOrm"]


class TortoiseOrm(Contender):
    """On asyncpg's pool, which Tortoise brings."""

    async def open(self, place: Place) -> None:
        self._tenant = place.tenant_id
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

    async def user_by_telegram_id(self, telegram_id: int) -> Any:
        return await User.get_or_none(tenant_id=self._tenant, telegram_id=telegram_id, deleted_at=None)

    async def get_or_create_user(self, telegram_id: int) -> Any:
        user, _ = await User.get_or_create(tenant_id=self._tenant, telegram_id=telegram_id, deleted_at=None)
        return user

    async def append(self, conversation_id: UUID, said: Said) -> Any:
        async with in_transaction():
            talk = await self._advance(conversation_id, [said])
            return await Message.create(
                tenant_id=self._tenant,
                conversation_id=conversation_id,
                user_id=talk.user_id,
                seq=talk.last_seq,
                **said._asdict(),
            )

    async def append_many(self, conversation_id: UUID, said: list[Said]) -> Any:
        async with in_transaction():
            talk = await self._advance(conversation_id, said)
            messages = self._messages(talk, said)
            await Message.bulk_create(messages)
            return messages

    async def recent(self, conversation_id: UUID, limit: int) -> Any:
        rows = await self._of(conversation_id).order_by("-seq").limit(limit)
        return rows[::-1]

    async def turn(self, telegram_id: int, chat: str, said: list[Said]) -> Any:
        async with in_transaction():
            user = await User.get(tenant_id=self._tenant, telegram_id=telegram_id, deleted_at=None)
            talk = await Conversation.get(
                tenant_id=self._tenant,
                user_id=user.id,
                channel="telegram",
                external_chat_id=chat,
                is_active=True,
                deleted_at=None,
            )
            rows = await self._of(talk.id).order_by("-seq").limit(20)
            talk = await self._advance(talk.id, said)
            await Message.bulk_create(self._messages(talk, said))
            return rows[::-1]

    async def pages(self, conversation_id: UUID, pages: int) -> int:
        count, seq = 0, 0
        for _ in range(pages):
            rows = await self._of(conversation_id).filter(seq__gt=seq).order_by("seq").limit(100)
            count, seq = count + len(rows), rows[-1].seq
        return count

    async def stream(self, user_id: UUID) -> int:
        count = 0
        of_user = Message.filter(tenant_id=self._tenant, user_id=user_id, deleted_at=None)
        async for _ in of_user.order_by("created_at"):  # which has them all in memory first
            count += 1
        return count

    def _of(self, conversation_id: UUID) -> Any:
        return Message.filter(tenant_id=self._tenant, conversation_id=conversation_id, deleted_at=None)

    async def _advance(self, conversation_id: UUID, said: list[Said]) -> Any:
        """Count on, and read the row that the update has locked: it returns none."""
        talks = Conversation.filter(tenant_id=self._tenant, id=conversation_id)
        if not await talks.update(last_seq=F("last_seq") + len(said), last_message_at=said[-1].created_at):
            raise DoesNotExist(Conversation)
        return await talks.get()

    def _messages(self, talk: Any, said: list[Said]) -> list[Any]:
        first = talk.last_seq - len(said) + 1
        return [
            Message(
                tenant_id=self._tenant,
                conversation_id=talk.id,
                user_id=talk.user_id,
                seq=first + place,
                **one._asdict(),
            )
            for place, one in enumerate(said)
        ]
