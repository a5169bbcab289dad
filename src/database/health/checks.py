"""The health checks: each returns whether the process is healthy, degraded or unhealthy in one respect."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from typing import Any, Final

import asyncpg

from src.config import Settings
from src.database.check_result import CheckResult, degraded, healthy, skipped, unhealthy
from src.database.connect import DRIVER_ERRORS
from src.database.drift import Isolation, read_isolation, verify
from src.database.engine.capacity import KEPT_FREE, Capacity, capacity_of
from src.database.engine.pool import SizedPool
from src.database.errors import ConnectionFailed
from src.database.health.report import NO_CONNECTION_FREE, failed
from src.database.migrate import OTHER_DATABASE, Revision, revision_of
from src.database.session import WRITTEN, engines_of_loop, open_connection
from src.database.store.store import POOL_NAME, get_store

CLOSE_SECONDS: Final = 0.5
CATCH_UP_SECONDS: Final = 0.5
"""How long a replica may take to replay what the primary had written."""
POLL_SECONDS: Final = 0.02
KEPT_SECONDS: Final = 30.0
"""How long a healthy result of the isolation check is used again; other results are checked each time."""

_PRIMARY_STATE: Final = "SELECT pg_is_in_recovery(), current_setting('transaction_read_only')::bool"
# The time of the last replayed commit means nothing if the primary has been idle: only if the replica is behind.
_REPLAYED: Final = """
SELECT pg_is_in_recovery(), pg_last_wal_replay_lsn() >= $1::text::pg_lsn,
       extract(epoch FROM clock_timestamp() - pg_last_xact_replay_timestamp())::float8
"""
_BOUND: Final = healthy("row-level security is forced on every table and binds the role")
_VERIFY: Final = "`thea-db verify` names each difference and the statements that repair it"
_ROLE: Final = "connect as a role with NOSUPERUSER NOBYPASSRLS that owns no table: `thea-db bootstrap` creates one"
_SEE_REVISION: Final = "see revision"

_ISOLATED_UNTIL: Final = "isolated_until"
"""The key of a time in what is attached to the engine, in seconds of the monotonic clock: no check before it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Primary:
    """The primary as the checks found it, with a connection to it.

    Args:
        connection: Used by the other checks; closed when all of them are done.
        takes_writes: The server is a primary, and lets this role write.
        capacity: How many connections the server has.
        written: The WAL position that the server has written, if a replica is compared with it.
        turn: Held by the check that uses the connection, which takes one statement at a time.
    """

    connection: asyncpg.Connection[Any]
    takes_writes: bool
    capacity: Capacity
    written: str | None
    turn: asyncio.Lock = field(default_factory=asyncio.Lock)


@asynccontextmanager
async def examine_primary(*, for_replica: bool, seconds: float) -> AsyncIterator[asyncio.Task[Primary]]:
    """Run a task that connects to the primary; the checks wait for its result, each within its own time limit.

    The connection is outside of the pools: a full pool says nothing of the server, and a check takes no pooled
    connection from a caller.
    """
    task = asyncio.create_task(_examine_in_time(for_replica=for_replica, seconds=seconds))
    try:
        yield task
    finally:
        task.cancel()
        await asyncio.wait([task])
        if has_answered(task):
            await close(task.result().connection)


def has_answered(primary: asyncio.Task[Primary]) -> bool:
    """Return True if the primary has been examined."""
    return primary.done() and not primary.cancelled() and primary.exception() is None


async def _examine_in_time(*, for_replica: bool, seconds: float) -> Primary:
    async with asyncio.timeout(seconds):  # a check may have longer
        return await _examine(for_replica=for_replica)


async def _examine(*, for_replica: bool) -> Primary:
    connection = await open_connection()
    try:
        in_recovery, is_read_only = await connection.fetchrow(_PRIMARY_STATE)
        capacity = await capacity_of(connection)
        written = await connection.fetchval(WRITTEN.text) if for_replica and not in_recovery else None
    except BaseException:
        connection.terminate()
        raise
    return Primary(
        connection=connection, takes_writes=not (in_recovery or is_read_only), capacity=capacity, written=written
    )


async def close(connection: asyncpg.Connection[Any]) -> None:
    """Close a connection within the time limit, whatever the server does."""
    with suppress(*DRIVER_ERRORS):
        await connection.close(timeout=CLOSE_SECONDS)


async def check_connection(examination: asyncio.Task[Primary], settings: Settings) -> CheckResult:
    """Check that a new connection reaches a primary that has connections free."""
    try:
        primary = await asyncio.shield(examination)
    except ConnectionFailed as error:
        if error.sqlstate == NO_CONNECTION_FREE and any(pool.open for pool in _pools().values()):
            return failed(error, "degraded")
        raise
    if not primary.takes_writes:
        return degraded(
            "the server takes no writes: a standby, or default_transaction_read_only is on",
            "a standby: name all hosts in DATABASE_URL, with target_session_attrs=read-write; otherwise"
            " `thea-db doctor` shows what sets the default, and how to reset it",
        )
    free, of = primary.capacity.free, primary.capacity.available
    if free < KEPT_FREE and not settings.DATABASE_PGBOUNCER:
        return degraded(
            f"the server has {free} of {of} connections free",
            "`thea-db activity` says who has them, `thea-db pool` how many there should be",
        )
    return healthy(f"a primary answers, and has {free} of {of} connections free")


async def check_revision(examination: asyncio.Task[Primary]) -> CheckResult:
    """Check that the schema's revision is the newest of this release."""
    primary = await asyncio.shield(examination)
    try:
        async with primary.turn:
            revision = await revision_of(primary.connection)
    except asyncpg.InsufficientPrivilegeError:
        async with primary.turn:
            role = await primary.connection.fetchval("SELECT quote_ident(current_user)")
        return degraded("alembic_version may not be read", f"as the owner: GRANT SELECT ON alembic_version TO {role};")
    return _judge_revision(revision)


def _judge_revision(revision: Revision) -> CheckResult:
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


async def check_drift(examination: asyncio.Task[Primary], settings: Settings) -> CheckResult:
    """Check that the whole schema is what the migrations build."""
    await asyncio.shield(examination)
    report = await verify(settings)
    if report.is_sound:
        return healthy("no difference")
    found = f"{len(report.differences)} difference(s), {len(report.errors)} of which can make statements fail"
    remedy = "`thea-db verify` lists each difference with its remedy"
    return unhealthy(found, remedy) if report.errors else degraded(found, remedy)


async def check_replica(
    examination: asyncio.Task[Primary], settings: Settings, *, max_lag_seconds: float, seconds: float
) -> CheckResult:
    """Check that reads go to a standby, and that it is not too far behind the primary, within a number of seconds."""
    if settings.DATABASE_REPLICA_URL is None:
        return skipped("DATABASE_REPLICA_URL is not set: reads go to the primary")
    connection = await open_connection(reading=True)
    try:
        await asyncio.wait([examination], timeout=seconds / 2)
        written = examination.result().written if has_answered(examination) else None
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
    """Wait for the replica to replay what the primary had written; return how far it is behind if it does not."""
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
    """Check that no pool of this process is full: callers would wait."""
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


async def check_isolation(examination: asyncio.Task[Primary], settings: Settings) -> CheckResult:
    """Check that row-level security is on and forced, by this release's policies, for a role that it binds."""
    primary = await asyncio.shield(examination)
    attached = engines_of_loop()["default"].attached  # the primary was reached by this engine
    if time.monotonic() < attached.get(_ISOLATED_UNTIL, 0.0):
        return _BOUND
    async with primary.turn:
        isolation = await read_isolation(primary.connection)
    if isolation == Isolation(tables=isolation.tables) and isolation.tables:
        attached[_ISOLATED_UNTIL] = time.monotonic() + KEPT_SECONDS
        return _BOUND
    async with primary.turn:
        revision = await _readable_revision(primary.connection)
    return _judge_isolation(isolation, revision, is_local=settings.is_local)


def _judge_isolation(isolation: Isolation, revision: Revision | None, *, is_local: bool) -> CheckResult:
    """Return the result for isolation layers with faults, which an older or newer revision may explain."""
    if not isolation.tables:
        return skipped(_SEE_REVISION)
    is_newest = revision is None or revision.database == revision.head
    if not is_newest and (revision is None or revision.is_known or isolation.missing):
        return skipped(_SEE_REVISION)  # behind, or made by migrations that are not this package's
    if isolation.open_tables:
        return unhealthy("; ".join(isolation.open_tables), _VERIFY)
    if isolation.changed_policies:  # by a newer release's migration, they may be as they should be
        found = f"the policies of {', '.join(isolation.changed_policies)} are not this release's"
        return unhealthy(found, _VERIFY) if is_newest else degraded(found, _VERIFY)
    if isolation.role is not None:
        found = f"the role {isolation.role}"
        return degraded(found, _ROLE) if is_local else unhealthy(found, _ROLE)
    return healthy(f"row-level security binds the role on {', '.join(isolation.tables)}")


async def _readable_revision(connection: asyncpg.Connection[Any]) -> Revision | None:
    """Return the revision; None if the role may not read it."""
    try:
        return await revision_of(connection)
    except asyncpg.InsufficientPrivilegeError:
        return None
