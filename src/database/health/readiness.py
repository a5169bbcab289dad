"""liveness and readiness: run the checks at the same time, each within its time limit, for one report at a time."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, replace
from typing import Final
from weakref import WeakKeyDictionary

from src.config import get_logger, get_settings
from src.config.constants import APPLICATION_NAME
from src.config.profiles import named_target
from src.database.check_result import CheckResult, CheckStatus, skipped
from src.database.errors import DatabaseError
from src.database.health import checks
from src.database.health.checks import HealthContext, examine_primary, has_answered
from src.database.health.report import HealthReport, result_of_error, translated

TIMEOUT_SECONDS: Final = 2.0
DRIFT_SECONDS: Final = 10.0
"""The shortest time limit of the comparison of the whole schema."""
MAX_REPLICA_LAG_SECONDS: Final = 10.0
_PROBE_STATUSES: Final[Mapping[CheckStatus, CheckStatus]] = {
    "ok": "healthy",
    "warning": "degraded",
    "failed": "unhealthy",
}
"""The words that probes know for the statuses of a check."""


@dataclass(frozen=True, slots=True, kw_only=True)
class _Options:
    """The arguments of `readiness`."""

    drift: bool
    isolation: bool
    timeout_seconds: float
    max_replica_lag_seconds: float


@dataclass(frozen=True, slots=True, kw_only=True)
class _Check:
    """A health check.

    Args:
        run: Returns the result; an error that it raises becomes a result.
        at_worst: The status of that result.
        needs_primary: True to skip the check if the primary is not reached: the check `connect` reports the reason.
        seconds: The time limit.
    """

    run: Callable[[HealthContext], Awaitable[CheckResult]]
    at_worst: CheckStatus = "failed"
    needs_primary: bool = False
    seconds: float


_running: Final[WeakKeyDictionary[asyncio.AbstractEventLoop, dict[_Options, asyncio.Task[HealthReport]]]] = (
    WeakKeyDictionary()
)
"""The reports in progress. A concurrent caller receives the same report, so that probes cannot overload the server."""


async def liveness() -> HealthReport:
    """Check that the event loop of this process runs. The database is not checked: a restart does not repair it.

    A hanging event loop gives no answer at all: the probe needs a time limit.
    """
    began = time.monotonic()
    await asyncio.sleep(0)
    result = CheckResult("healthy", "the event loop answers", duration_ms=_milliseconds_since(began))
    return HealthReport(service=_service(), checks={"event_loop": result})


async def readiness(
    *,
    drift: bool = False,
    isolation: bool = True,
    timeout_seconds: float = TIMEOUT_SECONDS,
    max_replica_lag_seconds: float = MAX_REPLICA_LAG_SECONDS,
) -> HealthReport:
    """Check whether this process can serve: connection, revision, isolation, replica, pools. No tenant's row is read.

    Faults of the settings, the network, the server and the schema are in the report. The checks open connections
    outside of the pools, and close them: a full pool says nothing about the server.

    Args:
        drift: Compare the whole schema too, which takes about 100 ms of CPU time, and has a time limit of 10 s or
            `timeout_seconds`, whichever is longer.
        isolation: Check that row-level security protects each table that the snapshots protect, and applies to the
            role. A healthy result is reused for 30 s.
        timeout_seconds: The time limit of each check; the checks run at the same time. The probe needs a longer limit,
            by 1 s.
        max_replica_lag_seconds: The largest lag of a healthy replica.

    Raises:
        ValueError: A limit is not above 0.

    Example:
        ::

            report = await readiness()
            response.status_code = 200 if report.can_serve else 503
    """
    for name, seconds in (("timeout_seconds", timeout_seconds), ("max_replica_lag_seconds", max_replica_lag_seconds)):
        if not seconds > 0:
            raise ValueError(f"{name} must be above 0 seconds, got {seconds}")
    options = _Options(
        drift=drift,
        isolation=isolation,
        timeout_seconds=timeout_seconds,
        max_replica_lag_seconds=max_replica_lag_seconds,
    )
    running = _running.setdefault(asyncio.get_running_loop(), {})
    if (examination := running.get(options)) is None:
        examination = running[options] = asyncio.create_task(_examine(options))
        examination.add_done_callback(lambda _: running.pop(options, None))
    return await asyncio.shield(examination)  # a cancelled caller does not cancel the report of the others


async def _examine(options: _Options) -> HealthReport:
    try:
        settings = get_settings()
    except DatabaseError as error:
        return HealthReport(service=_service(), checks={"settings": result_of_error(error, "unhealthy")})
    has_replica = settings.DATABASE_REPLICA_URL is not None
    async with examine_primary(for_replica=has_replica, seconds=options.timeout_seconds) as primary:
        context = HealthContext(
            settings=settings,
            primary=primary,
            timeout_seconds=options.timeout_seconds,
            max_replica_lag_seconds=options.max_replica_lag_seconds,
        )
        selected = _select(options, has_service=settings.DATABASE_SERVICE_MIGRATIONS is not None)
        results = await asyncio.gather(*(_run(name, check, context) for name, check in selected.items()))
    return HealthReport(service=_service(), checks=dict(zip(selected, results, strict=True)))


def _select(options: _Options, *, has_service: bool) -> dict[str, _Check]:
    """Return the checks of a report, in the order in which they use the connection to the primary."""
    seconds = options.timeout_seconds
    selected = {
        "connect": _Check(run=checks.check_connection, seconds=seconds),
        # Before the revision: a migration locks the version table, and the query of the revision waits for it.
        "isolation": _Check(run=checks.check_isolation, at_worst="warning", needs_primary=True, seconds=seconds),
        "revision": _Check(run=checks.check_revision, needs_primary=True, seconds=seconds),
        "service revision": _Check(run=checks.check_service_revision, needs_primary=True, seconds=seconds),
        "replica": _Check(run=checks.check_replica, at_worst="warning", seconds=seconds),
        "pool": _Check(run=checks.check_pools, at_worst="warning", seconds=seconds),
        "drift": _Check(run=checks.check_drift, needs_primary=True, seconds=max(seconds, DRIFT_SECONDS)),
    }
    if not has_service:
        del selected["service revision"]
    if not options.isolation:
        del selected["isolation"]
    if not options.drift:
        del selected["drift"]
    return selected


async def _run(name: str, check: _Check, context: HealthContext) -> CheckResult:
    """Run a check within its time limit; return a result even if the check raises."""
    began = time.monotonic()
    try:
        async with asyncio.timeout(check.seconds):
            result = await check.run(context)
    except Exception as raised:  # noqa: BLE001 - a probe needs an answer, whatever happened
        if check.needs_primary and not has_answered(context.primary):
            result = skipped("see the check `connect`")
        else:
            error = translated(raised)
            reason = str(error.args[0]) if isinstance(error, DatabaseError) else None
            get_logger(__name__).warning("health_check_failed", check=name, error=type(error).__name__, reason=reason)
            result = result_of_error(error, check.at_worst)
    status = _PROBE_STATUSES.get(result.status, result.status)
    return replace(result, status=status, duration_ms=_milliseconds_since(began))


def _milliseconds_since(began: float) -> float:
    return round((time.monotonic() - began) * 1000, 1)


def _service() -> str:
    """Return the application name, or the default name if the settings cannot be read."""
    try:
        settings = get_settings()
        target = named_target(settings)
    except DatabaseError:
        return APPLICATION_NAME
    return (target and target.application_name) or settings.DATABASE_APPLICATION_NAME
