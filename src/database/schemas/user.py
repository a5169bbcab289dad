"""Users, from outside."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

from src.database.limits import DISPLAY_NAME, RETENTION_DAYS, USERNAME
from src.database.schemas.base import NOT_GIVEN, CreateInput, UpdateInput
from src.database.schemas.fields import CLEAN, Boolean, Int8, JsonObject, Locale, TimeZone, number, sized

__all__ = ["UserCreate", "UserUpdate"]

Username = Annotated[str, sized(USERNAME), CLEAN]
DisplayName = Annotated[str, sized(DISPLAY_NAME), CLEAN]
RetentionDays = Annotated[int, number(RETENTION_DAYS)]


class UserCreate(CreateInput):
    """A user to make."""

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
    """What changes of a user; `preferences` and `extra` are replaced as a whole."""

    telegram_id: Int8 | None = NOT_GIVEN
    username: Username | None = NOT_GIVEN
    display_name: DisplayName | None = NOT_GIVEN
    locale: Locale | None = NOT_GIVEN
    timezone: TimeZone = NOT_GIVEN
    is_active: Boolean = NOT_GIVEN
    preferences: JsonObject = NOT_GIVEN
    retention_days: RetentionDays | None = NOT_GIVEN
    extra: JsonObject = NOT_GIVEN
