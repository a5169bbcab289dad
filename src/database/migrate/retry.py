"""Run migrations, each in its own transaction, which releases its locks and retries if a lock is not available."""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import Collection, Iterable, Iterator
from dataclasses import dataclass
from itertools import count
from typing import Any, Final

from alembic import context
from alembic.runtime.migration import MigrationContext, MigrationStep, RevisionStep, StampStep
from sqlalchemy import Connection
from sqlalchemy.util import await_only

from src.config import get_logger
from src.database.errors import ConfigurationError, DatabaseError, DeadlockError, LockNotAvailable
from src.database.migrate.histories import History, package_history
from src.database.migrate.lock import DEFAULT_LOCK_SECONDS, SCHEMA, Patience, blockers_of
from src.database.migrate.revision_status import Revision, check_origin, check_search_path
from src.database.migrate.version_table import move_statement, revoke_writes

CONNECTION: Final = "connection"
PATIENCE: Final = "patience"
APPLIED: Final = "applied"
OF_SERVICE: Final = "of_service"
"""Keys of `alembic.config.Config.attributes`: the connection, a `Patience`, the list that collects the steps, and the
revisions of the service."""

REQUIRED: Final = "requires_thea"
"""The attribute of a service's revision that names the revision of this package that it needs."""

LONGEST_PAUSE_SECONDS: Final = 30.0
LOCKS_QUERY: Final = (
    "SELECT pid, relation::regclass, mode, granted FROM pg_locks WHERE relation IS NOT NULL ORDER BY pid"
)


@dataclass(frozen=True, slots=True)
class Step:
    """A migration that was applied or reverted.

    Args:
        name: The direction and the revisions: ``upgrade 0001 -> 0002``.
        seconds: The duration.
    """

    name: str
    seconds: float


def print_steps(history: History, **options: Any) -> None:
    """Print the SQL of the migrations, and do not run it.

    The SQL for a database with tables begins with the move of an old version table.

    Args:
        history: The history of the migrations.
        options: Further arguments of `context.configure`.
    """
    options |= {"literal_binds": True, "transaction_per_migration": True, "version_table": history.version_table}
    schema: str | None = context.config.attributes.get(SCHEMA)
    options[SCHEMA] = schema
    context.configure(**options)
    context.execute("-- Stop at the first error: psql -v ON_ERROR_STOP=1 -f <this file>")
    context.execute(f"SET lock_timeout = '{DEFAULT_LOCK_SECONDS:.0f}s'")
    if schema is not None:
        context.execute(f'CREATE SCHEMA IF NOT EXISTS "{schema}"')
        context.execute(f'SET search_path = "{schema}"')
    if context.get_starting_revision_argument() is not None:
        context.execute(move_statement(package_history().installed()[1]))
    with context.begin_transaction():
        context.run_migrations()
    if history.name == "service":
        context.execute(revoke_writes(history.version_table))


def run_steps(connection: Connection, /, history: History, *, of_service: Collection[str] = (), **options: Any) -> None:
    """Run the migrations of the current Alembic command over a connection, inside the greenlet of `run_sync`.

    A migration that waited too long for a lock, or that was the victim of a deadlock, is rolled back and retried; the
    migrations before it are committed. If the caller has begun a transaction, all migrations are part of that
    transaction, and none is retried.

    Args:
        connection: A connection of `migration_connection`, or one with the same guarantees.
        history: The history of the migrations.
        of_service: The revisions of the service's history, beside which the package's tables may be created.
        options: Further arguments of `context.configure`.

    Raises:
        ConfigurationError: Other migrations than this package's made the database, no schema of the search_path
            exists, or a revision of the service requires a later revision of this package.
        LockNotAvailable: The lock was not available in any attempt; the message names the sessions that held it.
    """
    is_ours = not connection.in_transaction()
    package = check_origin(connection, of_service=of_service)
    check_search_path(connection)
    if is_ours:
        connection.rollback()  # ends the transaction that SQLAlchemy began for the queries
    if history.name == "service" and history.version_table == package.version_table:
        raise ConfigurationError(
            f"{history.version_table} still records the revisions of thea-database",
            hint="run `thea-db upgrade`, which renames the table: then the name is free for the service's revisions",
        )
    version_table = package.version_table if history.name == "package" else history.version_table
    options |= {"connection": connection, "transaction_per_migration": True, "version_table": version_table}
    context.configure(**options)
    migration = context.get_context()
    if not is_ours:
        with context.begin_transaction():
            context.run_migrations()
        return
    # The plan is computed once. `+2` is relative to the revision of the database: computed again after the first step
    # is committed, it would name a later revision, and `-2` would drop more than the caller requested.
    plan = list(migration.opts["fn"](() if migration.purge else migration.get_current_heads(), migration))
    if history.name == "service":
        check_requirements(plan, package)
    for step in plan:
        applied = Step(step.short_log, _run_step(step, options))
        event = "stamped" if isinstance(step, StampStep) else "migrated"
        get_logger(__name__).info(event, step=applied.name, seconds=round(applied.seconds, 3))
        context.config.attributes.get(APPLIED, []).append(applied)
    if history.name == "service" and plan:
        # The default privileges of the owner give the application's role every privilege on the new table.
        connection.exec_driver_sql(revoke_writes(history.version_table))
        connection.commit()


def check_requirements(plan: Iterable[MigrationStep], package: Revision) -> None:
    """Check that the database has the revisions of this package that the revisions of a service require.

    Args:
        plan: The steps of the service's history. A revision names the required one in its attribute `requires_thea`.
        package: The revision of the database in this package's history.

    Raises:
        ConfigurationError: A required revision is missing; no step of the plan has run.
    """
    if not package.is_known:  # a newer release has migrated the database
        return
    scripts = package_history().scripts()
    at = tuple(package.database.split(",")) if package.database else ()
    applied = {script.revision for script in scripts.iterate_revisions(at, "base")} if at else set()
    for step in plan:
        if not (isinstance(step, RevisionStep) and step.is_upgrade):
            continue
        required = getattr(step.revision.module, REQUIRED, None)
        if required is not None and required not in applied:
            raise ConfigurationError(
                f"the revision {step.revision.revision} of the service requires the revision {required} of"
                f" thea-database, and the database is at {package.database or 'none'}; no migration of the"
                " service was run",
                hint=f"run `thea-db upgrade --history package`, which upgrades to {package.head}; if {required} is a"
                " later revision, install the release of thea-database that has it",
            )


def _run_step(step: MigrationStep, options: dict[str, Any]) -> float:
    """Run one migration, and retry it if a lock is not available; return the seconds of the last attempt."""
    connection: Connection = options["connection"]
    patience: Patience = context.config.attributes.get(PATIENCE) or Patience()

    def only_step(_heads: Any, _migration: MigrationContext) -> Iterator[MigrationStep]:
        connection.commit()  # ends the transaction of Alembic's reads: the step begins its own
        yield step

    for attempt in count(1):
        connection.rollback()  # of reads, or of the failed attempt: Alembic would leave the commit to the caller
        context.configure(fn=only_step, **options)
        began = time.monotonic()
        try:
            with context.begin_transaction():
                context.run_migrations()
        except (LockNotAvailable, DeadlockError) as error:
            if attempt == patience.attempts:
                # From the driver's error: the message of `error` and its hint are part of the new one.
                raise _give_up(error, step, attempt, connection) from error.__cause__
            pause = _pause(patience.pause_seconds, attempt)
            get_logger(__name__).warning(
                "migration_begins_again", step=step.short_log, error=type(error).__name__, in_seconds=round(pause, 1)
            )
            connection.rollback()  # no lock is held during the pause
            # Alembic calls this code synchronously, in the greenlet of run_sync: await_only lets the event loop run.
            await_only(asyncio.sleep(pause))
        else:
            break
    return time.monotonic() - began


def _pause(first: float, failures: int) -> float:
    longest: float = min(first * 2 ** (failures - 1), LONGEST_PAUSE_SECONDS)
    return longest * random.uniform(0.5, 1.5)  # noqa: S311 - spreads load, protects no secret


def _give_up(error: DatabaseError, step: MigrationStep, attempts: int, connection: Connection) -> LockNotAvailable:
    held_by = blockers_of(connection)
    return LockNotAvailable(
        f"{step.short_log}: {error.args[0]}; given up after {attempts} attempts; the earlier steps are committed"
        + (f"; the lock was held by {held_by}" if held_by else ""),
        sqlstate=error.sqlstate,
        hint="run the migrations again when that transaction has ended; pg_terminate_backend(pid) ends the session and"
        " discards its changes"
        if held_by
        else f"this query lists the sessions with locks: {LOCKS_QUERY}",
    )
