"""Pydantic schemas, for each table three: validated input to create a row and to update it, and the row to return."""

from __future__ import annotations

from datetime import datetime
from typing import Any, Self
from uuid import UUID

from pydantic import Field, model_validator

from src.database.base import uuid7
from src.database.calendar import check_rrule
from src.database.models import limits
from src.database.schemas import fields
from src.database.schemas.fields import NOT_GIVEN, CreateInput, UpdateInput
from src.database.schemas.read import Page, Read
from src.database.statements import NewMessage

__all__ = [
    "ConversationCreate",
    "ConversationRead",
    "ConversationUpdate",
    "EventCreate",
    "EventRead",
    "EventUpdate",
    "MessageCreate",
    "MessageRead",
    "MessageUpdate",
    "NoteCreate",
    "NoteRead",
    "NoteUpdate",
    "Page",
    "Read",
    "StateEntryCreate",
    "StateEntryRead",
    "StateEntryUpdate",
    "TenantCreate",
    "TenantRead",
    "TenantUpdate",
    "UserCreate",
    "UserIdentityCreate",
    "UserIdentityRead",
    "UserIdentityUpdate",
    "UserRead",
    "UserUpdate",
]


class UserCreate(CreateInput):
    """The attributes of a new user."""

    telegram_id: fields.Int8 | None = None
    username: fields.Username | None = None
    display_name: fields.DisplayName | None = None
    locale: fields.Locale | None = None
    timezone: fields.TimeZone = "UTC"
    is_active: fields.Boolean = True
    preferences: fields.JsonObject = Field(default_factory=dict)
    retention_days: fields.RetentionDays | None = None
    extra: fields.JsonObject = Field(default_factory=dict)


class UserUpdate(UpdateInput):
    """Changes of a user. A given `preferences` or `extra` replaces the whole stored object."""

    telegram_id: fields.Int8 | None = NOT_GIVEN
    username: fields.Username | None = NOT_GIVEN
    display_name: fields.DisplayName | None = NOT_GIVEN
    locale: fields.Locale | None = NOT_GIVEN
    timezone: fields.TimeZone = NOT_GIVEN
    is_active: fields.Boolean = NOT_GIVEN
    is_person: fields.Boolean = NOT_GIVEN
    preferences: fields.JsonObject = NOT_GIVEN
    retention_days: fields.RetentionDays | None = NOT_GIVEN
    extra: fields.JsonObject = NOT_GIVEN


class UserRead(Read):
    """A user."""

    telegram_id: int | None
    username: str | None
    display_name: str | None
    locale: str | None
    timezone: str
    is_active: bool
    is_person: bool = NOT_GIVEN
    preferences: dict[str, Any]
    retention_days: int | None = NOT_GIVEN
    last_seen_at: datetime | None
    created_at: datetime
    updated_at: datetime = NOT_GIVEN
    extra: dict[str, Any] = NOT_GIVEN


class UserIdentityCreate(CreateInput):
    """The attributes of a new identity. To find its user, use `get_or_create_by_identity` instead."""

    user_id: fields.RowId
    provider: fields.Provider
    subject: fields.Subject
    extra: fields.JsonObject = Field(default_factory=dict)


class UserIdentityUpdate(UpdateInput):
    """Changes of an identity. `link`, `unlink` and `merge` change its user."""

    extra: fields.JsonObject = NOT_GIVEN


class UserIdentityRead(Read):
    """An identity of a user."""

    user_id: UUID
    provider: str
    subject: str
    created_at: datetime
    updated_at: datetime = NOT_GIVEN
    extra: dict[str, Any] = NOT_GIVEN


class ConversationCreate(CreateInput):
    """The attributes of a new conversation. To get the active conversation of a chat, use `get_or_start` instead."""

    user_id: fields.RowId
    session_id: fields.SessionId = Field(default_factory=lambda: str(uuid7()))
    channel: fields.Channel
    external_chat_id: fields.ChatId | None = None
    title: fields.Text | None = None
    extra: fields.JsonObject = Field(default_factory=dict)


class ConversationUpdate(UpdateInput):
    """Changes of a conversation. `close` and `set_summary` change its other attributes."""

    title: fields.Text | None = NOT_GIVEN
    extra: fields.JsonObject = NOT_GIVEN


class ConversationRead(Read):
    """A conversation, without the turn of the workers."""

    user_id: UUID
    session_id: str
    is_active: bool = NOT_GIVEN
    channel: str
    external_chat_id: str | None
    title: str | None
    summary: str | None
    summary_upto_seq: int
    last_seq: int
    last_message_at: datetime | None
    closed_at: datetime | None = NOT_GIVEN
    close_reason: str | None = NOT_GIVEN
    created_at: datetime
    updated_at: datetime = NOT_GIVEN
    extra: dict[str, Any] = NOT_GIVEN


class MessageCreate(CreateInput):
    """The attributes of a message to append. `message_id` is its idempotency key: `<channel>:<account>:<chat>:<id>`."""

    message_id: fields.MessageId
    role: limits.Role
    content: fields.Text | None = None
    parts: fields.JsonArray | None = None
    attachments: fields.JsonArray = Field(default_factory=list)
    parent_id: fields.RowId | None = None
    tool_call_id: fields.ToolCallId | None = None
    tool_name: fields.Text | None = None
    model: fields.Text | None = None
    input_tokens: fields.Tokens | None = None
    output_tokens: fields.Tokens | None = None
    token_count: fields.Tokens | None = None
    state: limits.State = "complete"
    created_at: fields.Instant | None = None
    edited_at: fields.Instant | None = None
    extra: fields.JsonObject = Field(default_factory=dict)

    def to_new_message(self) -> NewMessage:
        """Return the message in the form that `MessageHistoryRepository.append` accepts."""
        return NewMessage(**self.to_values())


class MessageUpdate(UpdateInput):
    """Changes of a message, except of its content: `edit` changes that and keeps the earlier versions.

    `extra` is missing because `edit` stores the earlier versions there.
    """

    parts: fields.JsonArray | None = NOT_GIVEN
    attachments: fields.JsonArray = NOT_GIVEN
    model: fields.Text | None = NOT_GIVEN
    input_tokens: fields.Tokens | None = NOT_GIVEN
    output_tokens: fields.Tokens | None = NOT_GIVEN
    token_count: fields.Tokens | None = NOT_GIVEN


class MessageRead(Read):
    """A message. `extra` has the earlier contents of an edited message, under "versions"."""

    conversation_id: UUID
    user_id: UUID
    seq: int
    message_id: str
    role: limits.Role
    content: str | None
    parts: list[Any] | None
    attachments: list[Any]
    parent_id: UUID | None
    tool_call_id: str | None
    tool_name: str | None
    model: str | None
    input_tokens: int | None
    output_tokens: int | None
    token_count: int | None
    state: limits.State
    edited_at: datetime | None
    created_at: datetime
    updated_at: datetime = NOT_GIVEN
    extra: dict[str, Any]


class EventCreate(CreateInput):
    """The attributes of a new event.

    A changed occurrence of a series also has `series_id` and `recurrence_id`, the start that the rule gives it.
    """

    user_id: fields.RowId
    title: fields.Title
    description: fields.Text | None = None
    location: fields.Text | None = None
    start_datetime: fields.Instant
    end_datetime: fields.Instant | None = None
    timezone: fields.TimeZone = "UTC"
    all_day: fields.Boolean = False
    status: limits.EventStatus = "scheduled"
    rrule: fields.Rule | None = None
    exdates: list[fields.Instant] = Field(default_factory=list)
    series_id: fields.RowId | None = None
    recurrence_id: fields.Instant | None = None
    ical_uid: fields.CalendarId | None = None
    reminder_datetime: fields.Instant | None = None
    reminder_offset: fields.Seconds | None = None
    extra: fields.JsonObject = Field(default_factory=dict)

    @model_validator(mode="after")
    def _check_together(self) -> Self:
        _check_times(self.start_datetime, self.end_datetime, self.rrule, all_day=self.all_day)
        if (self.series_id is None) != (self.recurrence_id is None):
            raise ValueError(
                "series_id and recurrence_id must be given together: the series, and the occurrence in the series"
            )
        return self


class EventUpdate(UpdateInput):
    """Changes of an event. If only the start or only the end is given, the database compares it with the stored one."""

    title: fields.Title = NOT_GIVEN
    description: fields.Text | None = NOT_GIVEN
    location: fields.Text | None = NOT_GIVEN
    start_datetime: fields.Instant = NOT_GIVEN
    end_datetime: fields.Instant | None = NOT_GIVEN
    timezone: fields.TimeZone = NOT_GIVEN
    all_day: fields.Boolean = NOT_GIVEN
    status: limits.EventStatus = NOT_GIVEN
    rrule: fields.Rule | None = NOT_GIVEN
    exdates: list[fields.Instant] = NOT_GIVEN
    ical_uid: fields.CalendarId | None = NOT_GIVEN
    reminder_datetime: fields.Instant | None = NOT_GIVEN
    reminder_offset: fields.Seconds | None = NOT_GIVEN
    extra: fields.JsonObject = NOT_GIVEN

    @model_validator(mode="after")
    def _check_together(self) -> Self:
        _check_times(self.start_datetime, self.end_datetime, self.rrule, all_day=self.all_day)
        return self


class EventRead(Read):
    """An event, without the claims of the workers that send its reminder."""

    user_id: UUID
    title: str
    description: str | None
    location: str | None
    start_datetime: datetime
    end_datetime: datetime | None
    timezone: str
    all_day: bool
    status: limits.EventStatus = NOT_GIVEN
    rrule: str | None
    exdates: list[datetime] = NOT_GIVEN
    series_id: UUID | None
    recurrence_id: datetime | None
    ical_uid: str | None = NOT_GIVEN
    reminder_datetime: datetime | None
    reminder_offset: int | None
    reminder_sent_at: datetime | None = NOT_GIVEN
    version: int = NOT_GIVEN
    created_at: datetime = NOT_GIVEN
    updated_at: datetime = NOT_GIVEN
    extra: dict[str, Any]


class NoteCreate(CreateInput):
    """The attributes of a new note."""

    user_id: fields.RowId
    title: fields.Title | None = None
    content: fields.Content
    tags: fields.Tags = Field(default_factory=list)
    pinned: fields.Boolean = False
    source_message_id: fields.RowId | None = None
    extra: fields.JsonObject = Field(default_factory=dict)


class NoteUpdate(UpdateInput):
    """Changes of a note. A given `tags` or `extra` replaces the whole stored value."""

    title: fields.Title | None = NOT_GIVEN
    content: fields.Content = NOT_GIVEN
    tags: fields.Tags = NOT_GIVEN
    pinned: fields.Boolean = NOT_GIVEN
    extra: fields.JsonObject = NOT_GIVEN


class NoteRead(Read):
    """A note."""

    user_id: UUID
    title: str | None
    content: str
    tags: list[str]
    pinned: bool
    archived_at: datetime | None
    source_message_id: UUID | None
    created_at: datetime
    updated_at: datetime
    extra: dict[str, Any]


class StateEntryCreate(CreateInput):
    """The attributes of a new entry with a JSON value. `StateRepository.set` writes an entry that may exist."""

    user_id: fields.RowId | None = None
    conversation_id: fields.RowId | None = None
    namespace: fields.Namespace
    key: fields.StateKey
    data: fields.JsonValue | None
    expires_at: fields.Instant | None = None
    extra: fields.JsonObject = Field(default_factory=dict)


class StateEntryUpdate(UpdateInput):
    """Changes of an entry."""

    data: fields.JsonValue | None = NOT_GIVEN
    expires_at: fields.Instant | None = NOT_GIVEN
    extra: fields.JsonObject = NOT_GIVEN


class StateEntryRead(Read):
    """An entry. Bytes, which JSON cannot represent, are not returned."""

    user_id: UUID | None
    conversation_id: UUID | None
    namespace: str
    key: str
    data: Any | None
    version: int
    expires_at: datetime | None
    created_at: datetime
    updated_at: datetime
    extra: dict[str, Any]


class TenantCreate(CreateInput):
    """The attributes of a new tenant. Every tenant can read the registry, so no personal data belongs here."""

    slug: fields.Slug
    name: fields.TenantName
    status: limits.TenantStatus = "active"
    retention_days: fields.RetentionDays | None = None
    extra: fields.JsonObject = Field(default_factory=dict)


class TenantUpdate(UpdateInput):
    """Changes of a tenant. A given `extra` replaces the whole stored object."""

    slug: fields.Slug = NOT_GIVEN
    name: fields.TenantName = NOT_GIVEN
    status: limits.TenantStatus = NOT_GIVEN
    retention_days: fields.RetentionDays | None = NOT_GIVEN
    extra: fields.JsonObject = NOT_GIVEN


class TenantRead(Read):
    """A tenant."""

    slug: str
    name: str
    status: limits.TenantStatus
    retention_days: int | None
    created_at: datetime
    updated_at: datetime
    extra: dict[str, Any]


def _check_times(start: datetime | None, end: datetime | None, rrule: str | None, *, all_day: bool) -> None:
    if start is not None and end is not None and end < start:
        raise ValueError("end_datetime must not be before start_datetime")
    if rrule is not None:
        check_rrule(rrule, all_day=all_day)
