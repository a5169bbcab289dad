"""SQLModel as its documentation shows it: its own session and models, on SQLAlchemy's asynchronous engine."""

from __future__ import annotations

from typing import Any
from uuid import UUID

from sqlalchemy import update
from sqlmodel import select
from sqlmodel.ext.asyncio.session import AsyncSession

from benchmarks.contenders import sqlmodel_models
from benchmarks.contenders.base import Contender, Said
from benchmarks.contenders.sqlalchemy_orm import SqlalchemyOrm

__all__ = ["SqlmodelOrm"]

Conversation: Any = sqlmodel_models.Conversation
Message: Any = sqlmodel_models.Message
User: Any = sqlmodel_models.User


class SqlmodelOrm(SqlalchemyOrm):
    """`session.exec`."""

    session_class = AsyncSession

    async def user_by_telegram_id(self, telegram_id: int) -> Any:
        async with self._session() as session:
            return (await session.exec(self._user(telegram_id))).first()

    async def get_or_create_user(self, telegram_id: int) -> Any:
        async with self._session() as session:
            user = (await session.exec(self._user(telegram_id))).first()
            if user is None:
                user = User(tenant_id=self._tenant, telegram_id=telegram_id)
                session.add(user)
                await session.commit()
            return user

    async def turn(self, telegram_id: int, chat: str, said: list[Said]) -> Any:
        async with self._session.begin() as session:
            user = (await session.exec(self._user(telegram_id))).one()
            active = select(Conversation).where(
                Conversation.tenant_id == self._tenant,
                Conversation.user_id == user.id,
                Conversation.channel == "telegram",
                Conversation.external_chat_id == chat,
                Conversation.is_active,
                Conversation.deleted_at.is_(None),
            )
            talk = (await session.exec(active)).one()
            messages = await self._recent(session, talk.id, 20)
            last = await self._advance(session, talk.id, said)
            first = last.last_seq - len(said) + 1
            session.add_all(self._message(talk.id, user.id, first + place, one) for place, one in enumerate(said))
            return messages

    async def pages(self, conversation_id: UUID, pages: int) -> int:
        count, seq = 0, 0
        for _ in range(pages):
            async with self._session() as session:
                later = self._messages(conversation_id).where(Message.seq > seq).order_by(Message.seq).limit(100)
                rows = (await session.exec(later)).all()
            count, seq = count + len(rows), rows[-1].seq
        return count

    async def stream(self, user_id: UUID) -> int:
        count = 0
        of_user = select(Message).where(
            Message.tenant_id == self._tenant, Message.user_id == user_id, Message.deleted_at.is_(None)
        )
        async with self._session() as session:
            rows = await session.stream_scalars(of_user.order_by(Message.created_at).execution_options(yield_per=1000))
            async for _ in rows:
                count += 1
        return count

    def _user(self, telegram_id: int) -> Any:
        return select(User).where(
            User.tenant_id == self._tenant, User.telegram_id == telegram_id, User.deleted_at.is_(None)
        )

    def _messages(self, conversation_id: UUID) -> Any:
        return select(Message).where(
            Message.tenant_id == self._tenant,
            Message.conversation_id == conversation_id,
            Message.deleted_at.is_(None),
        )

    async def _recent(self, session: Any, conversation_id: UUID, limit: int) -> Any:
        newest = self._messages(conversation_id).order_by(Message.seq.desc()).limit(limit)
        return (await session.exec(newest)).all()[::-1]

    async def _advance(self, session: Any, conversation_id: UUID, said: list[Said]) -> Any:
        advance = (
            update(Conversation)
            .where(Conversation.tenant_id == self._tenant, Conversation.id == conversation_id)
            .values(last_seq=Conversation.last_seq + len(said), last_message_at=said[-1].created_at)
            .returning(Conversation.last_seq, Conversation.user_id)
            .execution_options(synchronize_session=False)
        )
        return (await session.exec(advance)).one()

    def _message(self, conversation_id: UUID, user_id: UUID, seq: int, said: Said) -> Any:
        return Message(
            tenant_id=self._tenant, conversation_id=conversation_id, user_id=user_id, seq=seq, **said._asdict()
        )

    # SQLAlchemy's own, and measured there.
    search = Contender.search
    user_by_id = Contender.user_by_id
    conversations_of = Contender.conversations_of
    notes_of = Contender.notes_of
    upcoming = Contender.upcoming
    add_note = Contender.add_note
    set_timezone = Contender.set_timezone
