"""Advanced Alchemy as its documentation shows it: a repository a model, over a session."""

from __future__ import annotations

from typing import Any
from uuid import UUID

from advanced_alchemy.filters import LimitOffset, OrderBy
from advanced_alchemy.repository import SQLAlchemyAsyncRepository

from benchmarks.contenders.base import Contender, Said
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
    """Repositories where SQLAlchemy's own page has statements; they do not stream, which stays as it is there."""

    async def user_by_telegram_id(self, telegram_id: int) -> Any:
        async with self._session() as session:
            return await self._found(session, telegram_id)

    async def get_or_create_user(self, telegram_id: int) -> Any:
        async with self._session() as session:
            user, _ = await Users(session=session).get_or_upsert(
                match_fields=["tenant_id", "telegram_id"],
                upsert=False,
                tenant_id=self._tenant,
                telegram_id=telegram_id,
            )
            await session.commit()
            return user

    async def append(self, conversation_id: UUID, said: Said) -> Any:
        async with self._session() as session:
            talk = await self._advance(session, conversation_id, [said])
            message = self._message(conversation_id, talk.user_id, talk.last_seq, said)
            return await Messages(session=session).add(message, auto_commit=True)

    async def append_many(self, conversation_id: UUID, said: list[Said]) -> Any:
        async with self._session() as session:
            talk = await self._advance(session, conversation_id, said)
            first = talk.last_seq - len(said) + 1
            messages = [
                self._message(conversation_id, talk.user_id, first + place, one) for place, one in enumerate(said)
            ]
            return await Messages(session=session).add_many(messages, auto_commit=True)

    async def turn(self, telegram_id: int, chat: str, said: list[Said]) -> Any:
        async with self._session() as session:
            user = await self._found(session, telegram_id)
            talk = await Conversations(session=session).get_one_or_none(
                tenant_id=self._tenant,
                user_id=user.id,
                channel="telegram",
                external_chat_id=chat,
                is_active=True,
                deleted_at=None,
            )
            messages = await self._recent(session, talk.id, 20)
            last = await self._advance(session, talk.id, said)
            first = last.last_seq - len(said) + 1
            new = [self._message(talk.id, user.id, first + place, one) for place, one in enumerate(said)]
            await Messages(session=session).add_many(new, auto_commit=True)
            return messages

    async def pages(self, conversation_id: UUID, pages: int) -> int:
        count, seq = 0, 0
        for _ in range(pages):
            async with self._session() as session:
                rows = await Messages(session=session).list(
                    Message.seq > seq,
                    OrderBy("seq", "asc"),
                    LimitOffset(limit=100, offset=0),
                    tenant_id=self._tenant,
                    conversation_id=conversation_id,
                    deleted_at=None,
                )
            count, seq = count + len(rows), rows[-1].seq
        return count

    async def _found(self, session: Any, telegram_id: int) -> Any:
        return await Users(session=session).get_one_or_none(
            tenant_id=self._tenant, telegram_id=telegram_id, deleted_at=None
        )

    async def _recent(self, session: Any, conversation_id: UUID, limit: int) -> Any:
        rows = await Messages(session=session).list(
            OrderBy("seq", "desc"),
            LimitOffset(limit=limit, offset=0),
            tenant_id=self._tenant,
            conversation_id=conversation_id,
            deleted_at=None,
        )
        return rows[::-1]

    # SQLAlchemy's own, and measured there.
    search = Contender.search
    user_by_id = Contender.user_by_id
    conversations_of = Contender.conversations_of
    notes_of = Contender.notes_of
    upcoming = Contender.upcoming
    add_note = Contender.add_note
    set_timezone = Contender.set_timezone
