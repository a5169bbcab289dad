"""Piccolo as its documentation shows it: tables, queries that are awaited, its engine's pool of asyncpg's."""

from __future__ import annotations

from typing import Any
from uuid import UUID

from piccolo.columns import JSONB, BigInt, Boolean, Integer, Text, Timestamptz
from piccolo.columns import UUID as Uuid  # noqa: N811 - it is a column
from piccolo.columns.defaults.uuid import UUID4
from piccolo.engine.postgres import PostgresEngine
from piccolo.table import Table

from benchmarks.contenders.base import POOL_SIZE, Contender, Place, Said

__all__ = ["PiccoloOrm"]


class User(Table, tablename="users"):
    """A user."""

    id = Uuid(primary_key=True, default=UUID4())
    tenant_id = Uuid()
    telegram_id = BigInt(null=True)
    username = Text(null=True, default=None)
    display_name = Text(null=True, default=None)
    locale = Text(null=True, default=None)
    timezone = Text(default="UTC")
    is_active = Boolean(default=True)
    last_seen_at = Timestamptz(null=True, default=None)
    created_at = Timestamptz()
    preferences = JSONB(default="{}")
    deleted_at = Timestamptz(null=True, default=None)


class Conversation(Table, tablename="conversations"):
    """A conversation."""

    id = Uuid(primary_key=True, default=UUID4())
    tenant_id = Uuid()
    user_id = Uuid()
    session_id = Text()
    is_active = Boolean(default=True)
    channel = Text()
    external_chat_id = Text(null=True)
    title = Text(null=True)
    summary = Text(null=True)
    summary_upto_seq = BigInt(default=0)
    last_seq = BigInt(default=0)
    last_message_at = Timestamptz(null=True)
    created_at = Timestamptz()
    deleted_at = Timestamptz(null=True)


class Message(Table, tablename="message_history"):
    """A message."""

    id = Uuid(primary_key=True, default=UUID4())
    tenant_id = Uuid()
    conversation_id = Uuid()
    user_id = Uuid()
    seq = BigInt()
    message_id = Text()
    role = Text()
    content = Text(null=True, default=None)
    parts = JSONB(null=True, default=None)
    attachments = JSONB(default="[]")
    parent_id = Uuid(null=True, default=None)
    tool_call_id = Text(null=True, default=None)
    tool_name = Text(null=True, default=None)
    model = Text(null=True, default=None)
    input_tokens = Integer(null=True, default=None)
    output_tokens = Integer(null=True, default=None)
    token_count = Integer(null=True, default=None)
    state = Text(default="complete")
    created_at = Timestamptz()
    edited_at = Timestamptz(null=True, default=None)
    extra = JSONB(db_column_name="metadata", default="{}")
    deleted_at = Timestamptz(null=True, default=None)


class PiccoloOrm(Contender):
    """Objects, and a transaction where several statements belong together."""

    async def open(self, place: Place) -> None:
        self._tenant = place.tenant_id
        self._engine = PostgresEngine(
            config={"host": place.host, "user": place.user, "database": place.database}, log_queries=False
        )
        for table in (User, Conversation, Message):
            table._meta._db = self._engine  # noqa: SLF001 - as its own tests do; else it wants a piccolo_conf.py
        await self._engine.start_connection_pool(min_size=POOL_SIZE, max_size=POOL_SIZE)

    async def close(self) -> None:
        await self._engine.close_connection_pool()

    async def user_by_telegram_id(self, telegram_id: int) -> Any:
        return await User.objects().where(*self._is(telegram_id)).first()

    async def get_or_create_user(self, telegram_id: int) -> Any:
        user = await User.objects().where(*self._is(telegram_id)).first()
        if user is None:
            user = User(tenant_id=self._tenant, telegram_id=telegram_id)
            await user.save()
        return user

    async def append(self, conversation_id: UUID, said: Said) -> Any:
        async with self._engine.transaction():
            talk = await self._advance(conversation_id, [said])
            return await Message.insert(*self._messages(conversation_id, talk, [said]))

    async def append_many(self, conversation_id: UUID, said: list[Said]) -> Any:
        async with self._engine.transaction():
            talk = await self._advance(conversation_id, said)
            return await Message.insert(*self._messages(conversation_id, talk, said))

    async def recent(self, conversation_id: UUID, limit: int) -> Any:
        return (await self._of(conversation_id).order_by(Message.seq, ascending=False).limit(limit))[::-1]

    async def turn(self, telegram_id: int, chat: str, said: list[Said]) -> Any:
        async with self._engine.transaction():
            user = await User.objects().where(*self._is(telegram_id)).first()
            talk = (
                await Conversation.objects()
                .where(
                    Conversation.tenant_id == self._tenant,
                    Conversation.user_id == user.id,
                    Conversation.channel == "telegram",
                    Conversation.external_chat_id == chat,
                    Conversation.is_active.eq(True),
                    Conversation.deleted_at.is_null(),
                )
                .first()
            )
            rows = await self._of(talk.id).order_by(Message.seq, ascending=False).limit(20)
            last = await self._advance(talk.id, said)
            await Message.insert(*self._messages(talk.id, last, said))
            return rows[::-1]

    async def pages(self, conversation_id: UUID, pages: int) -> int:
        count, seq = 0, 0
        for _ in range(pages):
            rows = await self._of(conversation_id).where(Message.seq > seq).order_by(Message.seq).limit(100)
            count, seq = count + len(rows), rows[-1].seq
        return count

    async def stream(self, user_id: UUID) -> int:
        count = 0
        of_user = Message.objects().where(
            Message.tenant_id == self._tenant, Message.user_id == user_id, Message.deleted_at.is_null()
        )
        async with (
            self._engine.transaction(),
            await of_user.order_by(Message.created_at).batch(batch_size=1000) as batches,
        ):
            async for batch in batches:
                count += len(batch)
        return count

    def _is(self, telegram_id: int) -> tuple[Any, ...]:
        return User.tenant_id == self._tenant, User.telegram_id == telegram_id, User.deleted_at.is_null()

    def _of(self, conversation_id: UUID) -> Any:
        return Message.objects().where(
            Message.tenant_id == self._tenant,
            Message.conversation_id == conversation_id,
            Message.deleted_at.is_null(),
        )

    async def _advance(self, conversation_id: UUID, said: list[Said]) -> Any:
        [talk] = (
            await Conversation.update(
                {
                    Conversation.last_seq: Conversation.last_seq + len(said),
                    Conversation.last_message_at: said[-1].created_at,
                }
            )
            .where(Conversation.tenant_id == self._tenant, Conversation.id == conversation_id)
            .returning(Conversation.last_seq, Conversation.user_id)
        )
        return talk

    def _messages(self, conversation_id: UUID, talk: Any, said: list[Said]) -> list[Any]:
        first = talk["last_seq"] - len(said) + 1
        return [
            Message(
                tenant_id=self._tenant,
                conversation_id=conversation_id,
                user_id=talk["user_id"],
                seq=first + place,
                **one._asdict(),
            )
            for place, one in enumerate(said)
        ]
