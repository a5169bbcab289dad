"""The checks, one each: what they look at, and what makes it degraded or unhealthy."""

from __future__ import annotations

import asyncio
import time
from dataclasses import dataclass
from typing import Any, Final

import asyncpg

from src.config import Settings
from src.database.check_result import CheckResult, degraded, healthy, skipped, unhealthy
from src.database.drift import verify
from src.database.engine.capacity import KEPT_FREE
from src.database.engine.pool import SizedPool
from src.database.errors import ConnectionFailed
from src.database.health.failures import NO_CONNECTION_FREE, failed
from src.database.health.primary import NO_PRIMARY, Look, close, has_seen
from src.database.migrate import OTHER_DATABASE, Revision, revision_of
from src.database.session import engines_of_loop, open_connection
from src.database.store.store import POOL_NAME, get_store

__all__ = ["NO_PRIMARY", "check_connection", "check_drift", "check_pools", "check_replica", "check_revision"]

CATCH_UP_SECONDS: Final = 0.5
"""How long a replica has at most to get to where the primary was."""
POLL_SECONDS: Final = 0.02
# The time of the last commit that it replayed says nothing where the primary has been idle: only where it is behind.
_REPLAYED: Final = """
SELECT pg_is_in_recovery(), pg_last_wal_replay_lsn() >= $1::text::pg_lsn,
       extract(epoch FROM clock_timestamp() - pg_last_xact_replay_timestamp())::float8
"""


async def check_connection(looking: asyncio.Task[Look], settings: Settings) -> CheckResult:
    """Connect anew, as who finds the pool empty does."""
    await asyncio.wait([looking])
    try:
        look = looking.result()
    except ConnectionFailed as error:
        if error.sqlstate == NO_CONNECTION_FREE and any(pool.open for pool in _pools().values()):
            return failed(error, "degraded")
        raise
    if not look.takes_writes:
        return degraded(
            "the server takes no writes: a standby, or default_transaction_read_only is on",
            "name all hosts in DATABASE_URL, with target_session_attrs=read-write",
        )
    free, of = look.capacity.free, look.capacity.available
    if free < KEPT_FREE and not settings.DATABASE_PGBOUNCER:
        return degraded(
            f"the server has {free} of {of} connections free",
            "`thea-db activity` says who has them, `thea-db pool` how many there should be",
        )
    return healthy(f"a primary answers, and has {free} of {of} connections free")


async def check_revision(looking: asyncio.Task[Look]) -> CheckResult:
    """Compare the schema's revision with the newest of this release."""
    await asyncio.wait([looking])
    if not has_seen(looking):
        return skipped(NO_PRIMARY)
    look = looking.result()
    try:
        async with look.turn:
            revision = await revision_of(look.connection)
    except asyncpg.InsufficientPrivilegeError:
        return degraded("alembic_version may not be read", "as the owner: GRANT SELECT ON alembic_version TO the role")
    return _judge(revision)


def _judge(revision: Revision) -> CheckResult:
    if revision.is_foreign:
        return unhealthy(revision.foreign_origin(), OTHER_DATABASE)
    if revision.is_unstamped:
        return unhealthy("the tables are there, and no revision is recorded", "thea-db verify")
    if revision.database is None:
        return unhealthy("the database has no schema, or the role may not use it", "thea-db upgrade")
    if not revision.is_known:
        return degraded(
            f"{revision.database} is newer than this release's {revision.head}",
            "none while a newer release is rolled out; else install the release that has it",
        )
    if revision.database != revision.head:
        return unhealthy(f"{revision.database} is behind {revision.head}", "thea-db upgrade")
    return healthy(revision.database)


async def check_drift(looking: asyncio.Task[Look], settings: Settings) -> CheckResult:
    """Compare all of the schema with what the migrations build."""
    await asyncio.wait([looking])
    if not has_seen(looking):
        return skipped(NO_PRIMARY)
    report = await verify(settings)
    if report.is_sound:
        return healthy("no difference")
    found = f"{len(report.differences)} difference(s), {len(report.errors)} of which can make statements fail"
    remedy = "`thea-db verify` lists each difference with its remedy"
    return unhealthy(found, remedy) if report.errors else degraded(found, remedy)


async def check_replica(
    looking: asyncio.Task[Look], settings: Settings, *, max_lag_seconds: float, seconds: float
) -> CheckResult:
    """Look at the server that reads go to, and how far behind the primary it is, in this many seconds."""
    if settings.DATABASE_REPLICA_URL is None:
        return skipped("DATABASE_REPLICA_URL is not set: reads go to the primary")
    connection = await open_connection(reading=True)
    try:
        await asyncio.wait([looking], timeout=seconds / 2)
        written = looking.result().written if has_seen(looking) else None
        patience_seconds = min(CATCH_UP_SECONDS, seconds / 4)
        found = await _compare(connection, written, max_lag_seconds=max_lag_seconds, patience_seconds=patience_seconds)
    except BaseException:
        connection.terminate()
        raise
    await close(connection)
    return found


async def _compare(
    connection: asyncpg.Connection[Any], written: str | None, *, max_lag_seconds: float, patience_seconds: float
) -> CheckResult:
    """Give the replica a moment to get to where the primary was; what it has not by then, it lags behind."""
    began = time.monotonic()
    while True:
        is_standby, has_all, behind = await connection.fetchrow(_REPLAYED, written)
        waited = time.monotonic() - began
        if not is_standby:
            return degraded("the server for reading is no standby", "name one in DATABASE_REPLICA_URL, or unset it")
        if written is None:
            return skipped("a standby answers; how far behind it is cannot be told without the primary")
        if has_all:
            return healthy(f"it has what the primary had {waited * 1000:.0f} ms before")
        if waited >= patience_seconds:
            break
        await asyncio.sleep(POLL_SECONDS)
    if behind is not None and behind <= max_lag_seconds:
        return healthy(f"{behind:.1f} s behind")
    found = "it has replayed nothing since it started, and is behind" if behind is None else f"{behind:.0f} s behind"
    return degraded(found, "pg_stat_replication on the primary says where; a long query on the replica holds it up too")


async def check_pools() -> CheckResult:
    """Count what this process has in use: where a pool is full, callers wait."""
    pools = _pools()
    if not pools:
        return skipped("this process has no pool in use")
    found = ", ".join(f"{name} {pool.in_use} of {pool.most}" for name, pool in pools.items())
    if all(pool.in_use < pool.most for pool in pools.values()):
        return healthy(f"in use: {found}")
    return degraded(
        f"full: {found}",
        "end sessions sooner (none open while a model or another service is waited for), or raise DATABASE_POOL_SIZE;"
        " `thea-db pool` says how far",
    )


@dataclass(frozen=True, slots=True)
class _Pool:
    """How many connections are in use, are open, and can be."""

    in_use: int
    open: int
    most: int


def _pools() -> dict[str, _Pool]:
    """Return the pools of the running event loop by name; an engine that has none is left out."""
    pools = {}
    for name, engine in engines_of_loop().items():
        most = engine.limits.size + max(0, engine.limits.overflow)
        if name == POOL_NAME:
            stores = get_store().pool
            pools[name] = _Pool(stores.in_use, stores.size, most)
        elif isinstance(pool := engine.pool, SizedPool):
            pools[name] = _Pool(pool.checkedout(), pool.checkedin() + pool.checkedout(), most)
    return pools
