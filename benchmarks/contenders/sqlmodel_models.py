"""The tables as SQLModel's documentation would have them."""

from datetime import UTC, datetime
from typing import Any, Optional
from uuid import UUID, uuid4

from sqlalchemy import BigInteger, Column, DateTime
from sqlalchemy.dialects.postgresql import JSONB
from sqlmodel import Field, SQLModel

__all__ = ["Conversation", "Message", "User"]

_TIME: Any = DateTime(timezone=True)


def _now() -> datetime:
    return datetime.now(UTC)


class User(SQLModel, table=True):
    """A user."""

    __tablename__ = "users"

    id: UUID = Field(default_factory=uuid4, primary_key=True)
    tenant_id: UUID
    telegram_id: Optional[int] = Field(default=None, sa_type=BigInteger)
    username: Optional[str] = None
    display_name: Optional[str] = None
    locale: Optional[str] = None
    timezone: str = "UTC"
    is_active: bool = True
    last_seen_at: Optional[datetime] = Field(default=None, sa_type=_TIME)
    created_at: datetime = Field(default_factory=_now, sa_type=_TIME)
    preferences: dict[str, Any] = Field(default_factory=dict, sa_type=JSONB)
    deleted_at: Optional[datetime] = Field(default=None, sa_type=_TIME)


class Conversation(SQLModel, table=True):
    """A conversation."""

    __tablename__ = "conversations"

    id: UUID = Field(default_factory=uuid4, primary_key=True)
    tenant_id: UUID
    user_id: UUID
    session_id: str
    is_active: bool = True
    channel: str
    external_chat_id: Optional[str] = None
    title: Optional[str] = None
    summary: Optional[str] = None
    summary_upto_seq: int = Field(default=0, sa_type=BigInteger)
    last_seq: int = Field(default=0, sa_type=BigInteger)
    last_message_at: Optional[datetime] = Field(default=None, sa_type=_TIME)
    created_at: datetime = Field(default_factory=_now, sa_type=_TIME)
    deleted_at: Optional[datetime] = Field(default=None, sa_type=_TIME)


class Message(SQLModel, table=True):
    """A message."""

    __tablename__ = "message_history"

    id: UUID = Field(default_factory=uuid4, primary_key=True)
    tenant_id: UUID
    conversation_id: UUID
    user_id: UUID
    seq: int = Field(sa_type=BigInteger)
    message_id: str
    role: str
    content: Optional[str] = None
    parts: Optional[list[Any]] = Field(default=None, sa_type=JSONB(none_as_null=True))
    attachments: list[Any] = Field(default_factory=list, sa_type=JSONB)
    parent_id: Optional[UUID] = None
    tool_call_id: Optional[str] = None
    tool_name: Optional[str] = None
    model: Optional[str] = None
    input_tokens: Optional[int] = None
    output_tokens: Optional[int] = None
    token_count: Optional[int] = None
    state: str = "complete"
    created_at: datetime = Field(default_factory=_now, sa_type=_TIME)
    edited_at: Optional[datetime] = Field(default=None, sa_type=_TIME)
    extra: dict[str, Any] = Field(default_factory=dict, sa_column=Column("metadata", JSONB))
    deleted_at: Optional[datetime] = Field(default=None, sa_type=_TIME)
