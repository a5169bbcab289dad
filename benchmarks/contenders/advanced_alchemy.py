"""Advanced Alchemy as its documentation shows it: a repository a model, over a session."""

from __future__ import annotations

from typing import Any
from uuid import UUID, uuid4

from advanced_alchemy.filters import LimitOffset, OrderBy
from advanced_alchemy.repository import SQLAlchemyAsyncRepository

from benchmarks.contenders.base import Contender, Incoming
from benchmarks.contenders.sqlalchemy_models import Conversation, Message, User
from benchmarks.contenders.sqlalchemy_orm import SqlalchemyOrm

__all__ = ["AdvancedAlchemy"]


class Users(SQLAlchemyAsyncRepository[User]):
    """Users."""

    model_type = User


class Conversations(SQLAlchemyAsyncRepository[Conversation]):
    """Conversations."""

    model_type = Conversation


class Messages(SQLAlchemyAsyncRepository[Message]):
    """Messages."""

    model_type = Message


class AdvancedAlchemy(SqlalchemyOrm):
    """Repositories in place of statements; they do not stream, so that `stream` is SQLAlchemy's own."""

    async def user_by_telegram_id(self, tenant_id: UUID, telegram_id: int) -> Any:
        async with self._session() as session:
            return await self._found(session, tenant_id, telegram_id)

    async def get_or_create_user(self, tenant_id: UUID, telegram_id: int) -> Any:
        async with self._session() as session:
            user, _ = await Users(session=session).get_or_upsert(
                match_fields=["tenant_id", "telegram_id"],
                upsert=False,
                tenant_id=tenant_id,
                telegram_id=telegram_id,
            )
            await session.commit()
            return user

    async def get_or_start(self, tenant_id: UUID, user_id: UUID, chat: str) -> Any:
        async with self._session() as session:
            conversation, _ = await Conversations(session=session).get_or_upsert(
                match_fields=["tenant_id", "user_id", "channel", "external_chat_id", "is_active"],
                upsert=False,
                tenant_id=tenant_id,
                user_id=user_id,
                channel="telegram",
                external_chat_id=chat,
                is_active=True,
                session_id=uuid4().hex,
            )
            await session.commit()
            return conversation

    async def append(self, tenant_id: UUID, conversation_id: UUID, message: Incoming) -> Any:
        async with self._session() as session:
            conversation = await self._advance(session, tenant_id, conversation_id, [message])
            new = self._message(tenant_id, conversation_id, conversation.user_id, conversation.last_seq, message)
            return await Messages(session=session).add(new, auto_commit=True)

    async def append_many(self, tenant_id: UUID, conversation_id: UUID, messages: list[Incoming]) -> Any:
        async with self._session() as session:
            conversation = await self._advance(session, tenant_id, conversation_id, messages)
            first = conversation.last_seq - len(messages) + 1
            new = [
                self._message(tenant_id, conversation_id, conversation.user_id, first + place, one)
                for place, one in enumerate(messages)
            ]
            return await Messages(session=session).add_many(new, auto_commit=True)

    async def turn(self, tenant_id: UUID, telegram_id: int, chat: str, messages: list[Incoming]) -> Any:
        async with self._session() as session:
            user = await self._found(session, tenant_id, telegram_id)
            conversation = await Conversations(session=session).get_one_or_none(
                tenant_id=tenant_id,
                user_id=user.id,
                channel="telegram",
                external_chat_id=chat,
                is_active=True,
                deleted_at=None,
            )
            before = await self._recent(session, tenant_id, conversation.id, 20)
            last = await self._advance(session, tenant_id, conversation.id, messages)
            first = last.last_seq - len(messages) + 1
            new = [
                self._message(tenant_id, conversation.id, user.id, first + place, one)
                for place, one in enumerate(messages)
            ]
            await Messages(session=session).add_many(new, auto_commit=True)
            return before

    async def pages(self, tenant_id: UUID, conversation_id: UUID, pages: int) -> int:
        count, seq = 0, 0
        for _ in range(pages):
            async with self._session() as session:
                rows = await Messages(session=session).list(
                    Message.seq > seq,
                    OrderBy("seq", "asc"),
                    LimitOffset(limit=100, offset=0),
                    tenant_id=tenant_id,
                    conversation_id=conversation_id,
                    deleted_at=None,
                )
            count, seq = count + len(rows), rows[-1].seq
        return count

    async def _found(self, session: Any, tenant_id: UUID, telegram_id: int) -> Any:
        return await Users(session=session).get_one_or_none(
            tenant_id=tenant_id, telegram_id=telegram_id, deleted_at=None
        )

    async def _recent(self, session: Any, tenant_id: UUID, conversation_id: UUID, limit: int) -> Any:
        rows = await Messages(session=session).list(
            OrderBy("seq", "desc"),
            LimitOffset(limit=limit, offset=0),
            tenant_id=tenant_id,
            conversation_id=conversation_id,
            deleted_at=None,
        )
        return rows[::-1]

    # These would be SQLAlchemy's own, which measures them.
    search = Contender.search
    user_by_id = Contender.user_by_id
    conversations_of = Contender.conversations_of
    notes_of = Contender.notes_of
    upcoming = Contender.upcoming
    add_note = Contender.add_note
    set_timezone = Contender.set_timezone
