"""SQLAlchemy's ORM as its documentation shows it: AsyncSession, selects of entities, `pool_pre_ping`."""

from __future__ import annotations

from datetime import datetime
from typing import Any
from uuid import UUID

from sqlalchemy import URL, func, select, update
from sqlalchemy.dialects.postgresql import TSQUERY
from sqlalchemy.ext.asyncio import AsyncSession, async_sessionmaker, create_async_engine

from benchmarks.contenders.base import POOL_SIZE, Contender, Place, Said
from benchmarks.contenders.sqlalchemy_models import Conversation, Event, Message, Note, User

__all__ = ["SqlalchemyOrm"]


class SqlalchemyOrm(Contender):
    """A session for each piece of work, `begin()` where it writes."""

    session_class: type[Any] = AsyncSession

    async def open(self, place: Place) -> None:
        self._tenant = place.tenant_id
        url = URL.create("postgresql+asyncpg", username=place.user, database=place.database, query={"host": place.host})
        self._engine = create_async_engine(url, pool_size=POOL_SIZE, max_overflow=0, pool_pre_ping=True)
        self._session: Any = async_sessionmaker(self._engine, class_=self.session_class, expire_on_commit=False)

    async def close(self) -> None:
        await self._engine.dispose()

    async def user_by_telegram_id(self, telegram_id: int) -> Any:
        async with self._session() as session:
            return await session.scalar(self._user(telegram_id))

    async def get_or_create_user(self, telegram_id: int) -> Any:
        async with self._session() as session:
            user = await session.scalar(self._user(telegram_id))
            if user is None:
                user = User(tenant_id=self._tenant, telegram_id=telegram_id)
                session.add(user)
                await session.commit()
            return user

    async def append(self, conversation_id: UUID, said: Said) -> Any:
        async with self._session.begin() as session:
            talk = await self._advance(session, conversation_id, [said])
            message = self._message(conversation_id, talk.user_id, talk.last_seq, said)
            session.add(message)
            return message

    async def append_many(self, conversation_id: UUID, said: list[Said]) -> Any:
        async with self._session.begin() as session:
            talk = await self._advance(session, conversation_id, said)
            first = talk.last_seq - len(said) + 1
            messages = [
                self._message(conversation_id, talk.user_id, first + place, one) for place, one in enumerate(said)
            ]
            session.add_all(messages)
            return messages

    async def recent(self, conversation_id: UUID, limit: int) -> Any:
        async with self._session() as session:
            return await self._recent(session, conversation_id, limit)

    async def turn(self, telegram_id: int, chat: str, said: list[Said]) -> Any:
        async with self._session.begin() as session:
            user = await session.scalar(self._user(telegram_id))
            active = select(Conversation).where(
                Conversation.tenant_id == self._tenant,
                Conversation.user_id == user.id,
                Conversation.channel == "telegram",
                Conversation.external_chat_id == chat,
                Conversation.is_active,
                Conversation.deleted_at.is_(None),
            )
            talk = await session.scalar(active)
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
                rows = (await session.scalars(later)).all()
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

    async def search(self, user_id: UUID, query: str) -> Any:
        simple, spanish, english = (func.websearch_to_tsquery(name, query) for name in ("simple", "spanish", "english"))
        wanted = simple.op("||", return_type=TSQUERY())(spanish).op("||", return_type=TSQUERY())(english)
        rank = func.ts_rank(Note.search, wanted).label("rank")
        best = (
            self._notes(user_id)
            .where(Note.archived_at.is_(None), Note.search.op("@@")(wanted))
            .add_columns(rank, func.ts_headline("spanish", Note.content, wanted).label("snippet"))
            .order_by(rank.desc(), Note.id.desc())
            .limit(10)
        )
        async with self._session() as session:
            return (await session.execute(best)).all()

    async def user_by_id(self, user_id: UUID) -> Any:
        async with self._session() as session:
            return await session.scalar(select(User).where(User.tenant_id == self._tenant, User.id == user_id))

    async def conversations_of(self, user_id: UUID) -> Any:
        of_user = select(Conversation).where(
            Conversation.tenant_id == self._tenant,
            Conversation.user_id == user_id,
            Conversation.deleted_at.is_(None),
        )
        async with self._session() as session:
            return (await session.scalars(of_user.order_by(Conversation.id).limit(20))).all()

    async def notes_of(self, user_id: UUID) -> Any:
        newest = self._notes(user_id).where(Note.archived_at.is_(None)).order_by(Note.id.desc()).limit(20)
        async with self._session() as session:
            return (await session.scalars(newest)).all()

    async def upcoming(self, user_id: UUID, now: datetime) -> Any:
        upcoming = select(Event).where(
            Event.tenant_id == self._tenant,
            Event.user_id == user_id,
            Event.status == "scheduled",
            Event.start_datetime >= now,
        )
        async with self._session() as session:
            return (await session.scalars(upcoming.order_by(Event.start_datetime, Event.id).limit(10))).all()

    async def add_note(self, user_id: UUID, title: str, content: str) -> Any:
        async with self._session.begin() as session:
            note = Note(tenant_id=self._tenant, user_id=user_id, title=title, content=content)
            session.add(note)
            return note

    async def set_timezone(self, user_id: UUID, timezone: str) -> Any:
        async with self._session.begin() as session:
            user = await session.scalar(select(User).where(User.tenant_id == self._tenant, User.id == user_id))
            user.timezone = timezone
            return user

    def _user(self, telegram_id: int) -> Any:
        return select(User).where(
            User.tenant_id == self._tenant, User.telegram_id == telegram_id, User.deleted_at.is_(None)
        )

    def _notes(self, user_id: UUID) -> Any:
        return select(Note).where(Note.tenant_id == self._tenant, Note.user_id == user_id, Note.deleted_at.is_(None))

    def _messages(self, conversation_id: UUID) -> Any:
        return select(Message).where(
            Message.tenant_id == self._tenant,
            Message.conversation_id == conversation_id,
            Message.deleted_at.is_(None),
        )

    async def _recent(self, session: Any, conversation_id: UUID, limit: int) -> Any:
        newest = self._messages(conversation_id).order_by(Message.seq.desc()).limit(limit)
        return (await session.scalars(newest)).all()[::-1]

    async def _advance(self, session: Any, conversation_id: UUID, said: list[Said]) -> Any:
        advance = (
            update(Conversation)
            .where(Conversation.tenant_id == self._tenant, Conversation.id == conversation_id)
            .values(last_seq=Conversation.last_seq + len(said), last_message_at=said[-1].created_at)
            .returning(Conversation.last_seq, Conversation.user_id)
            .execution_options(synchronize_session=False)
        )
        return (await session.execute(advance)).one()

    def _message(self, conversation_id: UUID, user_id: UUID, seq: int, said: Said) -> Message:
        return Message(
            tenant_id=self._tenant, conversation_id=conversation_id, user_id=user_id, seq=seq, **said._asdict()
        )
