"""thea-db health: what a probe would be told, by the exit code too."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from typing import Final

from src.database.cli.diagnose.abandoned import AbandonedThreads
from src.database.cli.diagnose.finding import Finding, Status
from src.database.cli.diagnose.output import print_findings, print_json
from src.database.health import HealthReport, liveness, readiness
from src.database.health.report import CheckStatus

__all__ = ["EXIT_UNHEALTHY", "run_health"]

EXIT_SERVES: Final = 0
EXIT_UNHEALTHY: Final = 1

_STATUS: Final[Mapping[CheckStatus, Status]] = {
    "healthy": "ok",
    "degraded": "warning",
    "unhealthy": "failed",
    "skipped": "skipped",
}


def run_health(*, live: bool, drift: bool, timeout_seconds: float, as_json: bool) -> int:
    """Examine, print, and return the exit code: 0 healthy or degraded, 1 unhealthy.

    Args:
        live: Only whether a process can start with these settings; the database is not asked.
        drift: Compare all of the schema too.
        timeout_seconds: For each check.
        as_json: Print one JSON document.
    """
    report = asyncio.run(_examine(live=live, drift=drift, timeout_seconds=timeout_seconds))
    if as_json:
        print_json(report.as_json())
    else:
        findings = {name: Finding(_STATUS[one.status], one.found, one.remedy) for name, one in report.checks.items()}
        print_findings({report.service: Finding(_STATUS[report.status], report.status), **findings})
    return EXIT_SERVES if report.can_serve else EXIT_UNHEALTHY


async def _examine(*, live: bool, drift: bool, timeout_seconds: float) -> HealthReport:
    asyncio.get_running_loop().set_default_executor(AbandonedThreads())
    return await (liveness() if live else readiness(drift=drift, timeout_seconds=timeout_seconds))
