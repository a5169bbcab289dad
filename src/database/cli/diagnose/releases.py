"""PostgreSQL's releases: which ones have holes that a later one closes, and until when a major is supported.

Sources: https://www.postgresql.org/support/versioning/ and https://www.postgresql.org/support/security/.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import date
from typing import Final

from src.database.cli.diagnose.finding import Finding, failed, ok, warning
from src.database.engine import OLDEST_SERVER

__all__ = ["version_finding"]


@dataclass(frozen=True, slots=True)
class Release:
    """A release that closed holes: the minor of each major, and what the older ones are open to."""

    minors: Mapping[int, int]
    closes: str


# The newest first, to November 2026. Those that touch row-level security, which the tenants' wall is, say so.
RELEASES: Final = (
    Release(
        {18: 6, 17: 11, 16: 15, 15: 19},
        "row-level security of a role that has changed, cached (CVE-2026-14666), and other holes",
    ),
    Release({18: 4, 17: 10, 16: 14, 15: 18}, "memory overwritten through crafted input (CVE-2026-6473)"),
    Release({18: 2, 17: 8, 16: 12, 15: 16}, "code run through crafted text (CVE-2026-2006)"),
    Release({17: 6, 16: 10, 15: 14}, "rows that row-level security hides, seen in statistics (CVE-2025-8713)"),
    Release({17: 1, 16: 5, 15: 9}, "another role's row-level security below a subquery (CVE-2024-10976)"),
    Release({15: 4}, "MERGE past row-level security (CVE-2023-39418)"),
)
LAST_YEARS: Final = {15: 2027, 16: 2028, 17: 2029, 18: 2030}
"""A major's last release comes in November of this year."""


def version_finding(version: int, *, today: date) -> Finding:
    """Judge a server by its ``server_version_num``: 180006 is 18.6."""
    major, minor = divmod(version, 10_000)
    name = f"PostgreSQL {major}.{minor}"
    if major < OLDEST_SERVER:
        return failed(f"{name}: {OLDEST_SERVER} is the oldest that is served", "move the database to a newer major")
    last_year = LAST_YEARS.get(major, today.year)
    if today >= date(last_year, 12, 1):
        return warning(
            f"{name}: no fixes since November {last_year}, not even of security holes",
            "move the database to a newer major",
        )
    open_to = [release for release in RELEASES if minor < release.minors.get(major, 0)]
    if not open_to:
        return ok(name)
    newest = open_to[0].minors[major]
    holes = "; ".join(release.closes for release in open_to)
    return warning(
        f"{name} is behind {major}.{newest}, which closes: {holes}",
        f"take the newest {major}.x, at least {major}.{newest}: only the server's programs change",
    )
