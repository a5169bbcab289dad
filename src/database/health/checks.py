"""The health checks: each takes the context of a report and returns the result in one respect."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from typing import Any, Final

import asyncpg

from src.config import Settings
from src.database.check_result import CheckResult, failed, ok, skipped, warning
from src.database.connect import DRIVER_ERRORS
from src.database.drift import Isolation, read_isolation, verify
from src.database.engine import KEPT_FREE, Capacity, SizedPool, capacity_of
from src.database.errors import ConnectionFailed
from src.database.health.report import NO_CONNECTION_FREE, result_of_error
from src.database.migrate import (
    OTHER_DATABASE,
    VERSION_TABLE,
    Revision,
    named_history,
    readable_revision,
    service_revision_of,
    service_revisions,
)
from src.database.session import WRITTEN, engines_of_loop, open_connection, resolve_target
from src.database.store import POOL_NAME, get_store

CLOSE_SECONDS: Final = 0.5
CATCH_UP_SECONDS: Final = 0.5
"""How long a replica may take to replay what the primary had written."""
POLL_SECONDS: Final = 0.02
KEPT_SECONDS: Final = 30.0
"""How long a healthy result of the isolation check is reused; every other result is checked again."""

_PRIMARY_STATE: Final = "SELECT pg_is_in_recovery(), current_setting('transaction_read_only')::bool"
# The time of the last replayed commit is a lag only if the replica is behind: on an idle primary it grows forever.
_REPLAYED: Final = """
SELECT pg_is_in_recovery(), pg_last_wal_replay_lsn() >= $1::text::pg_lsn,
       extract(epoch FROM clock_timestamp() - pg_last_xact_replay_timestamp())::float8
"""
_ISOLATED: Final = ok("row-level security is forced on all tables that the snapshot protects, and applies to the role")
_VERIFY: Final = "`thea-db verify` names each difference and the statements that repair it"
_ROLE: Final = (
    "connect as a role with NOSUPERUSER NOBYPASSRLS that owns no table: `thea-db bootstrap` creates such a role"
)
_UPGRADE: Final = "thea-db upgrade"

_healthy_until: Final[dict[str, float]] = {}
"""By target, in the seconds of the monotonic clock."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Primary:
    """The state of the primary, with a connection to it.

    Args:
        connection: The connection that the checks share; it is closed after the last of them.
        takes_writes: True if the server is a primary and allows writes to this role.
        capacity: The number of connections that the server accepts.
        written: The WAL position that the server has written, if a replica is compared with it.
        lock: Held by the check that uses the connection: asyncpg executes one statement at a time.
    """

    connection: asyncpg.Connection[Any]
    takes_writes: bool
    capacity: Capacity
    written: str | None
    lock: asyncio.Lock = field(default_factory=asyncio.Lock)


@dataclass(frozen=True, slots=True, kw_only=True)
class HealthContext:
    """The state that the checks of one report share.

    Args:
        settings: The settings of the process.
        primary: The task that connects to the primary. A check awaits it under `asyncio.shield`: its own time limit
            must not cancel the connection of the other checks.
        timeout_seconds: The time limit of a check.
        max_replica_lag_seconds: The largest lag of a healthy replica.
    """

    settings: Settings
    primary: asyncio.Task[Primary]
    timeout_seconds: float
    max_replica_lag_seconds: float


def has_answered(primary: asyncio.Task[Primary]) -> bool:
    """Return True if the task has connected to the primary."""
    return primary.done() and not primary.cancelled() and primary.exception() is None


@asynccontextmanager
async def examine_primary(*, for_replica: bool, seconds: float) -> AsyncIterator[asyncio.Task[Primary]]:
    """Start a task that connects to the primary, and yield it; close the connection after the block.

    The connection is outside of the pools: a full pool says nothing about the server, and a check must not take a
    pooled connection from a caller.

    Args:
        for_replica: Read the WAL position that a replica is compared with.
        seconds: The time limit of the task.
    """

    async def examine() -> Primary:
        async with asyncio.timeout(seconds):  # the drift check has a longer limit
            return await _connect(for_replica=for_replica)

    task = asyncio.create_task(examine())
    try:
        yield task
    finally:
        task.cancel()
        await asyncio.wait([task])
        if has_answered(task):
            await _close(task.result().connection)


async def _connect(*, for_replica: bool) -> Primary:
    connection = await open_connection()
    try:
        in_recovery, is_read_only = await connection.fetchrow(_PRIMARY_STATE)
        capacity = await capacity_of(connection)
        written = await connection.fetchval(WRITTEN.text) if for_replica and not in_recovery else None
    except BaseException:
        connection.terminate()  # close() waits for the server, which may be what hangs
        raise
    return Primary(
        connection=connection, takes_writes=not (in_recovery or is_read_only), capacity=capacity, written=written
    )


async def _close(connection: asyncpg.Connection[Any]) -> None:
    """Close a connection within a time limit, even if the server does not answer."""
    with suppress(*DRIVER_ERRORS):
        await connection.close(timeout=CLOSE_SECONDS)


async def check_connection(context: HealthContext) -> CheckResult:
    """Check that a new connection reaches a primary that has connections free."""
    try:
        primary = await asyncio.shield(context.primary)
    except ConnectionFailed as error:
        if error.sqlstate == NO_CONNECTION_FREE and any(pool.open for pool in _pools().values()):
            return result_of_error(error, "warning")  # the open connections of this process still serve
        raise
    if not primary.takes_writes:
        return warning(
            "the server accepts no writes: it is a standby, or default_transaction_read_only is on",
            "for a standby, name all hosts in DATABASE_URL, with target_session_attrs=read-write; otherwise"
            " `thea-db doctor` shows what sets the default, and how to reset it",
        )
    free, of = primary.capacity.free, primary.capacity.available
    # Behind PgBouncer its pool holds the server's connections, and the number of free ones says nothing.
    if free < KEPT_FREE and not context.settings.DATABASE_PGBOUNCER:
        return warning(
            f"the server has {free} of {of} connections free",
            "`thea-db activity` lists the connections, `thea-db pool` suggests sizes of pools",
        )
    return ok(f"a primary answers, and has {free} of {of} connections free")


async def check_revision(context: HealthContext) -> CheckResult:
    """Check that the schema is at the newest revision of this release."""
    primary = await asyncio.shield(context.primary)
    async with primary.lock:
        of_service = service_revisions(context.settings)
        revision = await readable_revision(primary.connection, of_service=of_service)
        if revision is None:
            return await unreadable(primary.connection, VERSION_TABLE)
    if revision.state == "newer":
        return warning(
            f"{revision.database} is newer than this release's {revision.head}",
            "nothing to do while a newer release is rolled out; otherwise install the release that has this revision",
        )
    return judge_revision(revision)


async def check_service_revision(context: HealthContext) -> CheckResult:
    """Check that the schema is at the newest revision of the service's history."""
    primary = await asyncio.shield(context.primary)
    async with primary.lock:
        return await examine_service_revision(primary.connection, context.settings)


async def examine_service_revision(connection: asyncpg.Connection[Any], settings: Settings) -> CheckResult:
    """Return the result for the revision of a database in the service's history."""
    service = named_history(settings, "service")
    revision = await service_revision_of(connection, service)
    if revision is None:
        return await unreadable(connection, service.version_table)
    match revision.state:
        case "empty":
            return failed(f"{service.version_table} has no revision; the newest is {revision.head}", _UPGRADE)
        case "newer":
            return warning(
                f"{revision.database} is not in DATABASE_SERVICE_MIGRATIONS, whose newest revision is"
                f" {revision.head or 'none'}",
                "nothing to do while a newer release of the service is rolled out; otherwise install the release that"
                f" has this revision; delete neither migrations nor rows of {service.version_table}",
            )
        case "newest":
            return ok(revision.head or "the service has no migrations yet")
        case _:
            return failed(f"{revision.database} is behind {revision.head}", _UPGRADE)


async def unreadable(connection: asyncpg.Connection[Any], table: str) -> CheckResult:
    """Return the result for a version table that the role may not read."""
    role = await connection.fetchval("SELECT quote_ident(current_user)")
    return warning(f"the role may not read {table}", f"as the owner: GRANT SELECT ON {table} TO {role};")


def judge_revision(revision: Revision) -> CheckResult:
    """Return the result for a revision. No remedy deletes migrations or rows of version tables."""
    match revision.state:
        case "foreign":
            return failed(revision.foreign_origin(), OTHER_DATABASE)
        case "unstamped":
            return failed("the tables exist, and no revision is recorded", "thea-db verify")
        case "empty":
            return failed("the database has no schema, or the role has no USAGE on it", _UPGRADE)
        case "newer":
            return failed(
                f"this installation does not know {revision.database}: the newest here is {revision.head}, and a newer"
                " release has migrated the database",
                "install the release of thea-database, or check out the branch, that has this revision; delete neither"
                f" migrations nor rows of {VERSION_TABLE}",
            )
        case "behind":
            return failed(f"{revision.database} is behind {revision.head}", _UPGRADE)
        case "newest":
            return ok(revision.head)


async def check_drift(context: HealthContext) -> CheckResult:
    """Check that the whole schema is what the migrations build."""
    await asyncio.shield(context.primary)
    report = await verify(context.settings)
    if report.is_sound:
        return ok("no difference")
    found = f"{len(report.differences)} difference(s), {len(report.errors)} of which can make statements fail"
    remedy = "`thea-db verify` lists each difference with its remedy"
    return failed(found, remedy) if report.errors else warning(found, remedy)


async def check_replica(context: HealthContext) -> CheckResult:
    """Check that reads go to a standby, and that its lag is small."""
    if context.settings.DATABASE_REPLICA_URL is None:
        return skipped("DATABASE_REPLICA_URL is not set: reads go to the primary")
    connection = await open_connection(reading=True)
    try:
        # Not longer than half of the time limit: without the primary the standby itself is still checked.
        await asyncio.wait([context.primary], timeout=context.timeout_seconds / 2)
        written = context.primary.result().written if has_answered(context.primary) else None
        result = await _compare(
            connection,
            written,
            max_lag_seconds=context.max_replica_lag_seconds,
            patience_seconds=min(CATCH_UP_SECONDS, context.timeout_seconds / 4),
        )
    except BaseException:
        connection.terminate()
        raise
    await _close(connection)
    return result


async def _compare(
    connection: asyncpg.Connection[Any], written: str | None, *, max_lag_seconds: float, patience_seconds: float
) -> CheckResult:
    """Wait until the replica has replayed what the primary had written; return the lag if it does not in time."""
    began = time.monotonic()
    while True:
        is_standby, has_all, lag = await connection.fetchrow(_REPLAYED, written)
        waited = time.monotonic() - began
        if not is_standby:
            return warning(
                "the server in DATABASE_REPLICA_URL is not a standby",
                "name a standby in DATABASE_REPLICA_URL, or unset it",
            )
        if written is None:
            return skipped("a standby answers; its lag cannot be measured without the primary")
        if has_all:
            return ok(f"the replica has all changes that the primary had {waited * 1000:.0f} ms ago")
        if waited >= patience_seconds:
            break
        await asyncio.sleep(POLL_SECONDS)
    if lag is not None and lag <= max_lag_seconds:
        return ok(f"{lag:.1f} s behind")
    found = (
        "the replica is behind, and has replayed no transaction since it started"
        if lag is None
        else f"{lag:.0f} s behind"
    )
    return warning(
        found, "pg_stat_replication on the primary shows the cause; a long query on the replica delays the replay too"
    )


async def check_pools(_context: HealthContext) -> CheckResult:
    """Check that no pool of this process is full: callers would wait."""
    pools = _pools()
    if not pools:
        return skipped("this process has no pool in use")
    found = ", ".join(f"{name} {pool.in_use} of {pool.limit}" for name, pool in pools.items())
    if all(pool.in_use < pool.limit for pool in pools.values()):
        return ok(f"in use: {found}")
    return warning(
        f"a pool is full; in use: {found}",
        "end sessions sooner (close the session while you wait for a language model or another service), or raise"
        " DATABASE_POOL_SIZE; `thea-db pool` suggests a size",
    )


@dataclass(frozen=True, slots=True)
class _Pool:
    """The numbers of connections of a pool: in use, open, and allowed."""

    in_use: int
    open: int
    limit: int


def _pools() -> dict[str, _Pool]:
    """Return the pools of the running event loop by name; engines without a pool are omitted."""
    pools = {}
    for name, engine in engines_of_loop().items():
        limit = engine.limits.size + max(0, engine.limits.overflow)
        if name == POOL_NAME:
            store_pool = get_store().pool
            pools[name] = _Pool(store_pool.in_use, store_pool.size, limit)
        elif isinstance(pool := engine.pool, SizedPool):
            pools[name] = _Pool(pool.checkedout(), pool.checkedin() + pool.checkedout(), limit)
    return pools


async def check_isolation(context: HealthContext) -> CheckResult:
    """Check that row-level security is on and forced, has this release's policies, and applies to the role."""
    primary = await asyncio.shield(context.primary)
    target = str(resolve_target(context.settings))
    if time.monotonic() < _healthy_until.get(target, 0.0):
        return _ISOLATED
    async with primary.lock:
        isolation = await read_isolation(primary.connection, context.settings)
        if isolation == Isolation(tables=isolation.tables) and isolation.tables:
            _healthy_until[target] = time.monotonic() + KEPT_SECONDS
            return _ISOLATED
        of_service = service_revisions(context.settings)
        revision = await readable_revision(primary.connection, of_service=of_service)
    return _judge_isolation(isolation, revision, is_local=context.settings.is_local)


def _judge_isolation(isolation: Isolation, revision: Revision | None, *, is_local: bool) -> CheckResult:
    """Return the result for isolation layers with faults, unless the revision explains the faults."""
    state = "newest" if revision is None else revision.state
    is_comparable = state == "newest" or (state == "newer" and not isolation.missing)
    if not isolation.tables or not is_comparable:
        return skipped("see the check `revision`")
    if isolation.open_tables:
        return failed("; ".join(isolation.open_tables), _VERIFY)
    if isolation.changed_policies:
        found = f"the policies of {', '.join(isolation.changed_policies)} are not this release's"
        # A migration of a newer release may have changed them.
        return failed(found, _VERIFY) if state == "newest" else warning(found, _VERIFY)
    if isolation.role is not None:
        found = f"the role {isolation.role}"
        return warning(found, _ROLE) if is_local else failed(found, _ROLE)
    return ok(f"row-level security applies to the role on {', '.join(isolation.tables)}")
