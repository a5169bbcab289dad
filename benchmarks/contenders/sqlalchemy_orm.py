"""SQLAlchemy's ORM as its documentation shows it: AsyncSession, selects of entities, `pool_pre_ping`."""

from __future__ import annotations

from datetime import datetime
from typing import Any
from uuid import UUID, uuid4

from sqlalchemy import URL, func, select, update
from sqlalchemy.ext.asyncio import async_sessionmaker, create_async_engine

from benchmarks.contenders.base import POOL_SIZE, Contender, Incoming, Place
from benchmarks.contenders.sqlalchemy_models import Conversation, Event, Message, Note, User

__all__ = ["SqlalchemyOrm"]


class SqlalchemyOrm(Contender):
    """A session for each unit of work, `begin()` where it writes."""

    async def open(self, place: Place) -> None:
        url = URL.create("postgresql+asyncpg", username=place.user, database=place.database, query={"host": place.host})
        self._engine = create_async_engine(url, pool_size=POOL_SIZE, max_overflow=0, pool_pre_ping=True)
        self._session: Any = async_sessionmaker(self._engine, expire_on_commit=False)

    async def close(self) -> None:
        await self._engine.dispose()

    async def user_by_telegram_id(self, tenant_id: UUID, telegram_id: int) -> Any:
        async with self._session() as session:
            return await session.scalar(self._user(tenant_id, telegram_id))

    async def get_or_create_user(self, tenant_id: UUID, telegram_id: int) -> Any:
        async with self._session() as session:
            user = await session.scalar(self._user(tenant_id, telegram_id))
            if user is None:
                user = User(tenant_id=tenant_id, telegram_id=telegram_id)
                session.add(user)
                await session.commit()
            return user

    async def get_or_start(self, tenant_id: UUID, user_id: UUID, chat: str) -> Any:
        async with self._session() as session:
            conversation = await session.scalar(self._active(tenant_id, user_id, chat))
            if conversation is None:
                conversation = Conversation(
                    tenant_id=tenant_id,
                    user_id=user_id,
                    session_id=uuid4().hex,
                    channel="telegram",
                    external_chat_id=chat,
                )
                session.add(conversation)
                await session.commit()
            return conversation

    async def append(self, tenant_id: UUID, conversation_id: UUID, message: Incoming) -> Any:
        async with self._session.begin() as session:
            conversation = await self._advance(session, tenant_id, conversation_id, [message])
            new = self._message(tenant_id, conversation_id, conversation.user_id, conversation.last_seq, message)
            session.add(new)
            return new

    async def append_many(self, tenant_id: UUID, conversation_id: UUID, messages: list[Incoming]) -> Any:
        async with self._session.begin() as session:
            conversation = await self._advance(session, tenant_id, conversation_id, messages)
            first = conversation.last_seq - len(messages) + 1
            new = [
                self._message(tenant_id, conversation_id, conversation.user_id, first + place, one)
                for place, one in enumerate(messages)
            ]
            session.add_all(new)
            return new

    async def recent(self, tenant_id: UUID, conversation_id: UUID, limit: int) -> Any:
        async with self._session() as session:
            return await self._recent(session, tenant_id, conversation_id, limit)

    async def turn(self, tenant_id: UUID, telegram_id: int, chat: str, messages: list[Incoming]) -> Any:
        async with self._session.begin() as session:
            user = await session.scalar(self._user(tenant_id, telegram_id))
            conversation = await session.scalar(self._active(tenant_id, user.id, chat))
            before = await self._recent(session, tenant_id, conversation.id, 20)
            last = await self._advance(session, tenant_id, conversation.id, messages)
            first = last.last_seq - len(messages) + 1
            session.add_all(
                self._message(tenant_id, conversation.id, user.id, first + place, one)
                for place, one in enumerate(messages)
            )
            return before

    async def pages(self, tenant_id: UUID, conversation_id: UUID, pages: int) -> int:
        count, seq = 0, 0
        for _ in range(pages):
            async with self._session() as session:
                later = (
                    self._messages(tenant_id, conversation_id).where(Message.seq > seq).order_by(Message.seq).limit(100)
                )
                rows = (await session.scalars(later)).all()
            count, seq = count + len(rows), rows[-1].seq
        return count

    async def stream(self, tenant_id: UUID, user_id: UUID) -> int:
        count = 0
        of_user = select(Message).where(
            Message.tenant_id == tenant_id, Message.user_id == user_id, Message.deleted_at.is_(None)
        )
        async with self._session() as session:
            rows = await session.stream_scalars(of_user.order_by(Message.created_at).execution_options(yield_per=1000))
            async for _ in rows:
                count += 1
        return count

    async def search(self, tenant_id: UUID, user_id: UUID, query: str) -> Any:
        wanted = func.websearch_to_tsquery("spanish", query)
        rank = func.ts_rank(Note.search, wanted).label("rank")
        best = (
            self._notes(tenant_id, user_id)
            .where(Note.archived_at.is_(None), Note.search.op("@@")(wanted))
            .add_columns(rank, func.ts_headline("spanish", Note.content, wanted).label("snippet"))
            .order_by(rank.desc(), Note.id.desc())
            .limit(10)
        )
        async with self._session() as session:
            return (await session.execute(best)).all()

    async def user_by_id(self, tenant_id: UUID, user_id: UUID) -> Any:
        async with self._session() as session:
            return await session.scalar(select(User).where(User.tenant_id == tenant_id, User.id == user_id))

    async def conversations_of(self, tenant_id: UUID, user_id: UUID) -> Any:
        of_user = select(Conversation).where(
            Conversation.tenant_id == tenant_id,
            Conversation.user_id == user_id,
            Conversation.deleted_at.is_(None),
        )
        async with self._session() as session:
            return (await session.scalars(of_user.order_by(Conversation.id).limit(20))).all()

    async def notes_of(self, tenant_id: UUID, user_id: UUID) -> Any:
        newest = self._notes(tenant_id, user_id).where(Note.archived_at.is_(None)).order_by(Note.id.desc()).limit(20)
        async with self._session() as session:
            return (await session.scalars(newest)).all()

    async def upcoming(self, tenant_id: UUID, user_id: UUID, now: datetime) -> Any:
        upcoming = select(Event).where(
            Event.tenant_id == tenant_id,
            Event.user_id == user_id,
            Event.status == "scheduled",
            Event.start_datetime >= now,
        )
        async with self._session() as session:
            return (await session.scalars(upcoming.order_by(Event.start_datetime, Event.id).limit(10))).all()

    async def add_note(self, tenant_id: UUID, user_id: UUID, title: str, content: str) -> Any:
        async with self._session.begin() as session:
            note = Note(tenant_id=tenant_id, user_id=user_id, title=title, content=content)
            session.add(note)
            return note

    async def set_timezone(self, tenant_id: UUID, user_id: UUID, timezone: str) -> Any:
        async with self._session.begin() as session:
            user = await session.scalar(select(User).where(User.tenant_id == tenant_id, User.id == user_id))
            user.timezone = timezone
            return user

    def _user(self, tenant_id: UUID, telegram_id: int) -> Any:
        return select(User).where(
            User.tenant_id == tenant_id, User.telegram_id == telegram_id, User.deleted_at.is_(None)
        )

    def _active(self, tenant_id: UUID, user_id: UUID, chat: str) -> Any:
        return select(Conversation).where(
            Conversation.tenant_id == tenant_id,
            Conversation.user_id == user_id,
            Conversation.channel == "telegram",
            Conversation.external_chat_id == chat,
            Conversation.is_active,
            Conversation.deleted_at.is_(None),
        )

    def _notes(self, tenant_id: UUID, user_id: UUID) -> Any:
        return select(Note).where(Note.tenant_id == tenant_id, Note.user_id == user_id, Note.deleted_at.is_(None))

    def _messages(self, tenant_id: UUID, conversation_id: UUID) -> Any:
        return select(Message).where(
            Message.tenant_id == tenant_id,
            Message.conversation_id == conversation_id,
            Message.deleted_at.is_(None),
        )

    async def _recent(self, session: Any, tenant_id: UUID, conversation_id: UUID, limit: int) -> Any:
        newest = self._messages(tenant_id, conversation_id).order_by(Message.seq.desc()).limit(limit)
        return (await session.scalars(newest)).all()[::-1]

    async def _advance(self, session: Any, tenant_id: UUID, conversation_id: UUID, messages: list[Incoming]) -> Any:
        advance = (
            update(Conversation)
            .where(Conversation.tenant_id == tenant_id, Conversation.id == conversation_id)
            .values(last_seq=Conversation.last_seq + len(messages), last_message_at=messages[-1].created_at)
            .returning(Conversation.last_seq, Conversation.user_id)
            .execution_options(synchronize_session=False)
        )
        return (await session.execute(advance)).one()

    def _message(self, tenant_id: UUID, conversation_id: UUID, user_id: UUID, seq: int, message: Incoming) -> Message:
        return Message(
            tenant_id=tenant_id, conversation_id=conversation_id, user_id=user_id, seq=seq, **message._asdict()
        )
