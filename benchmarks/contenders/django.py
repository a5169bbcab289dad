"""Django's ORM as its documentation shows it: the asynchronous queries, `sync_to_async` around a transaction."""

from __future__ import annotations

from importlib import import_module
from typing import Any
from uuid import UUID, uuid4

import django
from asgiref.sync import sync_to_async
from django.conf import settings
from django.db import connections, transaction
from django.db.models import F

from benchmarks.contenders.base import POOL_SIZE, Contender, Incoming, Place

__all__ = ["DjangoOrm"]


class DjangoOrm(Contender):
    """On psycopg's pool. Django runs all queries of its asynchronous interface in one thread."""

    async def open(self, place: Place) -> None:
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

    async def user_by_telegram_id(self, tenant_id: UUID, telegram_id: int) -> Any:
        return await self._models.User.objects.filter(
            tenant_id=tenant_id, telegram_id=telegram_id, deleted_at=None
        ).afirst()

    async def get_or_create_user(self, tenant_id: UUID, telegram_id: int) -> Any:
        user, _ = await self._models.User.objects.aget_or_create(
            tenant_id=tenant_id, telegram_id=telegram_id, deleted_at=None
        )
        return user

    async def get_or_start(self, tenant_id: UUID, user_id: UUID, chat: str) -> Any:
        conversation, _ = await self._models.Conversation.objects.aget_or_create(
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
        return await sync_to_async(self._append)(tenant_id, conversation_id, [message])

    async def append_many(self, tenant_id: UUID, conversation_id: UUID, messages: list[Incoming]) -> Any:
        return await sync_to_async(self._append)(tenant_id, conversation_id, messages)

    async def recent(self, tenant_id: UUID, conversation_id: UUID, limit: int) -> Any:
        rows = [row async for row in self._of(tenant_id, conversation_id).order_by("-seq")[:limit]]
        return rows[::-1]

    async def turn(self, tenant_id: UUID, telegram_id: int, chat: str, messages: list[Incoming]) -> Any:
        return await sync_to_async(self._turn)(tenant_id, telegram_id, chat, messages)

    async def pages(self, tenant_id: UUID, conversation_id: UUID, pages: int) -> int:
        count, seq = 0, 0
        for _ in range(pages):
            rows = [row async for row in self._of(tenant_id, conversation_id).filter(seq__gt=seq).order_by("seq")[:100]]
            count, seq = count + len(rows), rows[-1].seq
        return count

    async def stream(self, tenant_id: UUID, user_id: UUID) -> int:
        count = 0
        of_user = self._models.Message.objects.filter(tenant_id=tenant_id, user_id=user_id, deleted_at=None)
        async for _ in of_user.order_by("created_at").aiterator(chunk_size=1000):
            count += 1
        return count

    def _of(self, tenant_id: UUID, conversation_id: UUID) -> Any:
        return self._models.Message.objects.filter(
            tenant_id=tenant_id, conversation_id=conversation_id, deleted_at=None
        )

    def _append(self, tenant_id: UUID, conversation_id: UUID, messages: list[Incoming]) -> Any:
        with transaction.atomic():
            rows = self._models.Conversation.objects.filter(tenant_id=tenant_id, id=conversation_id)
            rows.update(last_seq=F("last_seq") + len(messages), last_message_at=messages[-1].created_at)
            conversation = rows.get()
            first = conversation.last_seq - len(messages) + 1
            new = [
                self._models.Message(
                    tenant_id=tenant_id,
                    conversation_id=conversation.id,
                    user_id=conversation.user_id,
                    seq=first + place,
                    **one._asdict(),
                )
                for place, one in enumerate(messages)
            ]
            return self._models.Message.objects.bulk_create(new)

    def _turn(self, tenant_id: UUID, telegram_id: int, chat: str, messages: list[Incoming]) -> Any:
        with transaction.atomic():
            user = self._models.User.objects.get(tenant_id=tenant_id, telegram_id=telegram_id, deleted_at=None)
            conversation = self._models.Conversation.objects.get(
                tenant_id=tenant_id,
                user_id=user.id,
                channel="telegram",
                external_chat_id=chat,
                is_active=True,
                deleted_at=None,
            )
            rows = list(self._of(tenant_id, conversation.id).order_by("-seq")[:20])
            self._append(tenant_id, conversation.id, messages)
            return rows[::-1]
