"""The plain tables, mapped as SQLAlchemy's documentation shows it."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any
from uuid import UUID, uuid4

from sqlalchemy import ARRAY, BigInteger, DateTime, Text, func
from sqlalchemy.dialects.postgresql import JSONB, TSVECTOR
from sqlalchemy.orm import DeclarativeBase, Mapped, deferred, mapped_column

__all__ = ["Conversation", "Event", "Message", "Note", "User"]


class Base(DeclarativeBase):
    """The declarative base."""

    type_annotation_map = {  # noqa: RUF012 - SQLAlchemy's own spelling
        str: Text(),
        datetime: DateTime(timezone=True),
        dict[str, Any]: JSONB(),
        list[Any]: JSONB(),
        list[str]: ARRAY(Text()),
    }

    id: Mapped[UUID] = mapped_column(primary_key=True, default=uuid4)
    tenant_id: Mapped[UUID]
    created_at: Mapped[datetime] = mapped_column(default=lambda: datetime.now(UTC))


class User(Base):
    """A user."""

    __tablename__ = "users"

    telegram_id: Mapped[int | None] = mapped_column(BigInteger)
    username: Mapped[str | None]
    display_name: Mapped[str | None]
    locale: Mapped[str | None]
    timezone: Mapped[str] = mapped_column(default="UTC")
    is_active: Mapped[bool] = mapped_column(default=True)
    preferences: Mapped[dict[str, Any]] = mapped_column(default=dict)
    last_seen_at: Mapped[datetime | None]
    deleted_at: Mapped[datetime | None]


class Conversation(Base):
    """A conversation."""

    __tablename__ = "conversations"

    user_id: Mapped[UUID]
    session_id: Mapped[str]
    is_active: Mapped[bool] = mapped_column(default=True)
    channel: Mapped[str]
    external_chat_id: Mapped[str | None]
    title: Mapped[str | None]
    summary: Mapped[str | None]
    summary_upto_seq: Mapped[int] = mapped_column(BigInteger, default=0)
    last_seq: Mapped[int] = mapped_column(BigInteger, default=0)
    last_message_at: Mapped[datetime | None]
    deleted_at: Mapped[datetime | None]
    updated_at: Mapped[datetime] = mapped_column(server_default=func.now(), onupdate=func.now())


class Message(Base):
    """A message."""

    __tablename__ = "message_history"

    conversation_id: Mapped[UUID]
    user_id: Mapped[UUID]
    seq: Mapped[int] = mapped_column(BigInteger)
    message_id: Mapped[str]
    role: Mapped[str]
    content: Mapped[str | None]
    parts: Mapped[list[Any] | None] = mapped_column(JSONB(none_as_null=True))
    attachments: Mapped[list[Any]] = mapped_column(default=list)
    parent_id: Mapped[UUID | None]
    tool_call_id: Mapped[str | None]
    tool_name: Mapped[str | None]
    model: Mapped[str | None]
    input_tokens: Mapped[int | None]
    output_tokens: Mapped[int | None]
    token_count: Mapped[int | None]
    state: Mapped[str] = mapped_column(default="complete")
    edited_at: Mapped[datetime | None]
    extra: Mapped[dict[str, Any]] = mapped_column("metadata", default=dict)
    deleted_at: Mapped[datetime | None] = deferred(mapped_column())


class Note(Base):
    """A note."""

    __tablename__ = "notes"

    user_id: Mapped[UUID]
    title: Mapped[str | None]
    content: Mapped[str]
    tags: Mapped[list[str]] = mapped_column(default=list)
    pinned: Mapped[bool] = mapped_column(default=False)
    archived_at: Mapped[datetime | None]
    source_message_id: Mapped[UUID | None]
    updated_at: Mapped[datetime] = mapped_column(server_default=func.now(), onupdate=func.now())
    deleted_at: Mapped[datetime | None]
    search: Mapped[str] = deferred(mapped_column(TSVECTOR, server_default=""))


class Event(Base):
    """An event."""

    __tablename__ = "events"

    user_id: Mapped[UUID]
    title: Mapped[str]
    description: Mapped[str | None]
    location: Mapped[str | None]
    start_datetime: Mapped[datetime]
    end_datetime: Mapped[datetime | None]
    timezone: Mapped[str] = mapped_column(default="UTC")
    all_day: Mapped[bool] = mapped_column(default=False)
    status: Mapped[str] = mapped_column(default="scheduled")
    rrule: Mapped[str | None]
    series_id: Mapped[UUID | None]
    recurrence_id: Mapped[datetime | None]
    reminder_datetime: Mapped[datetime | None]
