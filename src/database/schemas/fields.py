"""The field types of the schemas, with the limits of the database, and the base classes of the schemas."""

from __future__ import annotations

from collections.abc import Iterable
from datetime import UTC, datetime
from typing import Annotated, Any, Final
from uuid import UUID

from pydantic import AfterValidator, AwareDatetime, BaseModel, BeforeValidator, ConfigDict, Field, Strict

from src.database.base import clean_text
from src.database.calendar import is_timezone
from src.database.json_values import encode_json
from src.database.models import MAX_TAGS, limits


def _clean(value: Any) -> Any:
    return clean_text(value) if isinstance(value, str) else value


def _parse_instant(value: Any) -> Any:
    """Parse ISO 8601 text. Reject numbers, which pydantic would read as Unix seconds or milliseconds."""
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


def _check_json(value: Any) -> Any:
    encode_json(value, "the value")
    return value


def _check_zone(value: str) -> str:
    if not is_timezone(value):
        raise ValueError("must be an IANA name like Europe/Madrid")
    return value


def _check_locale(value: str) -> str:
    if not limits.is_locale(value):
        raise ValueError("must have the shape of BCP 47, like es or es-MX")
    return value


def _check_provider(value: str) -> str:
    limits.check_provider(value)
    return value


def _check_subject(value: str) -> str:
    limits.check_subject(value)
    return value


def within(limit: limits.Length) -> Any:
    """Return the constraint of a text of this length."""
    return Field(strict=True, min_length=limit.minimum or None, max_length=limit.maximum)


def in_range(limit: limits.Whole) -> Any:
    """Return the constraint of a whole number in this range."""
    return Field(strict=True, ge=limit.minimum, le=limit.maximum)


CLEAN: Final = BeforeValidator(_clean)
"""Cleans a text. It stands last in each type because pydantic runs BeforeValidators from the last to the first.

Cleaning has to come first: pydantic rejects a lone surrogate, and the limits are those of the stored text.
"""

Text = Annotated[str, Strict(), CLEAN]
Boolean = Annotated[bool, Strict()]
Int4 = Annotated[int, Strict(), Field(ge=-(2**31), le=2**31 - 1)]
Int8 = Annotated[int, Strict(), Field(ge=-(2**63), le=2**63 - 1)]
Instant = Annotated[AwareDatetime, BeforeValidator(_parse_instant), AfterValidator(_check_range)]
RowId = Annotated[UUID, BeforeValidator(_parse_id)]
JsonObject = Annotated[dict[str, Any], BeforeValidator(_check_json)]
JsonValue = Annotated[Any, BeforeValidator(_check_json)]
JsonArray = Annotated[list[Any], BeforeValidator(_check_json)]
TimeZone = Annotated[str, within(limits.TIMEZONE), CLEAN, AfterValidator(_check_zone)]
Locale = Annotated[str, within(limits.LOCALE), CLEAN, AfterValidator(_check_locale)]
Username = Annotated[str, within(limits.USERNAME), CLEAN]
DisplayName = Annotated[str, within(limits.DISPLAY_NAME), CLEAN]
RetentionDays = Annotated[int, in_range(limits.RETENTION_DAYS)]
Provider = Annotated[str, within(limits.PROVIDER), AfterValidator(_check_provider)]
Subject = Annotated[str, within(limits.SUBJECT), AfterValidator(_check_subject)]
SessionId = Annotated[str, within(limits.SESSION_ID), CLEAN]
Channel = Annotated[str, within(limits.CHANNEL), CLEAN]
ChatId = Annotated[str, within(limits.CHAT_ID), CLEAN]
MessageId = Annotated[str, within(limits.MESSAGE_ID), CLEAN]
ToolCallId = Annotated[str, within(limits.TOOL_CALL_ID), CLEAN]
Tokens = Annotated[int, in_range(limits.TOKENS)]
Title = Annotated[str, within(limits.TITLE), CLEAN]
CalendarId = Annotated[str, within(limits.ICAL_UID), CLEAN]
Rule = Annotated[str, within(limits.RRULE), CLEAN]
Seconds = Annotated[Int4, Field(ge=0)]
Content = Annotated[str, within(limits.NOTE), CLEAN]
Tags = Annotated[list[Text], Field(max_length=MAX_TAGS)]
Slug = Annotated[str, Field(strict=True, pattern=f"^{limits.SLUG_PATTERN}$"), CLEAN]
Namespace = Annotated[str, within(limits.NAMESPACE), CLEAN]
StateKey = Annotated[str, within(limits.STATE_KEY), CLEAN]
TenantName = Annotated[str, within(limits.TENANT_NAME), CLEAN]


def _without_default(schema: dict[str, Any]) -> None:
    """Remove the default from the JSON schema: a client that sends the `null` shown there would be rejected."""
    schema.pop("default", None)


NOT_GIVEN: Final[Any] = Field(default=None, json_schema_extra=_without_default)
"""The default of an attribute that an update may leave out. Pydantic does not validate a default, so the type of the
attribute can still reject a given None."""


class Input(BaseModel):
    """Values from outside, checked against the limits of the database before any statement is sent.

    Neither the text of a ValidationError nor the repr of a schema has a value of the input. `ValidationError.errors()`
    has: log `errors(include_input=False)`. The text of an error does name an unknown field as the client wrote it.

    Parse JSON with `json.loads` and validate the result, as FastAPI does. `model_validate_json` rejects a document that
    has a lone surrogate, which is otherwise replaced.
    """

    model_config = ConfigDict(extra="forbid", frozen=True, hide_input_in_errors=True)

    def __repr_args__(self) -> Iterable[tuple[str | None, Any]]:
        """Yield the names of the given attributes, without their values."""
        yield "given", sorted(self.model_fields_set)


class CreateInput(Input):
    """The attributes of a new row."""

    def to_values(self) -> dict[str, Any]:
        """Return the attributes by name, with the defaults of those not given: `User(**new.to_values())`."""
        return self.model_dump()


class UpdateInput(Input):
    """Changes of a row. An attribute that is not given keeps its value; None sets the attribute to NULL."""

    def to_values(self) -> dict[str, Any]:
        """Return only the given attributes, by name: `users.update(user_id, **change.to_values())`."""
        return self.model_dump(exclude_unset=True)
