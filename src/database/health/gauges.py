"""Gauges that need a query: how far the replica and the schema are behind. A task of the service measures them."""

from __future__ import annotations

import asyncio
from typing import Final

from sqlalchemy import text

from src.config import get_logger
from src.database.errors import DatabaseError, SchemaDriftError
from src.database.migrate import ORIGIN, Origin, compare_revisions
from src.database.observability import report_replica, report_revision
from src.database.session import get_db, get_read_db, has_replica

EVERY_SECONDS: Final = 15.0
LOOK_SECONDS: Final = 5.0
"""The time limit of one measurement."""

# A replica that has replayed all that it received is not behind, as long as it is receiving.
_LAG: Final = text("""
SELECT CASE
    WHEN NOT pg_is_in_recovery() THEN 0
    WHEN pg_last_wal_receive_lsn() = pg_last_wal_replay_lsn() AND EXISTS (SELECT FROM pg_stat_wal_receiver) THEN 0
    ELSE coalesce(extract(epoch FROM clock_timestamp() - pg_last_xact_replay_timestamp()), 0)
END::float8
""")
_ORIGIN: Final = text(ORIGIN)
_REVISIONS: Final = text("SELECT version_num FROM alembic_version")


async def keep_looking(*, every: float = EVERY_SECONDS) -> None:
    """Measure periodically until the task is cancelled; a measurement that fails is logged.

    Args:
        every: Seconds between two measurements.
    """
    while True:
        await look()
        await asyncio.sleep(every)


async def look() -> None:
    """Measure once how far the replica is behind, if there is one, and whether the schema is."""
    await asyncio.gather(_measure_replica(), _measure_revision())


async def _measure_replica() -> None:
    if not has_replica():
        return
    lag = None
    try:
        async with asyncio.timeout(LOOK_SECONDS), get_read_db() as session:
            lag = await session.scalar(_LAG)
    except (DatabaseError, TimeoutError) as error:
        get_logger(__name__).warning("replica_not_seen", error=type(error).__name__)
    report_replica(lag)


async def _measure_revision() -> None:
    try:
        async with asyncio.timeout(LOOK_SECONDS), get_db() as session:
            origin = Origin.of((await session.execute(_ORIGIN)).one())
            applied = set(await session.scalars(_REVISIONS))
    except SchemaDriftError:  # there is no alembic_version
        report_revision(is_behind=True)
        return
    except (DatabaseError, TimeoutError) as error:
        get_logger(__name__).warning("revision_not_seen", error=type(error).__name__)
        return
    revision = compare_revisions(applied, origin)
    is_behind = revision.is_known and revision.database != revision.head  # not where it is newer
    report_revision(is_behind=is_behind or revision.is_foreign)
