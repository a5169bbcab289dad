"""Recurring events in local time (RFC 5545): rules, their expansion, series, and the packaged zone data."""

from src.database.calendar.expansion import has_first, times_of
from src.database.calendar.rules import FIRST_YEAR, LAST_YEAR, MAX_COUNT, Rule, check_rrule, parse_rrule
from src.database.calendar.series import Series, Slot, lasting, to_instant, to_wall_clock, wall_clock_duration
from src.database.calendar.zones import (
    check_timezone,
    get_zone,
    is_timezone,
    local_time,
    zone_data_version,
    zone_names,
    zone_offsets,
)

__all__ = [
    "FIRST_YEAR",
    "LAST_YEAR",
    "MAX_COUNT",
    "Rule",
    "Series",
    "Slot",
    "check_rrule",
    "check_timezone",
    "get_zone",
    "has_first",
    "is_timezone",
    "lasting",
    "local_time",
    "parse_rrule",
    "times_of",
    "to_instant",
    "to_wall_clock",
    "wall_clock_duration",
    "zone_data_version",
    "zone_names",
    "zone_offsets",
]
