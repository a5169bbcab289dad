"""liveness and readiness: which checks there are, each within its limit, all at once, and one examination at a time."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable
from dataclasses import replace
from typing import Final
from weakref import WeakKeyDictionary

from src.config import Settings, get_logger, get_settings
from src.config.constants import APPLICATION_NAME
from src.config.environment import named_target
from src.database.check_result import CheckResult, CheckStatus, healthy, skipped
from src.database.errors import DatabaseError
from src.database.health import checks
from src.database.health.failures import failed, ours
from src.database.health.isolation import check_isolation
from src.database.health.primary import Look, has_seen, looking
from src.database.health.report import HealthReport

__all__ = ["liveness", "readiness"]

TIMEOUT_SECONDS: Final = 2.0
DRIFT_SECONDS: Final = 10.0
"""The least that the comparison of the whole schema has."""
MAX_REPLICA_LAG_SECONDS: Final = 10.0

_Asked = tuple[bool, bool, float, float]
_running: Final[WeakKeyDictionary[asyncio.AbstractEventLoop, dict[_Asked, asyncio.Task[HealthReport]]]] = (
    WeakKeyDictionary()
)
"""What is being examined: whoever asks meanwhile gets the same report, so that probes cannot use the server up."""


async def liveness() -> HealthReport:
    """Say that the process lives: its event loop answers. The database is not asked: no restart heals its loss.

    Where the event loop hangs there is no answer, which is one too: give the probe a time limit.
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
    return await asyncio.shield(examination)  # whoever is cancelled takes nobody else's report away


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
    async with looking(for_replica=settings.DATABASE_REPLICA_URL is not None, seconds=seconds) as look:
        replica = checks.check_replica(look, settings, max_lag_seconds=max_replica_lag_seconds, seconds=seconds)
        timed = {"connect": _timed("connect", checks.check_connection(look, settings), seconds)}
        if isolation:  # before the revision, which waits while a migration locks its table
            layers = check_isolation(look, settings)
            timed["isolation"] = _timed("isolation", layers, seconds, at_worst="degraded", waits_for=look)
        timed |= {
            "revision": _timed("revision", checks.check_revision(look), seconds, waits_for=look),
            "replica": _timed("replica", replica, seconds, at_worst="degraded"),
            "pool": _timed("pool", checks.check_pools(), seconds, at_worst="degraded"),
        }
        if drift:
            comparison = checks.check_drift(look, settings)
            timed["drift"] = _timed("drift", comparison, max(seconds, DRIFT_SECONDS), waits_for=look)
        return dict(zip(timed, await asyncio.gather(*timed.values()), strict=True))


async def _timed(
    name: str,
    check: Awaitable[CheckResult],
    seconds: float,
    *,
    at_worst: CheckStatus = "unhealthy",
    waits_for: asyncio.Task[Look] | None = None,
) -> CheckResult:
    """Have a check end in time, and one that fails itself cost its own line only."""
    began = time.monotonic()
    try:
        async with asyncio.timeout(seconds):
            found = await check
    except Exception as raised:  # noqa: BLE001 - a probe wants an answer, whatever happened
        if waits_for is None or has_seen(waits_for):
            found = _failed(name, ours(raised), at_worst)
        else:  # in vain: that is another check's to say
            found = skipped(checks.NO_PRIMARY)
    return replace(found, duration_ms=round((time.monotonic() - began) * 1000, 1))


def _failed(name: str, error: Exception, status: CheckStatus) -> CheckResult:
    """Tell the log all there is to tell, and the report what everybody may read."""
    reason = str(error.args[0]) if isinstance(error, DatabaseError) else None
    get_logger(__name__).warning("health_check_failed", check=name, error=type(error).__name__, reason=reason)
    return failed(error, status)


async def _turn() -> CheckResult:
    await asyncio.sleep(0)
    return healthy("the event loop answers")


def _service() -> str:
    """Return what the server knows the process by, as far as the settings can be read."""
    try:
        settings = get_settings()
        target = named_target(settings)
    except DatabaseError:
        return APPLICATION_NAME
    return (target and target.application_name) or settings.DATABASE_APPLICATION_NAME
