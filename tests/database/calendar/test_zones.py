"""Zones come from the packaged zone data, and not from the system or the server."""

from __future__ import annotations

import random
import re
import zoneinfo
from bisect import bisect_right
from datetime import UTC, datetime, timedelta
from importlib.resources import files
from pathlib import Path

import pytest

from src.database.calendar import get_zone, is_timezone, local_time, zone_data_version, zone_names, zone_offsets
from src.database.check_result import CheckResult
from src.database.doctor.zones import judge_zones

ROOT = Path(__file__).parents[3]
JULY = datetime(2027, 7, 1, 12, tzinfo=UTC)
# Summer time by a rule, negative in winter, by a list, given up, of half an hour; a day left out; no change at all.
ZONES = (
    "CET",
    "Europe/Dublin",
    "Africa/Casablanca",
    "America/Mexico_City",
    "Australia/Lord_Howe",
    "Pacific/Apia",
    "UTC",
    "Europe/Madrid",
)


def test_a_zone_comes_from_the_package_and_not_from_the_system(tmp_path: Path) -> None:
    system = zoneinfo.TZPATH
    (tmp_path / "Europe").mkdir()
    (tmp_path / "Europe" / "Madrid").write_bytes(files("tzdata").joinpath("zoneinfo", "UTC").read_bytes())
    zoneinfo.reset_tzpath(to=[str(tmp_path)])
    try:
        by_system = JULY.astimezone(zoneinfo.ZoneInfo.no_cache("Europe/Madrid"))
        ours = JULY.astimezone(get_zone.__wrapped__("Europe/Madrid"))
    finally:
        zoneinfo.reset_tzpath(to=system)

    assert by_system.hour == 12, "the system's zone is forged"
    assert ours.hour == 14
    assert system == zoneinfo.TZPATH, "the process's path is as it was"


def test_no_other_module_loads_a_zone_or_has_the_server_compute_local_time() -> None:
    loads = re.compile(r"\bZoneInfo\(|available_timezones|AT TIME ZONE(?!\")|func\.timezone\((?!\"UTC\")")
    sources = [path for path in (ROOT / "src").rglob("*.py") if loads.search(path.read_text())]

    # The generated column of the release before this one, which no code reads, and the doctor's comparison.
    assert {path.name for path in sources} == {"event.py", "zones.py"}
    assert "start_local_by_server" not in "".join(
        path.read_text() for path in (ROOT / "src").rglob("*.py") if path.name != "event.py"
    )


@pytest.mark.parametrize("name", ZONES)
def test_the_offsets_of_a_zone_are_those_that_it_has_at_each_instant(name: str) -> None:
    dice = random.Random(name)  # noqa: S311 - instants that repeat
    starts, offsets = zone_offsets(name)
    zone = get_zone(name)
    instants = [datetime(1850, 1, 1, tzinfo=UTC) + timedelta(minutes=dice.randrange(131_000_000)) for _ in range(500)]
    instants += [start + timedelta(seconds=by) for start in starts for by in (-1, 0)]

    for instant in instants:
        assert offsets[bisect_right(starts, instant)] == instant.astimezone(zone).utcoffset(), instant


def test_the_offsets_of_an_interval_are_those_within_it() -> None:
    every, narrow = zone_offsets("CET"), zone_offsets("CET", JULY - timedelta(days=365), JULY)

    assert [start.date().isoformat() for start in narrow.starts] == ["2026-10-25", "2027-03-28"]
    assert [offset.total_seconds() / 3600 for offset in narrow.offsets] == [2, 1, 2]
    assert zone_offsets("CET", JULY, JULY).offsets == [timedelta(hours=2)]
    assert len(every.offsets) == len(every.starts) + 1


def test_a_name_that_the_package_does_not_have_is_no_zone() -> None:
    for name in ("Europe/Nowhere", "../tzdata/zones", "posix/UTC", "localtime", "", "europe/madrid"):
        assert not is_timezone(name)
        with pytest.raises(zoneinfo.ZoneInfoNotFoundError):
            get_zone(name)
    assert all(map(is_timezone, ("CET", "Europe/Madrid", "America/Argentina/Buenos_Aires")))


def test_the_doctor_names_the_zones_that_differ_and_those_that_the_server_does_not_know() -> None:
    instants = [JULY, JULY + timedelta(days=180)]
    agreeing = {name: [local_time(instant, get_zone(name)) for instant in instants] for name in zone_names()}
    differing = agreeing | {"CET": [instant.replace(tzinfo=None) + timedelta(hours=1) for instant in instants]}
    unknown = {name: local for name, local in differing.items() if name != "America/Coyhaique"}

    agreed = judge_zones(agreeing, instants)
    differed = judge_zones(differing, instants)
    missed = judge_zones(unknown, instants)

    assert agreed == CheckResult("ok", f"the server's zone data agrees with tzdata {zone_data_version()}")
    assert (differed.status, "in 1 zone: CET;" in differed.found) == ("ok", True)
    assert missed.status == "warning"
    assert missed.found.startswith("the server does not know 1 zone: America/Coyhaique, and rejects events in these")
