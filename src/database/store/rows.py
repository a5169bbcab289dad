"""The rows that the store returns: typed, immutable, without a session."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from operator import itemgetter
from typing import Any, Final, NamedTuple, dataclass_transform
from uuid import UUID

import asyncpg
from sqlalchemy import Column, ColumnElement
from sqlalchemy.orm import InstrumentedAttribute

from src.database.base import clean_text
from src.database.json_values import decode_json
from src.database.models import Conversation, Event, MessageHistory, StateEntry, User, limits


@dataclass_transform(frozen_default=True)
class _Row(asyncpg.Record):  # type: ignore[misc] # it ships no types
    """The driver's own record, whose columns are attributes: no object is created in addition to the record."""

    __slots__ = ()

    def __init_subclass__(cls, *, json_columns: Sequence[str] = ()) -> None:
        for name in cls.__annotations__:
            setattr(cls, name, property(_decoded(name) if name in json_columns else itemgetter(name)))

    def __repr__(self) -> str:
        """Return the class and the id, without content."""
        return f"<{type(self).__name__} {self['id']}>"


def _decoded(name: str) -> Any:
    """Return a property that decodes JSON at each access, so that a caller's changes do not affect other callers."""

    def decode(row: _Row) -> Any:
        value = row[name]
        return None if value is None else decode_json(value)

    return decode


class MessageRow(_Row, json_columns=("parts", "attachments", "extra")):
    """A message, as :class:`~src.database.models.MessageHistory` has it; JSON is decoded at each access."""

    __slots__ = ()

    id: UUID
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
    created_at: datetime
    edited_at: datetime | None
    extra: dict[str, Any]


class EventRow(_Row, json_columns=("extra",)):
    """An event whose reminder is claimed, as :class:`~src.database.models.Event` has it."""

    __slots__ = ()

    id: UUID
    user_id: UUID
    title: str
    description: str | None
    location: str | None
    start_datetime: datetime
    end_datetime: datetime | None
    timezone: str
    all_day: bool
    rrule: str | None
    series_id: UUID | None
    recurrence_id: datetime | None
    reminder_datetime: datetime
    reminder_offset: int | None
    reminder_attempts: int
    reminder_claimed_until: datetime
    reminder_token: UUID
    extra: dict[str, Any]


class AppendedRow(NamedTuple):
    """The place of a stored message. ``inserted`` is False for a duplicate, which is not an error.

    ``is_there`` is False for a duplicate whose message or conversation is deleted.
    """

    message_id: str
    id: UUID
    conversation_id: UUID
    seq: int
    created_at: datetime
    inserted: bool
    is_there: bool


class Profile(NamedTuple):
    """The attributes of a new user. The zone is an IANA name, the locale a language tag."""

    username: str | None = None
    display_name: str | None = None
    locale: str | None = None
    timezone: str = "UTC"

    def checked(self) -> tuple[str | None, ...]:
        """Return the profile as it is stored.

        Raises:
            ValueError: The zone is not an IANA name, the locale is not a language tag, or a name is too short or too
                long.
        """
        if self is NO_PROFILE:
            return tuple(self)
        limits.check_limits(limits.USERS, self._asdict())
        return tuple(None if value is None else clean_text(value) for value in self)

    def __repr__(self) -> str:
        """Return a text without personal data."""
        return "<Profile>"


NO_PROFILE: Final = Profile()


class UserRow(NamedTuple):
    """A user, as :class:`~src.database.models.User` has it; ``preferences`` is decoded at each access."""

    id: UUID
    telegram_id: int | None
    username: str | None
    display_name: str | None
    locale: str | None
    timezone: str
    is_active: bool
    last_seen_at: datetime | None
    is_person: bool
    created_at: datetime
    preferences_json: str

    @property
    def preferences(self) -> dict[str, Any]:
        """The user's preferences, decoded at each access."""
        decoded: dict[str, Any] = decode_json(self.preferences_json)
        return decoded

    def __repr__(self) -> str:
        """Return the class and the id, without personal data."""
        return f"<UserRow {self.id}>"


class ConversationRow(NamedTuple):
    """A conversation, as :class:`~src.database.models.Conversation` has it."""

    id: UUID
    user_id: UUID
    session_id: str
    channel: str
    external_chat_id: str | None
    title: str | None
    summary: str | None
    summary_upto_seq: int
    last_seq: int
    last_message_at: datetime | None
    created_at: datetime

    def __repr__(self) -> str:
        """Return the class and the id, without content."""
        return f"<ConversationRow {self.id}>"


class StateRow(NamedTuple):
    """An entry of state, as :class:`~src.database.models.StateEntry` has it."""

    id: UUID
    user_id: UUID | None
    conversation_id: UUID | None
    namespace: str
    key: str
    data_json: str | None
    blob: bytes | None
    version: int
    expires_at: datetime | None
    created_at: datetime
    updated_at: datetime

    @property
    def value(self) -> Any:
        """The value: bytes, or JSON that is decoded at each access."""
        return self.blob if self.data_json is None else decode_json(self.data_json)

    def __repr__(self) -> str:
        """Return the class and the id, without content."""
        return f"<StateRow {self.id}>"


class TurnRows(NamedTuple):
    """The result of a turn."""

    user: UserRow
    user_created: bool
    conversation: ConversationRow
    """The conversation after the new messages."""
    conversation_started: bool
    recent: list[MessageRow]
    """The messages before the new ones, the oldest first."""
    appended: list[AppendedRow]
    """The new messages, in the order of the call."""


_MODELS: Final = {
    ConversationRow: Conversation,
    EventRow: Event,
    MessageRow: MessageHistory,
    StateRow: StateEntry,
    UserRow: User,
}


def columns_of(row: type[Any]) -> list[ColumnElement[Any]]:
    """Return the mapped columns of a kind of row, in the row's order. A column that was renamed fails here."""
    model: Any = _MODELS[row]
    names = row._fields if hasattr(row, "_fields") else tuple(row.__annotations__)
    return [_column(model, name.removesuffix("_json")).label(name) for name in names]


def names_of(row: type[Any], *, labeled: bool = False) -> list[str]:
    """Return the columns of a function's result by name; with `labeled`, each with `AS` and its name in the row."""
    columns: list[Any] = columns_of(row)
    return [f"{one.element.name} AS {one.name}" if labeled else one.element.name for one in columns]


def _column(model: Any, name: str) -> Column[Any]:
    attribute: InstrumentedAttribute[Any] = getattr(model, name)
    column: Column[Any] = attribute.property.columns[0]
    return column
