"""PostgreSQL's releases: known vulnerabilities by release, and the end of support of each major version.

Source of the end of support: https://www.postgresql.org/support/versioning/
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import date
from typing import Final

from src.database.check_result import CheckResult, failed, ok, warning
from src.database.engine import OLDEST_SERVER


@dataclass(frozen=True, slots=True)
class Release:
    """A vulnerability, and the releases that fix it.

    Args:
        minors: By major version, the first minor release with the fix.
        fixes: What an attacker can do without the fix, and the CVE number.
    """

    minors: Mapping[int, int]
    fixes: str


# The newest first, up to November 2026: those that break row-level security, which isolates the tenants, or that let
# SQL execute code on the server.
RELEASES: Final = (
    # https://www.postgresql.org/support/security/CVE-2026-14666/
    Release(
        {18: 6, 17: 11, 16: 15, 15: 19},
        "a cached query plan can apply the row-level security of another role (CVE-2026-14666)",
    ),
    # https://www.postgresql.org/support/security/CVE-2026-6473/
    Release({18: 4, 17: 10, 16: 14, 15: 18}, "crafted input can overwrite the server's memory (CVE-2026-6473)"),
    # https://www.postgresql.org/support/security/CVE-2026-2006/
    Release({18: 2, 17: 8, 16: 12, 15: 16}, "crafted text can run code in the server (CVE-2026-2006)"),
    # https://www.postgresql.org/support/security/CVE-2025-8713/
    Release({17: 6, 16: 10, 15: 14}, "statistics can show rows that row-level security hides (CVE-2025-8713)"),
    # https://www.postgresql.org/support/security/CVE-2024-10976/
    Release({17: 1, 16: 5, 15: 9}, "a subquery can apply the row-level security of another role (CVE-2024-10976)"),
    # https://www.postgresql.org/support/security/CVE-2023-39418/
    Release({15: 4}, "MERGE does not check row-level security for the rows that it writes (CVE-2023-39418)"),
)
LAST_YEARS: Final = {15: 2027, 16: 2028, 17: 2029, 18: 2030}
"""The last year of each major version: its last release appears in November."""


def judge_version(version: int, *, today: date) -> CheckResult:
    """Return the result for a server's release.

    Args:
        version: The server's `server_version_num`: 180006 is 18.6.
        today: The date by which support is judged.
    """
    major, minor = divmod(version, 10_000)
    name = f"PostgreSQL {major}.{minor}"
    if major < OLDEST_SERVER:
        return failed(
            f"{name} is not supported: {OLDEST_SERVER} is the oldest supported version",
            "move the database to a newer major",
        )
    last_year = LAST_YEARS.get(major, today.year)
    if today >= date(last_year, 12, 1):
        return warning(
            f"{name} is not supported since November {last_year}: it gets no security fixes",
            "move the database to a newer major",
        )
    lacking = [release for release in RELEASES if minor < release.minors.get(major, 0)]
    if not lacking:
        return ok(name)
    newest = lacking[0].minors[major]
    vulnerabilities = "; ".join(release.fixes for release in lacking)
    return warning(
        f"{name} has known vulnerabilities that {major}.{newest} fixes: {vulnerabilities}",
        f"update to the newest {major}.x, at least {major}.{newest}: a minor update needs no dump of the data",
    )
