"""The attributes of the models, for type checkers. `make format` writes this file."""

from __future__ import annotations

from datetime import datetime
from typing import TYPE_CHECKING, Any, TypeAlias, TypedDict, TypeVar
from uuid import UUID

from sqlalchemy import SQLColumnExpression

from src.database.models.limits import EventStatus, Role, State, TenantStatus

if TYPE_CHECKING:
    from src.database.models.conversation import Conversation
    from src.database.models.event import Event
    from src.database.models.message_history import MessageHistory
    from src.database.models.note import Note
    from src.database.models.user import User
    from src.database.models.user_identity import UserIdentity


T = TypeVar("T")

Value: TypeAlias = T | SQLColumnExpression[T]
"""A value, or an SQL expression that the server computes the value from."""


class ConversationChanges(TypedDict, total=False):
    """The attributes of Conversation that `update` sets."""

    session_id: Value[str]
    is_active: Value[bool]
    channel: Value[str]
    external_chat_id: Value[str | None]
    title: Value[str | None]
    last_message_at: Value[datetime | None]
    closed_at: Value[datetime | None]
    close_reason: Value[str | None]
    deleted_at: Value[datetime | None]
    extra: Value[dict[str, Any]]


class ConversationUpsert(ConversationChanges, total=False):
    """The attributes of Conversation that `upsert` sets."""

    id: Value[UUID]
    user_id: Value[UUID]


class ConversationAttributes(ConversationUpsert, total=False):
    """The attributes of Conversation that its constructor sets."""

    tenant_id: Value[UUID]
    summary: Value[str | None]
    summary_upto_seq: Value[int]
    last_seq: Value[int]
    turn_token: Value[int]
    turn_claimed_by: Value[str | None]
    turn_claimed_until: Value[datetime | None]
    created_at: Value[datetime]
    updated_at: Value[datetime]
    user: User
    messages: list[MessageHistory]


class EventChanges(TypedDict, total=False):
    """The attributes of Event that `update` sets."""

    user_id: Value[UUID]
    title: Value[str]
    description: Value[str | None]
    location: Value[str | None]
    start_datetime: Value[datetime]
    end_datetime: Value[datetime | None]
    timezone: Value[str]
    all_day: Value[bool]
    status: Value[EventStatus]
    rrule: Value[str | None]
    exdates: Value[list[datetime]]
    series_id: Value[UUID | None]
    recurrence_id: Value[datetime | None]
    ical_uid: Value[str | None]
    reminder_datetime: Value[datetime | None]
    reminder_offset: Value[int | None]
    reminder_attempts: Value[int]
    reminder_claimed_by: Value[str | None]
    reminder_claimed_until: Value[datetime | None]
    reminder_token: Value[UUID | None]
    reminder_sent_at: Value[datetime | None]
    extra: Value[dict[str, Any]]


class EventUpsert(EventChanges, total=False):
    """The attributes of Event that `upsert` sets."""

    id: Value[UUID]


class EventAttributes(EventUpsert, total=False):
    """The attributes of Event that its constructor sets."""

    tenant_id: Value[UUID]
    version: Value[int]
    start_local: Value[datetime]
    start_local_basis: Value[str | None]
    created_at: Value[datetime]
    updated_at: Value[datetime]
    user: User


class MessageHistoryChanges(TypedDict, total=False):
    """The attributes of MessageHistory that `update` sets."""

    role: Value[Role]
    parts: Value[list[Any] | None]
    attachments: Value[list[Any]]
    parent_id: Value[UUID | None]
    tool_call_id: Value[str | None]
    tool_name: Value[str | None]
    model: Value[str | None]
    input_tokens: Value[int | None]
    output_tokens: Value[int | None]
    token_count: Value[int | None]
    deleted_at: Value[datetime | None]
    extra: Value[dict[str, Any]]


class MessageHistoryAttributes(MessageHistoryChanges, total=False):
    """The attributes of MessageHistory that its constructor sets."""

    tenant_id: Value[UUID]
    id: Value[UUID]
    conversation_id: Value[UUID]
    user_id: Value[UUID]
    seq: Value[int]
    message_id: Value[str]
    fingerprint: Value[bytes | None]
    content: Value[str | None]
    state: Value[State]
    edited_at: Value[datetime | None]
    created_at: Value[datetime]
    updated_at: Value[datetime]
    conversation: Conversation
    user: User


class NoteChanges(TypedDict, total=False):
    """The attributes of Note that `update` sets."""

    user_id: Value[UUID]
    title: Value[str | None]
    content: Value[str]
    tags: Value[list[str]]
    pinned: Value[bool]
    archived_at: Value[datetime | None]
    deleted_at: Value[datetime | None]
    source_message_id: Value[UUID | None]
    extra: Value[dict[str, Any]]


class NoteUpsert(NoteChanges, total=False):
    """The attributes of Note that `upsert` sets."""

    id: Value[UUID]


class NoteAttributes(NoteUpsert, total=False):
    """The attributes of Note that its constructor sets."""

    tenant_id: Value[UUID]
    created_at: Value[datetime]
    updated_at: Value[datetime]
    user: User


class StateEntryChanges(TypedDict, total=False):
    """The attributes of StateEntry that `update` sets."""

    data: Value[Any | None]
    blob: Value[bytes | None]
    expires_at: Value[datetime | None]
    extra: Value[dict[str, Any]]


class StateEntryUpsert(StateEntryChanges, total=False):
    """The attributes of StateEntry that `upsert` sets."""

    id: Value[UUID]
    user_id: Value[UUID | None]
    conversation_id: Value[UUID | None]
    namespace: Value[str]
    key: Value[str]


class StateEntryAttributes(StateEntryUpsert, total=False):
    """The attributes of StateEntry that its constructor sets."""

    tenant_id: Value[UUID]
    version: Value[int]
    created_at: Value[datetime]
    updated_at: Value[datetime]


class TenantChanges(TypedDict, total=False):
    """The attributes of Tenant that `update` sets."""

    slug: Value[str]
    name: Value[str]
    status: Value[TenantStatus]
    retention_days: Value[int | None]
    extra: Value[dict[str, Any]]


class TenantAttributes(TenantChanges, total=False):
    """The attributes of Tenant that its constructor sets."""

    id: Value[UUID]
    created_at: Value[datetime]
    updated_at: Value[datetime]


class NewUser(TypedDict, total=False):
    """The attributes of User that `get_or_create` sets."""

    username: str | None
    display_name: str | None
    locale: str | None
    timezone: str
    is_active: bool
    preferences: dict[str, Any]
    retention_days: int | None
    last_seen_at: datetime | None
    extra: dict[str, Any]


class UserChanges(TypedDict, total=False):
    """The attributes of User that `update` sets."""

    telegram_id: Value[int | None]
    username: Value[str | None]
    display_name: Value[str | None]
    locale: Value[str | None]
    timezone: Value[str]
    is_active: Value[bool]
    preferences: Value[dict[str, Any]]
    retention_days: Value[int | None]
    last_seen_at: Value[datetime | None]
    is_person: Value[bool]
    deleted_at: Value[datetime | None]
    extra: Value[dict[str, Any]]


class UserUpsert(UserChanges, total=False):
    """The attributes of User that `upsert` sets."""

    id: Value[UUID]


class UserAttributes(UserUpsert, total=False):
    """The attributes of User that its constructor sets."""

    tenant_id: Value[UUID]
    created_at: Value[datetime]
    updated_at: Value[datetime]
    conversations: list[Conversation]
    events: list[Event]
    identities: list[UserIdentity]
    messages: list[MessageHistory]
    notes: list[Note]


class UserIdentityChanges(TypedDict, total=False):
    """The attributes of UserIdentity that `update` sets."""

    extra: Value[dict[str, Any]]


class UserIdentityUpsert(UserIdentityChanges, total=False):
    """The attributes of UserIdentity that `upsert` sets."""

    id: Value[UUID]
    user_id: Value[UUID]
    provider: Value[str]
    subject: Value[str]


class UserIdentityAttributes(UserIdentityUpsert, total=False):
    """The attributes of UserIdentity that its constructor sets."""

    tenant_id: Value[UUID]
    created_at: Value[datetime]
    updated_at: Value[datetime]
    user: User
