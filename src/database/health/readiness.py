"""liveness and readiness: the checks run at the same time, each within its time limit, for one report at a time."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable
from dataclasses import replace
from typing import Final
from weakref import WeakKeyDictionary

from src.config import Settings, get_logger, get_settings
from src.config.constants import APPLICATION_NAME
from src.config.profiles import named_target
from src.database.check_result import CheckResult, CheckStatus, healthy, skipped
from src.database.errors import DatabaseError
from src.database.health import checks
from src.database.health.checks import Primary, examine_primary, has_answered
from src.database.health.report import HealthReport, failed, translated

TIMEOUT_SECONDS: Final = 2.0
DRIFT_SECONDS: Final = 10.0
"""The least time for the comparison of the whole schema."""
MAX_REPLICA_LAG_SECONDS: Final = 10.0
_NO_PRIMARY: Final = "see connect"

_Asked = tuple[bool, bool, float, float]
_running: Final[WeakKeyDictionary[asyncio.AbstractEventLoop, dict[_Asked, asyncio.Task[HealthReport]]]] = (
    WeakKeyDictionary()
)
"""The reports that are being made: a concurrent caller gets the same one, so that probes cannot overload the server."""


async def liveness() -> HealthReport:
    """Check that the process is live: its event loop answers. No check of the database: a restart does not repair it.

    If the event loop hangs there is no answer: set a time limit for the probe.
    """
    return HealthReport(service=_service(), checks={"event_loop": await _timed("event_loop", _turn(), TIMEOUT_SECONDS)})


async def readiness(
    *,
    drift: bool = False,
    isolation: bool = True,
    timeout_seconds: float = TIMEOUT_SECONDS,
    max_replica_lag_seconds: float = MAX_REPLICA_LAG_SECONDS,
) -> HealthReport:
    """Check whether this process can serve: connecting, revision, isolation, replica, pools. No tenant's row is read.

    Whatever is wrong with the settings, the network, the server or the schema is in the report. Connections of its own
    are opened and closed again: a full pool says nothing of the server.

    Args:
        drift: Compare all of the schema too, which takes some 100 ms of work and at most 10 s, or `timeout_seconds`.
        isolation: Check that row-level security guards every table and binds the role; a healthy answer is kept for
            30 s.
        timeout_seconds: For each check; they are done at the same time. Give a probe a second more.
        max_replica_lag_seconds: How far behind a replica may be.

    Raises:
        ValueError: A limit is not above 0.
    """
    for name, seconds in (("timeout_seconds", timeout_seconds), ("max_replica_lag_seconds", max_replica_lag_seconds)):
        if not seconds > 0:
            raise ValueError(f"{name} must be above 0 seconds, got {seconds}")
    asked = drift, isolation, timeout_seconds, max_replica_lag_seconds
    running = _running.setdefault(asyncio.get_running_loop(), {})
    if (examination := running.get(asked)) is None:
        examination = running[asked] = asyncio.create_task(_examine(*asked))
        examination.add_done_callback(lambda _: running.pop(asked, None))
    return await asyncio.shield(examination)  # a cancelled caller does not cancel the report of others


async def _examine(
    drift: bool, isolation: bool, timeout_seconds: float, max_replica_lag_seconds: float
) -> HealthReport:
    try:
        settings = get_settings()
    except DatabaseError as error:
        return HealthReport(service=_service(), checks={"settings": failed(error, "unhealthy")})
    return HealthReport(
        service=_service(),
        checks=await _check_all(
            settings,
            drift=drift,
            isolation=isolation,
            seconds=timeout_seconds,
            max_replica_lag_seconds=max_replica_lag_seconds,
        ),
    )


async def _check_all(
    settings: Settings, *, drift: bool, isolation: bool, seconds: float, max_replica_lag_seconds: float
) -> dict[str, CheckResult]:
    async with examine_primary(for_replica=settings.DATABASE_REPLICA_URL is not None, seconds=seconds) as primary:
        replica = checks.check_replica(primary, settings, max_lag_seconds=max_replica_lag_seconds, seconds=seconds)
        timed = {"connect": _timed("connect", checks.check_connection(primary, settings), seconds)}
        if isolation:  # before the revision, which waits while a migration locks its table
            layers = checks.check_isolation(primary, settings)
            timed["isolation"] = _timed("isolation", layers, seconds, at_worst="degraded", waits_for=primary)
        timed |= {
            "revision": _timed("revision", checks.check_revision(primary), seconds, waits_for=primary),
            "replica": _timed("replica", replica, seconds, at_worst="degraded"),
            "pool": _timed("pool", checks.check_pools(), seconds, at_worst="degraded"),
        }
        if drift:
            comparison = checks.check_drift(primary, settings)
            timed["drift"] = _timed("drift", comparison, max(seconds, DRIFT_SECONDS), waits_for=primary)
        return dict(zip(timed, await asyncio.gather(*timed.values()), strict=True))


async def _timed(
    name: str,
    check: Awaitable[CheckResult],
    seconds: float,
    *,
    at_worst: CheckStatus = "unhealthy",
    waits_for: asyncio.Task[Primary] | None = None,
) -> CheckResult:
    """Run a check within its time limit; return a result also if the check raises."""
    began = time.monotonic()
    try:
        async with asyncio.timeout(seconds):
            found = await check
    except Exception as raised:  # noqa: BLE001 - a probe wants an answer, whatever happened
        if waits_for is None or has_answered(waits_for):
            found = _failed(name, translated(raised), at_worst)
        else:  # the check `connect` reports that
            found = skipped(_NO_PRIMARY)
    return replace(found, duration_ms=round((time.monotonic() - began) * 1000, 1))


def _failed(name: str, error: Exception, status: CheckStatus) -> CheckResult:
    """Log the error, and return the result that every reader of the report may see."""
    reason = str(error.args[0]) if isinstance(error, DatabaseError) else None
    get_logger(__name__).warning("health_check_failed", check=name, error=type(error).__name__, reason=reason)
    return failed(error, status)


async def _turn() -> CheckResult:
    await asyncio.sleep(0)
    return healthy("the event loop answers")


def _service() -> str:
    """Return the application name, or the default one if the settings cannot be read."""
    try:
        settings = get_settings()
        target = named_target(settings)
    except DatabaseError:
        return APPLICATION_NAME
    return (target and target.application_name) or settings.DATABASE_APPLICATION_NAME
