"""Django's ORM as its documentation shows it: the asynchronous queries, `sync_to_async` around a transaction."""

from __future__ import annotations

from importlib import import_module
from typing import Any
from uuid import UUID

import django
from asgiref.sync import sync_to_async
from django.conf import settings
from django.db import connections, transaction
from django.db.models import F

from benchmarks.contenders.base import POOL_SIZE, Contender, Place, Said

__all__ = ["DjangoOrm"]


class DjangoOrm(Contender):
    """On psycopg's pool. All of its queries run in one thread, which is how it is asynchronous."""

    async def open(self, place: Place) -> None:
        self._tenant = place.tenant_id
        settings.configure(
            USE_TZ=True,
            DATABASES={
                "default": {
                    "ENGINE": "django.db.backends.postgresql",
                    "NAME": place.database,
                    "USER": place.user,
                    "HOST": place.host,
                    "OPTIONS": {"pool": {"min_size": 1, "max_size": POOL_SIZE}},
                }
            },
        )
        django.setup()
        self._models: Any = import_module("benchmarks.contenders.django_models")

    async def close(self) -> None:
        await sync_to_async(connections.close_all)()
        connections["default"].close_pool()

    async def user_by_telegram_id(self, telegram_id: int) -> Any:
        return await self._models.User.objects.filter(
            tenant_id=self._tenant, telegram_id=telegram_id, deleted_at=None
        ).afirst()

    async def get_or_create_user(self, telegram_id: int) -> Any:
        user, _ = await self._models.User.objects.aget_or_create(
            tenant_id=self._tenant, telegram_id=telegram_id, deleted_at=None
        )
        return user

    async def append(self, conversation_id: UUID, said: Said) -> Any:
        return await sync_to_async(self._append)(conversation_id, [said])

    async def append_many(self, conversation_id: UUID, said: list[Said]) -> Any:
        return await sync_to_async(self._append)(conversation_id, said)

    async def recent(self, conversation_id: UUID, limit: int) -> Any:
        rows = [row async for row in self._of(conversation_id).order_by("-seq")[:limit]]
        return rows[::-1]

    async def turn(self, telegram_id: int, chat: str, said: list[Said]) -> Any:
        return await sync_to_async(self._turn)(telegram_id, chat, said)

    async def pages(self, conversation_id: UUID, pages: int) -> int:
        count, seq = 0, 0
        for _ in range(pages):
            rows = [row async for row in self._of(conversation_id).filter(seq__gt=seq).order_by("seq")[:100]]
            count, seq = count + len(rows), rows[-1].seq
        return count

    async def stream(self, user_id: UUID) -> int:
        count = 0
        of_user = self._models.Message.objects.filter(tenant_id=self._tenant, user_id=user_id, deleted_at=None)
        async for _ in of_user.order_by("created_at").aiterator(chunk_size=1000):
            count += 1
        return count

    def _of(self, conversation_id: UUID) -> Any:
        return self._models.Message.objects.filter(
            tenant_id=self._tenant, conversation_id=conversation_id, deleted_at=None
        )

    def _append(self, conversation_id: UUID, said: list[Said]) -> Any:
        with transaction.atomic():
            talks = self._models.Conversation.objects.filter(tenant_id=self._tenant, id=conversation_id)
            talks.update(last_seq=F("last_seq") + len(said), last_message_at=said[-1].created_at)
            talk = talks.get()
            first = talk.last_seq - len(said) + 1
            messages = [
                self._models.Message(
                    tenant_id=self._tenant,
                    conversation_id=talk.id,
                    user_id=talk.user_id,
                    seq=first + place,
                    **one._asdict(),
                )
                for place, one in enumerate(said)
            ]
            return self._models.Message.objects.bulk_create(messages)

    def _turn(self, telegram_id: int, chat: str, said: list[Said]) -> Any:
        with transaction.atomic():
            user = self._models.User.objects.get(tenant_id=self._tenant, telegram_id=telegram_id, deleted_at=None)
            talk = self._models.Conversation.objects.get(
                tenant_id=self._tenant,
                user_id=user.id,
                channel="telegram",
                external_chat_id=chat,
                is_active=True,
                deleted_at=None,
            )
            rows = list(self._of(talk.id).order_by("-seq")[:20])
            self._append(talk.id, said)
            return rows[::-1]
