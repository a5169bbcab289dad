"""Typed inputs from outside: the types of their fields, and for each table a schema to create and one to update."""

from __future__ import annotations

from collections.abc import Iterable
from datetime import UTC, datetime
from typing import Annotated, Any, Final, Literal, Self
from uuid import UUID

from pydantic import (
    AfterValidator,
    AwareDatetime,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    Strict,
    model_validator,
)

from src.database.base import clean_json, clean_text, uuid7
from src.database.calendar import check_rrule, is_timezone
from src.database.models import limits
from src.database.models.limits import is_locale
from src.database.models.note import MAX_TAGS
from src.database.statements import NewMessage


def _clean(value: Any) -> Any:
    return clean_text(value) if isinstance(value, str) else value


def _parse_instant(value: Any) -> Any:
    """Parse ISO 8601 with a zone. A bare number has neither unit nor zone."""
    if isinstance(value, str):
        try:
            value = datetime.fromisoformat(value)
        except ValueError:
            raise ValueError("must be ISO 8601 like 2026-03-01T12:00:00+01:00") from None
    if not isinstance(value, datetime):
        raise ValueError("must be a datetime, or ISO 8601 like 2026-03-01T12:00:00+01:00")  # noqa: TRY004 - pydantic's
    return value


def _check_range(value: datetime) -> datetime:
    try:
        value.astimezone(UTC)
    except OverflowError:
        raise ValueError("must be within the years 1 to 9999 in UTC") from None
    return value


def _parse_id(value: Any) -> Any:
    if isinstance(value, str):
        try:
            return UUID(value)
        except ValueError:
            raise ValueError("must be a UUID") from None
    return value


def _clean_json(value: Any) -> Any:
    return clean_json(value, "the value")


def _check_zone(value: str) -> str:
    if not is_timezone(value):
        raise ValueError("must be an IANA name like Europe/Madrid")
    return value


def _check_locale(value: str) -> str:
    if not is_locale(value):
        raise ValueError("must have the shape of BCP 47, like es or es-MX")
    return value


def _sized(limit: limits.Length) -> Any:
    """Return the field of a text of this length."""
    return Field(strict=True, min_length=limit.minimum or None, max_length=limit.maximum)


def _number(limit: limits.Whole) -> Any:
    """Return the field of a whole number."""
    return Field(strict=True, ge=limit.minimum, le=limit.maximum)


CLEAN: Final = BeforeValidator(_clean)
"""Comes last, so it is done first: a lone surrogate would be refused as text; the length is that of what is stored."""

Text = Annotated[str, Strict(), CLEAN]
Boolean = Annotated[bool, Strict()]
Int4 = Annotated[int, Strict(), Field(ge=-(2**31), le=2**31 - 1)]
Int8 = Annotated[int, Strict(), Field(ge=-(2**63), le=2**63 - 1)]
Instant = Annotated[AwareDatetime, BeforeValidator(_parse_instant), AfterValidator(_check_range)]
RowId = Annotated[UUID, BeforeValidator(_parse_id)]
JsonObject = Annotated[dict[str, Any], BeforeValidator(_clean_json)]
JsonArray = Annotated[list[Any], BeforeValidator(_clean_json)]
TimeZone = Annotated[str, _sized(limits.TIMEZONE), CLEAN, AfterValidator(_check_zone)]
Locale = Annotated[str, _sized(limits.LOCALE), CLEAN, AfterValidator(_check_locale)]
Username = Annotated[str, _sized(limits.USERNAME), CLEAN]
DisplayName = Annotated[str, _sized(limits.DISPLAY_NAME), CLEAN]
RetentionDays = Annotated[int, _number(limits.RETENTION_DAYS)]
SessionId = Annotated[str, _sized(limits.SESSION_ID), CLEAN]
Channel = Annotated[str, _sized(limits.CHANNEL), CLEAN]
ChatId = Annotated[str, _sized(limits.CHAT_ID), CLEAN]
MessageId = Annotated[str, _sized(limits.MESSAGE_ID), CLEAN]
ToolCallId = Annotated[str, _sized(limits.TOOL_CALL_ID), CLEAN]
Tokens = Annotated[int, _number(limits.TOKENS)]
Title = Annotated[str, _sized(limits.TITLE), CLEAN]
CalendarId = Annotated[str, _sized(limits.ICAL_UID), CLEAN]
EventStatus = Literal["scheduled", "cancelled", "done"]
Rule = Annotated[str, _sized(limits.RRULE), CLEAN]
Seconds = Annotated[Int4, Field(ge=0)]
Content = Annotated[str, _sized(limits.NOTE), CLEAN]
Tags = Annotated[list[Text], Field(max_length=MAX_TAGS)]
Slug = Annotated[str, Field(strict=True, pattern=f"^{limits.SLUG}$"), CLEAN]
TenantName = Annotated[str, _sized(limits.TENANT_NAME), CLEAN]
TenantStatus = Literal["active", "suspended"]


def _without_default(schema: dict[str, Any]) -> None:
    """Remove the default from the JSON schema: a client that sends the `null` it reads there would be refused."""
    schema.pop("default", None)


NOT_GIVEN: Final[Any] = Field(default=None, json_schema_extra=_without_default)
"""The default of an attribute that an update may leave out. It is not validated, so None itself can be refused."""


class Input(BaseModel):
    """Values from outside, checked by the database's own limits before they are sent there.

    The text of a ValidationError does not repeat the input, only its place; neither does a repr. Its `errors()` does:
    call `errors(include_input=False)` to log it. The name of an unknown field is part of the text.

    JSON is best read with `json.loads` first, as FastAPI does: pydantic's own reader refuses a whole text for one lone
    surrogate, which is else replaced.
    """

    model_config = ConfigDict(extra="forbid", frozen=True, hide_input_in_errors=True)

    def __repr_args__(self) -> Iterable[tuple[str | None, Any]]:
        """Name the attributes that were given, and no value."""
        yield "given", sorted(self.model_fields_set)


class CreateInput(Input):
    """The attributes of a new row."""

    def to_values(self) -> dict[str, Any]:
        """Return the attributes by name, those not given with their defaults: `User(**new.to_values())`."""
        return self.model_dump()


class UpdateInput(Input):
    """The changes of a row; an attribute that is not given stays as it is, and None is a value like another."""

    def to_values(self) -> dict[str, Any]:
        """Return the attributes that were given, by name: `users.update(user_id, **change.to_values())`."""
        return self.model_dump(exclude_unset=True)


class UserCreate(CreateInput):
    """A user to add."""

    telegram_id: Int8 | None = None
    username: Username | None = None
    display_name: DisplayName | None = None
    locale: Locale | None = None
    timezone: TimeZone = "UTC"
    is_active: Boolean = True
    preferences: JsonObject = Field(default_factory=dict)
    retention_days: RetentionDays | None = None
    extra: JsonObject = Field(default_factory=dict)


class UserUpdate(UpdateInput):
    """The changes of a user; `preferences` and `extra` are replaced as a whole."""

    telegram_id: Int8 | None = NOT_GIVEN
    username: Username | None = NOT_GIVEN
    display_name: DisplayName | None = NOT_GIVEN
    locale: Locale | None = NOT_GIVEN
    timezone: TimeZone = NOT_GIVEN
    is_active: Boolean = NOT_GIVEN
    preferences: JsonObject = NOT_GIVEN
    retention_days: RetentionDays | None = NOT_GIVEN
    extra: JsonObject = NOT_GIVEN


class ConversationCreate(CreateInput):
    """A conversation to add; `get_or_start` finds or makes the active one of a chat."""

    user_id: RowId
    session_id: SessionId = Field(default_factory=lambda: str(uuid7()))
    channel: Channel
    external_chat_id: ChatId | None = None
    title: Text | None = None
    extra: JsonObject = Field(default_factory=dict)


class ConversationUpdate(UpdateInput):
    """The changes of a conversation; `close` and `set_summary` have rules of their own."""

    title: Text | None = NOT_GIVEN
    extra: JsonObject = NOT_GIVEN


class MessageCreate(CreateInput):
    """A message to append: `message_id` is its idempotency key, `<channel>:<account>:<chat>:<id>`."""

    message_id: MessageId
    role: limits.Role
    content: Text | None = None
    parts: JsonArray | None = None
    attachments: JsonArray = Field(default_factory=list)
    parent_id: RowId | None = None
    tool_call_id: ToolCallId | None = None
    tool_name: Text | None = None
    model: Text | None = None
    input_tokens: Tokens | None = None
    output_tokens: Tokens | None = None
    token_count: Tokens | None = None
    state: limits.State = "complete"
    created_at: Instant | None = None
    edited_at: Instant | None = None
    extra: JsonObject = Field(default_factory=dict)

    def to_new_message(self) -> NewMessage:
        """Return the message as `append` takes it."""
        return NewMessage(**self.to_values())


class MessageUpdate(UpdateInput):
    """The changes of a message. What was said goes through `edit`, which keeps what was there before.

    `extra` is not among it: the versions before are kept there.
    """

    parts: JsonArray | None = NOT_GIVEN
    attachments: JsonArray = NOT_GIVEN
    model: Text | None = NOT_GIVEN
    input_tokens: Tokens | None = NOT_GIVEN
    output_tokens: Tokens | None = NOT_GIVEN
    token_count: Tokens | None = NOT_GIVEN


class EventCreate(CreateInput):
    """An event to add; a changed occurrence of a series names the series and which one it replaces."""

    user_id: RowId
    title: Title
    description: Text | None = None
    location: Text | None = None
    start_datetime: Instant
    end_datetime: Instant | None = None
    timezone: TimeZone = "UTC"
    all_day: Boolean = False
    status: EventStatus = "scheduled"
    rrule: Rule | None = None
    exdates: list[Instant] = Field(default_factory=list)
    series_id: RowId | None = None
    recurrence_id: Instant | None = None
    ical_uid: CalendarId | None = None
    reminder_datetime: Instant | None = None
    reminder_offset: Seconds | None = None
    extra: JsonObject = Field(default_factory=dict)

    @model_validator(mode="after")
    def _check_together(self) -> Self:
        _check_times(self.start_datetime, self.end_datetime, self.rrule, all_day=self.all_day)
        if (self.series_id is None) != (self.recurrence_id is None):
            raise ValueError("series_id and recurrence_id must be given together: which occurrence of which series")
        return self


class EventUpdate(UpdateInput):
    """The changes of an event; where only one end of it moves, the database compares it with the other."""

    title: Title = NOT_GIVEN
    description: Text | None = NOT_GIVEN
    location: Text | None = NOT_GIVEN
    start_datetime: Instant = NOT_GIVEN
    end_datetime: Instant | None = NOT_GIVEN
    timezone: TimeZone = NOT_GIVEN
    all_day: Boolean = NOT_GIVEN
    status: EventStatus = NOT_GIVEN
    rrule: Rule | None = NOT_GIVEN
    exdates: list[Instant] = NOT_GIVEN
    ical_uid: CalendarId | None = NOT_GIVEN
    reminder_datetime: Instant | None = NOT_GIVEN
    reminder_offset: Seconds | None = NOT_GIVEN
    extra: JsonObject = NOT_GIVEN

    @model_validator(mode="after")
    def _check_together(self) -> Self:
        _check_times(self.start_datetime, self.end_datetime, self.rrule, all_day=self.all_day)
        return self


class NoteCreate(CreateInput):
    """A note to add."""

    user_id: RowId
    title: Title | None = None
    content: Content
    tags: Tags = Field(default_factory=list)
    pinned: Boolean = False
    source_message_id: RowId | None = None
    extra: JsonObject = Field(default_factory=dict)


class NoteUpdate(UpdateInput):
    """The changes of a note; `tags` and `extra` are replaced as a whole."""

    title: Title | None = NOT_GIVEN
    content: Content = NOT_GIVEN
    tags: Tags = NOT_GIVEN
    pinned: Boolean = NOT_GIVEN
    extra: JsonObject = NOT_GIVEN


class TenantCreate(CreateInput):
    """A tenant to register. Every tenant's role can read the registry: nobody's data belongs here."""

    slug: Slug
    name: TenantName
    status: TenantStatus = "active"
    retention_days: RetentionDays | None = None
    extra: JsonObject = Field(default_factory=dict)


class TenantUpdate(UpdateInput):
    """The changes of a tenant; `extra` is replaced as a whole."""

    slug: Slug = NOT_GIVEN
    name: TenantName = NOT_GIVEN
    status: TenantStatus = NOT_GIVEN
    retention_days: RetentionDays | None = NOT_GIVEN
    extra: JsonObject = NOT_GIVEN


def _check_times(start: datetime | None, end: datetime | None, rrule: str | None, *, all_day: bool) -> None:
    if start is not None and end is not None and end < start:
        raise ValueError("end_datetime must not be before start_datetime")
    if rrule is not None:
        check_rrule(rrule, all_day=all_day)
