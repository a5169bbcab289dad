"""What an event may be: its values beside each other, those that the row has and those that change."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

from src.database.regional import check_timezone
from src.database.repositories.recurrence_bounds import check_instant, check_year
from src.database.repositories.recurrence_rule import check_rrule

__all__ = ["CHECKED", "check_event", "check_not_moved", "check_values"]

_INSTANTS: Final = ("start_datetime", "end_datetime", "recurrence_id", "reminder_datetime")
CHECKED: Final = (*_INSTANTS, "timezone", "all_day", "rrule", "exdates", "series_id")
_MOVED_ALONE: Final = ("start_datetime", "timezone", "rrule")


def check_values(values: Mapping[str, Any]) -> None:
    """Refuse values that no event can have.

    Raises:
        ValueError: A zone, a rule or an instant is none, or is out of the calendar.
    """
    for name in _INSTANTS:
        if values.get(name) is not None:
            check_instant(name, values[name])
    if values.get("timezone") is not None:
        check_timezone(values["timezone"])
    if values.get("rrule") is not None:
        check_rrule(values["rrule"], all_day=values.get("all_day"))
    exdates = values.get("exdates", [])
    if not isinstance(exdates, list | tuple):
        raise ValueError(  # noqa: TRY004 - bad input
            f"exdates must be a list of datetimes, the empty one for none, got {type(exdates).__name__}"
        )
    for one in exdates:
        check_year("each of exdates", one)


def check_event(values: Mapping[str, Any]) -> None:
    """Refuse an event whose values do not go together.

    Args:
        values: All of `CHECKED`.

    Raises:
        ValueError: It has no start, or is a series of a form, or in an age, that is not expanded.
    """
    if values["start_datetime"] is None:
        raise ValueError("start_datetime must be given: an event without a start is none")
    check_values({**values, "exdates": values["exdates"] or [], "all_day": bool(values["all_day"])})
    if values["recurrence_id"] is not None:
        check_year("recurrence_id", values["recurrence_id"])
    if values["rrule"] is None:
        return
    if values["series_id"] is not None:
        raise ValueError("a changed occurrence must have no rrule of its own: its series has it")
    check_year("start_datetime", values["start_datetime"])


def check_not_moved(row: Any, values: Mapping[str, Any]) -> None:
    """Refuse to move a series by its columns alone: what was changed and excluded would stay behind.

    Raises:
        ValueError: A start, a zone or a rule changes.
    """
    if row.rrule is None:
        return
    for name in _MOVED_ALONE:
        if name in values and values[name] != getattr(row, name):
            remedy = "cancel it and add one in that zone" if name == "timezone" else '`reschedule(…, scope="all")` it'
            raise ValueError(
                f"{name} of a series must not be updated, for its changed and excluded occurrences would stay behind;"
                f" {remedy}"
            )
