"""The doctor's check of zone data: the server's compared with the packaged one, by which local time is computed."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from datetime import UTC, datetime, timedelta
from typing import Final

from src.database.cli.diagnose.finding import Finding, ok, warning
from src.database.cli.diagnose.server import Patient
from src.database.zones import get_zone, local_time, zone_data_version, zone_names

__all__ = ["check_zones", "zones_finding"]

_SAMPLES: Final = 36
"""How many instants are compared: one every 30 days, from a year ago on."""
_SHOWN: Final = 30
_LOCAL_TIMES: Final = """
SELECT known.name, array_agg(instant AT TIME ZONE known.name ORDER BY instant)
  FROM (SELECT DISTINCT zone.name FROM pg_catalog.pg_timezone_names AS zone WHERE zone.name = ANY($1)) AS known
  CROSS JOIN unnest($2::timestamptz[]) AS instant
 GROUP BY known.name
"""


async def check_zones(patient: Patient) -> Finding:
    """Compare the local times of every zone by the server with those by the packaged zone data."""
    first = datetime.now(UTC).replace(hour=12, minute=0, second=0, microsecond=0) - timedelta(days=365)
    instants = [first + timedelta(days=30) * n for n in range(_SAMPLES)]
    rows = await patient.connection.fetch(_LOCAL_TIMES, sorted(zone_names()), instants)
    return zones_finding(dict(rows), instants)


def zones_finding(by_server: Mapping[str, list[datetime]], instants: list[datetime]) -> Finding:
    """Judge the differences: an unknown zone is refused by the server, and one that differs affects callers' SQL alone.

    Args:
        by_server: The server's local times at these instants, by zone.
        instants: The instants.
    """
    differing = [
        name
        for name, local_times in by_server.items()
        if local_times != [local_time(instant, get_zone(name)) for instant in instants]
    ]
    told = (
        f"the server's zone data differs from tzdata {zone_data_version()} in {_listed(differing)}; local time is"
        " computed with tzdata, and AT TIME ZONE in SQL of your own reads these zones otherwise"
    )
    if unknown := zone_names() - by_server.keys():
        return warning(
            f"the server does not know {_listed(unknown)}, and refuses events there{f'; {told}' if differing else ''}",
            "update the server's zone data: a minor release of PostgreSQL, or the system's tzdata",
        )
    return ok(told if differing else f"the server's zone data agrees with tzdata {zone_data_version()}")


def _listed(names: Collection[str]) -> str:
    shown = ", ".join(sorted(names)[:_SHOWN])
    return f"{len(names)} zone{'' if len(names) == 1 else 's'}: {shown}{', ...' if len(names) > _SHOWN else ''}"
