"""Gauges that need a query: the lag of the replica, and of the schema. A task of the service measures them."""

from __future__ import annotations

import asyncio
from typing import Final

from sqlalchemy import text

from src.config import get_logger, get_settings
from src.database.errors import DatabaseError
from src.database.migrate import (
    compare_revisions,
    compare_service_revisions,
    read_revisions,
    read_service_revisions,
    service_history,
)
from src.database.observability import report_replica, report_revision
from src.database.session import get_db, get_read_db, has_replica

INTERVAL_SECONDS: Final = 15.0
TIMEOUT_SECONDS: Final = 5.0
"""The time limit of one measurement."""

# A replica that has replayed all that it received has no lag, as long as its WAL receiver runs. The time of the last
# replayed transaction alone would grow while the primary is idle.
_LAG: Final = text("""
SELECT CASE
    WHEN NOT pg_is_in_recovery() THEN 0
    WHEN pg_last_wal_receive_lsn() = pg_last_wal_replay_lsn() AND EXISTS (SELECT FROM pg_stat_wal_receiver) THEN 0
    ELSE coalesce(extract(epoch FROM clock_timestamp() - pg_last_xact_replay_timestamp()), 0)
END::float8
""")


async def keep_looking(*, every: float = INTERVAL_SECONDS) -> None:
    """Measure periodically until the task is cancelled. A measurement that fails is logged.

    Args:
        every: The seconds between two measurements.
    """
    while True:
        await measure()
        await asyncio.sleep(every)


async def measure() -> None:
    """Measure once the lag of the replica, if there is one, and whether the schema is behind."""
    await asyncio.gather(_measure_replica(), _measure_revision())


async def _measure_replica() -> None:
    if not has_replica():
        return
    lag = None
    try:
        async with asyncio.timeout(TIMEOUT_SECONDS), get_read_db() as session:
            lag = await session.scalar(_LAG)
    except (DatabaseError, TimeoutError) as error:
        get_logger(__name__).warning("replica_not_seen", error=type(error).__name__)
    report_replica(lag)


async def _measure_revision() -> None:
    try:
        async with asyncio.timeout(TIMEOUT_SECONDS), get_db() as session:
            connection, service = await session.connection(), service_history(get_settings())
            origin, recorded = await connection.run_sync(read_revisions)
            of_service = await connection.run_sync(read_service_revisions, service) if service else None
    except (DatabaseError, TimeoutError) as error:
        get_logger(__name__).warning("revision_not_seen", error=type(error).__name__)
        return
    package = compare_revisions(recorded, origin, of_service=service.installed()[1] if service else ())
    states = [package.state]
    if service is not None and of_service is not None:
        states.append(compare_service_revisions(of_service, service).state)
    report_revision(is_behind=not set(states) <= {"newest", "newer"})
