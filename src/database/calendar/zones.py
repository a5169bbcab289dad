"""Time zones of the packaged zone data (the distribution `tzdata`), from which all local times are computed.

The zone data of the operating system and of the server can be of other releases, and PostgreSQL treats CET, EET, MET
and WET as fixed abbreviations. With several sources, one instant could have several local times. So the package
computes local times in Python, with this data only.
"""

from __future__ import annotations

import struct
from bisect import bisect_right
from datetime import UTC, datetime, timedelta
from functools import cache, lru_cache
from importlib.resources import files
from typing import Final, NamedTuple
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

_PACKAGE: Final = "tzdata"
_EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)
_FIRST: Final = datetime(1, 1, 2, tzinfo=UTC)
_LAST: Final = datetime(2100, 1, 1, tzinfo=UTC)
_MONTH: Final = timedelta(days=30)
# RFC 8536, section 3.1: 20 bytes of magic number, version and unused bytes, then six counts.
_HEADER: Final = struct.Struct(">20x6I")


class ZoneOffsets(NamedTuple):
    """The offsets of a zone from UTC: `offsets[0]` before `starts[0]`, and `offsets[n + 1]` from `starts[n]` on."""

    starts: list[datetime]
    offsets: list[timedelta]


@cache
def zone_names() -> frozenset[str]:
    """Return the names of all zones of the packaged data."""
    return frozenset(files(_PACKAGE).joinpath("zones").read_text(encoding="ascii").split())


def is_timezone(name: object) -> bool:
    """Return True if a value is the name of a zone of the packaged data."""
    return isinstance(name, str) and name in zone_names()


def check_timezone(name: str) -> None:
    """Check that a text is the name of a zone of the packaged data.

    Raises:
        ValueError: The packaged data has no zone with this name.
    """
    if not is_timezone(name):
        raise ValueError(f"timezone must be an IANA name like Europe/Madrid, got {name!r}")


@cache
def zone_data_version() -> str:
    """Return the release of the packaged data, e.g. 2026a."""
    first = _read("tzdata.zi").split(b"\n", 1)[0].decode("ascii")
    return first.removeprefix("# version ")


@cache
def get_zone(name: str) -> ZoneInfo:
    """Return the zone with this name from the packaged data.

    Raises:
        ZoneInfoNotFoundError: The packaged data has no zone with this name.
    """
    if name not in zone_names():
        raise ZoneInfoNotFoundError(f"the packaged zone data has no zone {name!r}")
    with files(_PACKAGE).joinpath("zoneinfo", *name.split("/")).open("rb") as file:
        return ZoneInfo.from_file(file, key=name)


def local_time(instant: datetime, zone: ZoneInfo) -> datetime:
    """Return the local time of an instant as a naive datetime."""
    return instant.astimezone(zone).replace(tzinfo=None, fold=0)


def zone_offsets(name: str, since: datetime | None = None, until: datetime | None = None) -> ZoneOffsets:
    """Return the offsets of a zone in an interval. The offset at the beginning of 2100 is used for all later years.

    Args:
        name: The name of the zone.
        since: The start of the interval; by default the first change.
        until: The end of the interval; by default the last change.

    Raises:
        ZoneInfoNotFoundError: The packaged data has no zone with this name.
    """
    starts, offsets = _all_offsets(name)
    first = 0 if since is None else bisect_right(starts, since)
    last = len(starts) if until is None else max(first, bisect_right(starts, until))
    return ZoneOffsets(starts[first:last], offsets[first : last + 1])


@lru_cache(maxsize=64)
def _all_offsets(name: str) -> ZoneOffsets:
    zone = get_zone(name)
    starts: list[datetime] = []
    offsets = [_offset(zone, _FIRST)]
    listed = _listed_changes(name)
    for start in [*listed, *_changes_by_rule(zone, listed[-1] if listed else _EPOCH)]:
        if start >= _FIRST and (offset := _offset(zone, start)) != offsets[-1]:
            starts.append(start)
            offsets.append(offset)
    return ZoneOffsets(starts, offsets)


def _listed_changes(name: str) -> list[datetime]:
    """Return the changes that the zone's file lists. It has a rule for the years after these."""
    data = _read(name)
    utc_flags, standard_flags, leaps, changes, types, letters = _HEADER.unpack_from(data)
    # The first block is for readers of 32-bit times. A second one, with 64-bit times, follows.
    second = _HEADER.size + 5 * changes + 6 * types + letters + 8 * leaps + standard_flags + utc_flags
    changes = _HEADER.unpack_from(data, second)[3]
    seconds = struct.unpack_from(f">{changes}q", data, second + _HEADER.size)
    earliest = (_FIRST - _EPOCH).total_seconds()
    return [_EPOCH + timedelta(seconds=one) for one in seconds if one >= earliest]


def _changes_by_rule(zone: ZoneInfo, after: datetime) -> list[datetime]:
    """Return the changes after an instant, up to 2100.

    `zoneinfo` does not expose the rule of a zone, so this compares offsets 30 days apart, and finds the minute of a
    change by bisection. A rule has at most two changes a year, which are months apart, at whole minutes.
    """
    changes = []
    after = after.replace(second=0)
    while after < _LAST:
        following = after + _MONTH
        if _offset(zone, after) != (offset := _offset(zone, following)):
            before, minutes = 0, int(_MONTH.total_seconds()) // 60
            while minutes - before > 1:
                middle = (before + minutes) // 2
                if _offset(zone, after + timedelta(minutes=middle)) == offset:
                    minutes = middle
                else:
                    before = middle
            changes.append(after + timedelta(minutes=minutes))
        after = following
    return changes


def _offset(zone: ZoneInfo, instant: datetime) -> timedelta:
    offset = instant.astimezone(zone).utcoffset()
    assert offset is not None  # noqa: S101 - a ZoneInfo has an offset for each instant
    return offset


def _read(name: str) -> bytes:
    return files(_PACKAGE).joinpath("zoneinfo", *name.split("/")).read_bytes()
