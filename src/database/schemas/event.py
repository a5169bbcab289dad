"""Events, from outside."""

from __future__ import annotations

from datetime import datetime
from typing import Annotated, Literal, Self

from pydantic import Field, model_validator

from src.database.calendar import check_rrule
from src.database.schemas.base import NOT_GIVEN, CreateInput, UpdateInput
from src.database.schemas.fields import CLEAN, Boolean, Instant, Int4, JsonObject, RowId, Text, TimeZone

__all__ = ["EventCreate", "EventUpdate"]

Title = Annotated[str, Field(strict=True, min_length=1, max_length=500), CLEAN]
CalendarId = Annotated[str, Field(strict=True, max_length=255), CLEAN]
Status = Literal["scheduled", "cancelled", "done"]
Rule = Annotated[str, Field(strict=True, min_length=1, max_length=2000), CLEAN]
Seconds = Annotated[Int4, Field(ge=0)]


class EventCreate(CreateInput):
    """An event to make; a changed occurrence of a series names the series and which one it replaces."""

    user_id: RowId
    title: Title
    description: Text | None = None
    location: Text | None = None
    start_datetime: Instant
    end_datetime: Instant | None = None
    timezone: TimeZone = "UTC"
    all_day: Boolean = False
    status: Status = "scheduled"
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
        _check_end(self.start_datetime, self.end_datetime)
        if (self.series_id is None) != (self.recurrence_id is None):
            raise ValueError("series_id and recurrence_id must be given together: which occurrence of which series")
        if self.rrule is not None:
            check_rrule(self.rrule, all_day=self.all_day)
        return self


class EventUpdate(UpdateInput):
    """What changes of an event; where only one end of it moves, the database compares it with the other."""

    title: Title = NOT_GIVEN
    description: Text | None = NOT_GIVEN
    location: Text | None = NOT_GIVEN
    start_datetime: Instant = NOT_GIVEN
    end_datetime: Instant | None = NOT_GIVEN
    timezone: TimeZone = NOT_GIVEN
    all_day: Boolean = NOT_GIVEN
    status: Status = NOT_GIVEN
    rrule: Rule | None = NOT_GIVEN
    exdates: list[Instant] = NOT_GIVEN
    ical_uid: CalendarId | None = NOT_GIVEN
    reminder_datetime: Instant | None = NOT_GIVEN
    reminder_offset: Seconds | None = NOT_GIVEN
    extra: JsonObject = NOT_GIVEN

    @model_validator(mode="after")
    def _check_together(self) -> Self:
        _check_end(self.start_datetime, self.end_datetime)
        if self.rrule is not None:
            check_rrule(self.rrule, all_day=self.all_day)
        return self


def _check_end(start: datetime | None, end: datetime | None) -> None:
    if start is not None and end is not None and end < start:
        raise ValueError("end_datetime must not be before start_datetime")
