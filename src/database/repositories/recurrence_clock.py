"""Instants and the clock on the wall: the one read as the other, and how long something lasts by the latter."""

from __future__ import annotations

from datetime import UTC, datetime, time, timedelta
from zoneinfo import ZoneInfo

from src.database.zones import local_time

__all__ = ["lasting", "to_instant", "to_wall_clock", "wall_clock_duration"]


def to_instant(local: datetime, zone: ZoneInfo) -> datetime:
    """Read a wall-clock time as RFC 5545, 3.3.5 says, which is how Python reads one with `fold=0`."""
    return local.replace(tzinfo=zone, fold=0).astimezone(UTC)


def to_wall_clock(instant: datetime, zone: ZoneInfo, *, all_day: bool = False) -> datetime:
    """Say what the clock on the wall shows at an instant; for whole days midnight, also where the clocks leave it out.

    Args:
        instant: When.
        zone: Where.
        all_day: Whether whole days are meant: one of Beirut begins at one o'clock in the year.
    """
    local = local_time(instant, zone)
    if not all_day:
        return local
    midnight = datetime.combine(local, time())
    return midnight if to_instant(midnight, zone) == instant else local


def wall_clock_duration(
    start: datetime, end: datetime | None, zone: ZoneInfo, *, all_day: bool = False
) -> timedelta | None:
    """Say how long something lasts by the clock on the wall."""
    if end is None:
        return None
    return to_wall_clock(end, zone, all_day=all_day) - to_wall_clock(start, zone, all_day=all_day)


def lasting(start: datetime, duration: timedelta | None, zone: ZoneInfo, *, all_day: bool = False) -> datetime | None:
    """Return the end of what begins at an instant and lasts so long by the clock on the wall; never before it."""
    if duration is None:
        return None
    end = to_instant(to_wall_clock(start, zone, all_day=all_day) + duration, zone)
    return end if end >= start else start + abs(duration)
