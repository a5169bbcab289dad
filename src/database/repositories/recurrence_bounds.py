"""Which instants and intervals can be asked for and kept; what is beyond fails here, and not in a later reading."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any, Final

from src.database.base import check_aware
from src.database.repositories.recurrence_rule import FIRST_YEAR, LAST_YEAR

__all__ = ["LATEST", "check_datetime", "check_instant", "check_interval", "check_window", "check_year"]

MAX_WINDOW: Final = timedelta(days=3660)
# A day within the calendar's ends: every zone has a wall-clock time there.
EARLIEST: Final = datetime(1, 1, 2, tzinfo=UTC)
LATEST: Final = datetime(9999, 12, 30, tzinfo=UTC)


def check_datetime(name: str, value: Any) -> None:
    """Refuse what names no instant: a date, a text, a naive datetime.

    Raises:
        ValueError: It is none.
    """
    if not isinstance(value, datetime):
        raise ValueError(  # noqa: TRY004 - bad input
            f"{name} must be a datetime with a zone, got {type(value).__name__}; of a date its midnight in the zone"
        )
    check_aware(name, value)


def check_instant(name: str, value: Any) -> None:
    """Refuse an instant that has no wall-clock time in some zone.

    Raises:
        ValueError: It is none, or too close to an end of the calendar.
    """
    check_datetime(name, value)
    if not EARLIEST <= value <= LATEST:
        raise ValueError(f"{name} must be from {EARLIEST.date()} to {LATEST.date()}, got the year {value.year}")


def check_year(name: str, value: Any) -> None:
    """Refuse an instant that no series reaches.

    Raises:
        ValueError: It is not between the years 1900 and 2199.
    """
    check_datetime(name, value)
    if not FIRST_YEAR <= value.year <= LAST_YEAR:
        raise ValueError(f"{name} must be between the years {FIRST_YEAR} and {LAST_YEAR}, got {value.year}")


def check_interval(start: Any, end: Any) -> None:
    """Refuse what is no half-open interval.

    Raises:
        ValueError: A bound is no instant, or the end is not after the start.
    """
    check_datetime("start", start)
    check_datetime("end", end)
    if end <= start:
        raise ValueError(f"end must be after start, got {start.isoformat()} to {end.isoformat()}")


def check_window(start: Any, end: Any) -> None:
    """Refuse an interval that cannot be expanded.

    Raises:
        ValueError: A bound is no instant or not between the years 1900 and 2199, the end is not after the start, or it
            is longer than ten years.
    """
    check_interval(start, end)
    for name, value in (("start", start), ("end", end)):
        check_year(name, value)
    if end - start > MAX_WINDOW:
        raise ValueError(f"end must be at most {MAX_WINDOW.days} days after start, got {(end - start).days}")
