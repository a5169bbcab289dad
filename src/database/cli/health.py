"""thea-db health: the report that a probe gets, and its exit code."""

from __future__ import annotations

import asyncio
from typing import Final

from src.database.check_result import CheckResult
from src.database.cli.output import print_checks, print_json
from src.database.cli.wait import AbandonedThreads
from src.database.health import HealthReport, liveness, readiness

EXIT_UNHEALTHY: Final = 1


def run_health(*, live: bool, drift: bool, timeout_seconds: float, as_json: bool) -> int:
    """Print a health report; return the exit code: 0 healthy or degraded, 1 unhealthy.

    Args:
        live: Check only that a process can start with these settings; the database is not queried.
        drift: Compare the whole schema too.
        timeout_seconds: The limit for each check.
        as_json: Print one JSON document.
    """
    report = asyncio.run(_examine(live=live, drift=drift, timeout_seconds=timeout_seconds))
    if as_json:
        print_json(report.as_json())
    else:
        print_checks({report.service: CheckResult(report.status, report.status), **report.checks})
    return 0 if report.can_serve else EXIT_UNHEALTHY


async def _examine(*, live: bool, drift: bool, timeout_seconds: float) -> HealthReport:
    asyncio.get_running_loop().set_default_executor(AbandonedThreads())
    return await (liveness() if live else readiness(drift=drift, timeout_seconds=timeout_seconds))
