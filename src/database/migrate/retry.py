"""Runs the steps of a migration: a transaction each, begun again where a lock was not to be had."""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from typing import Any, Final

from alembic import context
from alembic.runtime.migration import MigrationContext, MigrationStep, StampStep
from sqlalchemy import Connection
from sqlalchemy.util import await_only

from src.config import get_logger
from src.database.errors import DatabaseError, DeadlockError, LockNotAvailable
from src.database.migrate.lock import DEFAULT_LOCK_SECONDS, Patience, watch_of
from src.database.migrate.revision_status import check_origin, check_search_path

__all__ = ["APPLIED", "CONNECTION", "PATIENCE", "Step", "print_steps", "run_steps"]

CONNECTION: Final = "connection"
PATIENCE: Final = "patience"
APPLIED: Final = "applied"
"""In the configuration's `attributes`: what to run over, a `Patience`, and the list that every step is added to."""

LONGEST_PAUSE_SECONDS: Final = 30.0
WHO_HOLDS: Final = "SELECT pid, relation::regclass, mode, granted FROM pg_locks WHERE relation IS NOT NULL ORDER BY pid"

_Plan = Callable[[Any, MigrationContext], Iterable[MigrationStep]]


@dataclass(frozen=True, slots=True)
class Step:
    """A migration that was applied or taken back.

    Args:
        name: What and between which revisions: ``upgrade 0001 -> 0002``.
        seconds: How long it took.
    """

    name: str
    seconds: float


def print_steps(**options: Any) -> None:
    """Write the SQL of the migrations in place of running them."""
    context.configure(literal_binds=True, transaction_per_migration=True, **options)
    context.execute("-- Stop at the first error: psql -v ON_ERROR_STOP=1 -f <this file>")
    context.execute(f"SET lock_timeout = '{DEFAULT_LOCK_SECONDS:.0f}s'")
    with context.begin_transaction():
        context.run_migrations()


def run_steps(connection: Connection, /, **options: Any) -> None:
    """Run what Alembic's command asks for, over a connection; inside a greenlet, as `run_sync` has it.

    A migration that waited too long for a lock is rolled back and begun again, those before it being committed. In a
    transaction of the caller's, all is that transaction's, and nothing is begun again.

    Args:
        connection: `migration_connection`'s, or one that is as good.
        options: Further arguments of `context.configure`.

    Raises:
        ConfigurationError: Other migrations than this package's made the database, or no schema of the search_path
            exists.
        LockNotAvailable: The lock was not to be had, however often it was asked for; it says who held it.
    """
    is_ours = not connection.in_transaction()
    options["transaction_per_migration"] = True
    context.configure(connection=connection, **options)
    check_origin(connection, context.get_context().get_current_heads())
    check_search_path(connection)
    if is_ours:
        connection.rollback()  # of what was read
    steps = _Steps(context.get_context().opts["fn"], connection, context.config.attributes.get(APPLIED))
    patience = context.config.attributes.get(PATIENCE) or Patience()
    while True:
        context.configure(connection=connection, fn=steps if is_ours else steps.plan, **options)
        try:
            with context.begin_transaction():
                context.run_migrations()
        except (LockNotAvailable, DeadlockError) as error:
            if not is_ours:
                raise
            connection.rollback()
            steps.attempts += 1
            if steps.attempts == patience.attempts:
                raise _given_up(error, steps, connection) from error.__cause__  # a traceback prints one hint
            pause = _pause(patience.pause, steps.attempts)
            get_logger(__name__).warning(
                "migration_begins_again", step=steps.current, error=type(error).__name__, in_seconds=round(pause, 1)
            )
            await_only(asyncio.sleep(pause))
        else:
            return


@dataclass(slots=True)
class _Steps:
    """What Alembic asks for the steps: settled once, since `+1` would be another one after the first is committed."""

    plan: _Plan
    connection: Connection
    applied: list[Step] | None
    current: str = field(default="none", init=False)
    attempts: int = field(default=0, init=False)
    """How often the current one has failed."""
    _all: list[MigrationStep] | None = field(default=None, init=False)
    _done: int = field(default=0, init=False)

    def __call__(self, heads: Any, migration: MigrationContext) -> Iterator[MigrationStep]:
        if self._all is None:
            self._all = list(self.plan(heads, migration))
        for step in self._all[self._done :]:
            self.connection.commit()  # of what Alembic has read: the step begins with nothing in its transaction
            self.current = step.short_log
            began = time.monotonic()
            yield step
            self._done += 1  # its transaction is committed by now
            self.attempts = 0
            self._tell(Step(step.short_log, time.monotonic() - began), is_stamp=isinstance(step, StampStep))

    def _tell(self, step: Step, *, is_stamp: bool) -> None:
        event = "stamped" if is_stamp else "migrated"
        get_logger(__name__).info(event, step=step.name, seconds=round(step.seconds, 3))
        if self.applied is not None:
            self.applied.append(step)


def _pause(first: float, failures: int) -> float:
    longest: float = min(first * 2 ** (failures - 1), LONGEST_PAUSE_SECONDS)
    return longest * random.uniform(0.5, 1.5)  # noqa: S311 - spreads load, guards nothing


def _given_up(error: DatabaseError, steps: _Steps, connection: Connection) -> LockNotAvailable:
    watch = watch_of(connection.info)
    held_by = watch.blockers if watch is not None else None
    return LockNotAvailable(
        f"{steps.current}: {error.args[0]}; given up after {steps.attempts} attempts; the steps before it are committed"
        + (f"; the lock was held by {held_by}" if held_by else ""),
        sqlstate=error.sqlstate,
        hint="run it again when that transaction has ended; pg_terminate_backend(pid) ends it and discards its changes"
        if held_by
        else f"who holds a lock: {WHO_HOLDS}",
    )
