"""The doctor's check of time zone data: the server's data is compared with the `tzdata` package."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from datetime import UTC, datetime, timedelta
from typing import Final

from src.database.calendar import get_zone, local_time, zone_data_version, zone_names
from src.database.check_result import CheckResult, ok, warning
from src.database.doctor.server import CheckContext

_SAMPLES: Final = 36
"""The number of instants that are compared: one every 30 days, from a year ago on."""
_SHOWN: Final = 30
# AT TIME ZONE raises an error for a name that the server does not know: the view leaves these names out. It also reads
# CET, EET, MET and WET as abbreviations with a fixed offset, so that these zones differ in summer.
_LOCAL_TIMES: Final = """
SELECT known.name, array_agg(instant AT TIME ZONE known.name ORDER BY instant)
  FROM (SELECT DISTINCT zone.name FROM pg_catalog.pg_timezone_names AS zone WHERE zone.name = ANY($1)) AS known
  CROSS JOIN unnest($2::timestamptz[]) AS instant
 GROUP BY known.name
"""


async def check_zones(context: CheckContext) -> CheckResult:
    """Compare the local times that the server computes with those of the packaged zone data, for every zone."""
    first = datetime.now(UTC).replace(hour=12, minute=0, second=0, microsecond=0) - timedelta(days=365)
    instants = [first + timedelta(days=30) * n for n in range(_SAMPLES)]
    rows = await context.connection.fetch(_LOCAL_TIMES, sorted(zone_names()), instants)
    return judge_zones(dict(rows), instants)


def judge_zones(by_server: Mapping[str, list[datetime]], instants: list[datetime]) -> CheckResult:
    """Return the result: a warning for zones that the server does not know, as it rejects events in them.

    A zone that differs is no fault, as this package computes local time itself; it matters for AT TIME ZONE in callers'
    SQL.

    Args:
        by_server: By zone, the server's local times at the instants.
        instants: The instants that were compared.
    """
    differing = [
        name
        for name, local_times in by_server.items()
        if local_times != [local_time(instant, get_zone(name)) for instant in instants]
    ]
    comparison = (
        f"the server's zone data differs from tzdata {zone_data_version()} in {_listed(differing)}; this package"
        " computes local time with tzdata, and AT TIME ZONE in your own SQL can return other times"
    )
    if unknown := zone_names() - by_server.keys():
        return warning(
            f"the server does not know {_listed(unknown)}, and rejects events in these zones"
            + (f"; {comparison}" if differing else ""),
            "update the server's zone data: by a minor release of PostgreSQL, or the system's tzdata package",
        )
    return ok(comparison if differing else f"the server's zone data agrees with tzdata {zone_data_version()}")


def _listed(names: Collection[str]) -> str:
    shown = ", ".join(sorted(names)[:_SHOWN])
    return f"{len(names)} zone{'' if len(names) == 1 else 's'}: {shown}{', ...' if len(names) > _SHOWN else ''}"
