"""Upgrade and downgrade a database, and report its revisions, in the history of this package or of a service."""

from __future__ import annotations

import asyncio
import re
from collections.abc import AsyncIterator, Callable, Collection, Iterator, Sequence
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass, replace
from io import StringIO
from pathlib import Path
from threading import Lock
from typing import Final

from alembic import command
from alembic.config import Config
from alembic.script import Script, ScriptDirectory
from alembic.util import CommandError
from sqlalchemy import Connection

from src.config import Settings
from src.database.errors import ConfigurationError
from src.database.migrate.histories import (
    History,
    HistoryName,
    explain,
    is_checkout,
    named_history,
    package_history,
    service_history,
    service_revisions,
)
from src.database.migrate.lock import SCHEMA, Patience, migration_connection
from src.database.migrate.retry import APPLIED, CONNECTION, OF_SERVICE, PATIENCE, Step
from src.database.migrate.revision_status import check_origin, move_version_table, read_service_revisions

POLL_SECONDS: Final = 0.05
_ALEMBIC: Final = Lock()
"""`alembic.op` and `alembic.context` are global in the process: without the lock, the operations of two concurrent
migrations of two databases would go to one of them."""
_PLAIN: Final = re.compile(r"\w+")
_HEADS: Final = ("head", "heads")


@dataclass(frozen=True, slots=True, kw_only=True)
class Migrated:
    """The revisions of a database before and after a migration, and its steps.

    Args:
        before: The revisions before the migration; empty if there was no schema.
        after: The revisions after the migration.
        steps: The migrations that this call applied or reverted, in this order. Those of a concurrent migrator are not
            among them.
        history: The history to which the revisions belong.
        service: The result for the service's history, if the call migrated both histories.
    """

    before: tuple[str, ...]
    after: tuple[str, ...]
    steps: tuple[Step, ...]
    history: HistoryName = "package"
    service: Migrated | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class HistoryEntry:
    """A migration of a history.

    Args:
        revision: The identifier of the revision.
        follows: The revisions that the revision follows; empty for the first.
        message: The first line of the migration's docstring.
        is_head: True if no revision follows.
        is_applied: True if the database has the revision; None if the database was not queried.
    """

    revision: str
    follows: tuple[str, ...]
    message: str
    is_head: bool
    is_applied: bool | None


async def upgrade(
    settings: Settings,
    revision: str = "head",
    *,
    of: HistoryName | None = None,
    folder: Path | None = None,
    patience: Patience | None = None,
) -> Migrated:
    """Upgrade a database to a revision; do nothing if the database is at that revision.

    Args:
        settings: The settings that name the database, and the history of a service.
        revision: A revision, ``head``, or ``+1`` and so on.
        of: The history of the revision; None: this package's and then the service's, to their heads, under one lock.
        folder: A folder of further revisions of this package, for its tests.
        patience: How long to wait for other migrators and for locks.

    Raises:
        ConfigurationError: The revision is unknown or older than the database's, the target is invalid, other
            migrations made the database, or `of` is missing.
        ConnectionFailed: The database cannot be reached.
        LockNotAvailable: Another session has been migrating, or has used a table, for too long.
    """

    def act(config: Config, at: tuple[str, ...]) -> None:
        _check_is_up(ScriptDirectory.from_config(config), revision, at)
        command.upgrade(config, revision)

    if of is None and folder is None and revision in _HEADS and (service := service_history(settings)) is not None:
        package, of_service = await _migrate(settings, [package_history(), service], act, patience)
        return replace(package, service=of_service)
    (migrated,) = await _migrate(settings, [_history_of(settings, of, revision, folder)], act, patience)
    return migrated


async def downgrade(
    settings: Settings,
    revision: str,
    *,
    of: HistoryName | None = None,
    folder: Path | None = None,
    patience: Patience | None = None,
) -> Migrated:
    """Revert migrations: drop the tables and columns that they created, with the data in them.

    Args:
        settings: The settings that name the database, and the history of a service.
        revision: The newest revision to keep, ``-1`` and so on, or ``base`` to keep none.
        of: The history of the revision; None: this package's, if the settings name no service.
        folder: A folder of further revisions of this package, for its tests.
        patience: How long to wait for other migrators and for locks.

    Raises:
        ConfigurationError: The revision is unknown or newer than the database's, or `of` is missing.
        ConnectionFailed: The database cannot be reached.
        LockNotAvailable: Another session has been migrating, or has used a table, for too long.
    """
    history = _history_of(settings, of, revision, folder)
    (migrated,) = await _migrate(settings, [history], lambda config, _at: command.downgrade(config, revision), patience)
    return migrated


async def stamp(
    settings: Settings,
    revision: str,
    *,
    of: HistoryName | None = None,
    folder: Path | None = None,
    patience: Patience | None = None,
) -> Migrated:
    """Record a revision without running a migration; the schema must already be at this revision.

    Args:
        settings: The settings that name the database, and the history of a service.
        revision: The revision to record.
        of: The history of the revision; None: this package's, if the settings name no service.
        folder: A folder of further revisions of this package, for its tests.
        patience: How long to wait for other migrators.

    Returns:
        The revisions recorded before and after, without steps.

    Raises:
        ConfigurationError: The revision is unknown, or `of` is missing.
        ConnectionFailed: The database cannot be reached.
        LockNotAvailable: Another session has been migrating for too long.
    """
    history = _history_of(settings, of, revision, folder)
    (stamped,) = await _migrate(settings, [history], lambda config, _at: command.stamp(config, revision), patience)
    return replace(stamped, steps=())


async def current(settings: Settings, *, of: HistoryName = "package") -> tuple[str, ...]:
    """Return the revisions of a database; empty if there is no schema. A running migration is not waited for.

    Args:
        settings: The settings that name the database, and the history of a service.
        of: The history of the revisions.

    Raises:
        ConfigurationError: Other migrations made the database, or the settings name no service.
        ConnectionFailed: The database cannot be reached.
    """
    history, of_service = named_history(settings, of), service_revisions(settings)
    async with migration_connection(settings, exclusive=False) as connection:
        return await connection.run_sync(_recorded, history, of_service)


async def history(
    settings: Settings | None = None,
    *,
    of: HistoryName = "package",
    queries: bool = True,
    folder: Path | None = None,
) -> list[HistoryEntry]:
    """Return the migrations of a history, the newest first.

    Args:
        settings: The settings that name the database and the history of a service; None: neither.
        of: The history.
        queries: Query the database, if the settings are given, for its revisions.
        folder: A folder of further revisions of this package, for its tests.

    Raises:
        ConfigurationError: The database is at a revision that the history does not have, or the settings name no
            service.
        ConnectionFailed: The database cannot be reached.
    """
    entries_of = package_history(folder) if of == "package" else named_history(settings, of)
    at = await current(settings, of=of) if settings is not None and queries else None
    scripts = entries_of.scripts()
    with _explained(entries_of):
        applied = None if at is None else _up_to(scripts, at)
        return [_entry(script, applied) for script in scripts.walk_revisions()]


async def revision(
    settings: Settings,
    message: str,
    *,
    of: HistoryName | None = None,
    autogenerate: bool = False,
    folder: Path | None = None,
) -> Path:
    """Write a new migration, which follows the newest one, from the template; return the path of the file.

    Args:
        settings: The settings that name the history of a service. With `autogenerate`, they name the database with
            which the models of the history are compared. It must be at the newest revision.
        message: A description: the first line of the file, and part of its name.
        of: The history that the migration continues; None: the service's if the settings name one, else this package's.
        autogenerate: Fill the migration with the difference between the models and the database, as far as Alembic
            compares them.
        folder: A folder of further revisions of this package, for its tests.

    Raises:
        ConfigurationError: The migration would be one of this package in an installed release, a module of models
            cannot be imported, or the database is not at the newest revision.
        ConnectionFailed: The database cannot be reached.
    """
    service = service_history(settings) if of is None and folder is None else None
    continued = service or _history_of(settings, of, message, folder)
    if continued.name == "package" and folder is None and not is_checkout():
        raise ConfigurationError(
            "a new migration of thea-database must be in a checkout: the next release would delete a migration in the"
            " installed package, and no other machine would have it",
            hint="for tables of your service, set DATABASE_SERVICE_MODELS and DATABASE_SERVICE_MIGRATIONS:"
            " docs/services.md describes both",
        )
    config = continued.config()

    def write(_connection: object = None) -> Path:
        version_path = str(continued.folders[-1])
        written = command.revision(config, message, autogenerate=autogenerate, version_path=version_path)
        assert isinstance(written, Script)  # noqa: S101 - Alembic returns a list only if several were requested
        return Path(written.path)

    with _explained(continued):
        if not autogenerate:
            return write()
        continued.tables()  # imports the models of a service
        async with migration_connection(settings) as connection, _exclusive_alembic():
            config.attributes[CONNECTION] = connection.sync_connection
            return await connection.run_sync(write)


async def sql(
    revisions: str = "head",
    *,
    down: bool = False,
    settings: Settings | None = None,
    of: HistoryName | None = None,
    folder: Path | None = None,
) -> str:
    """Return the SQL of migrations, to be run by psql; no database is queried.

    Args:
        revisions: The last revision; or ``<from>:<to>``, for a database that is at the revision ``<from>``.
        down: Return the SQL of the downgrade, which needs ``<from>:<to>``.
        settings: The settings that name the schema, and the history of a service, if there is one.
        of: The history of the revisions; None: this package's and then the service's, from no schema to their heads.
        folder: A folder of further revisions of this package, for its tests.

    Raises:
        ConfigurationError: A revision is unknown, or `of` is missing.
        DatabaseError: A migration cannot be written as SQL.
    """
    schema = None if settings is None else settings.DATABASE_SCHEMA
    service = None if settings is None or of or folder else service_history(settings)
    if service is not None and revisions in _HEADS and not down:
        both = [await sql_of(each, revisions, schema=schema, down=down) for each in (package_history(), service)]
        return "".join(both)
    return await sql_of(_history_of(settings, of, revisions, folder), revisions, schema=schema, down=down)


async def sql_of(history: History, revisions: str, *, schema: str | None = None, down: bool = False) -> str:
    """Return the SQL of migrations of a history, as `sql` does; `schema` is that of the tables, None for `public`."""
    config = history.config()
    config.attributes[SCHEMA] = schema
    config.output_buffer = StringIO()
    async with _exclusive_alembic():
        with _explained(history):
            (command.downgrade if down else command.upgrade)(config, revisions, sql=True)
    return config.output_buffer.getvalue()


def _history_of(settings: Settings | None, of: HistoryName | None, revision: str, folder: Path | None) -> History:
    """Return the history of a revision.

    Raises:
        ConfigurationError: The settings name a service, and `of` is None: both histories can have such a revision.
    """
    if of == "service":
        return named_history(settings, of)
    if of is None and folder is None and settings is not None and service_history(settings) is not None:
        raise ConfigurationError(
            f"the history of the revision {revision!r} must be named: DATABASE_SERVICE_MIGRATIONS names a second one",
            hint="add --history package for the history of thea-database, --history service for that of the service",
        )
    return package_history(folder)


async def _migrate(
    settings: Settings,
    histories: Sequence[History],
    act: Callable[[Config, tuple[str, ...]], None],
    patience: Patience | None,
) -> list[Migrated]:
    """Call a command of Alembic for each history in turn, over one connection and under one lock."""
    of_service = service_revisions(settings)

    def run(connection: Connection, history: History) -> Migrated:
        config, steps = history.config(), list[Step]()
        config.attributes |= {APPLIED: steps, PATIENCE: patience, CONNECTION: connection, OF_SERVICE: of_service}
        before = _recorded(connection, history, of_service)
        move_version_table(connection)
        with _explained(history):
            act(config, before)
        after = _recorded(connection, history, of_service)
        return Migrated(before=before, after=after, steps=tuple(steps), history=history.name)

    async with migration_connection(settings, patience=patience) as connection, _exclusive_alembic():
        return [await connection.run_sync(run, history) for history in histories]


def _recorded(connection: Connection, history: History, of_service: Collection[str]) -> tuple[str, ...]:
    """Return the recorded revisions of a history; check that no other migrations made the database."""
    package = check_origin(connection, of_service=of_service)
    if history.name == "package":
        return tuple(package.database.split(",")) if package.database else ()
    recorded = read_service_revisions(connection, history)
    connection.rollback()  # ends the transaction that SQLAlchemy began for the query
    return recorded or ()


@contextmanager
def _explained(history: History) -> Iterator[None]:
    """Translate the errors of Alembic."""
    try:
        yield
    except CommandError as error:
        raise explain(error, history) from error


@asynccontextmanager
async def _exclusive_alembic() -> AsyncIterator[None]:
    """Exclude the other migrations of this process, whatever their thread and event loop."""
    while not _ALEMBIC.acquire(blocking=False):  # noqa: ASYNC110 - an asyncio.Event is of one event loop
        await asyncio.sleep(POLL_SECONDS)
    try:
        yield
    finally:
        _ALEMBIC.release()


def _up_to(scripts: ScriptDirectory, at: tuple[str, ...]) -> set[str]:
    scripts.get_revisions(at)  # raises, for an unknown revision, the error that `explain` translates
    return {script.revision for script in scripts.iterate_revisions(at, "base")} if at else set()


def _entry(script: Script, applied: set[str] | None) -> HistoryEntry:
    follows = script.down_revision or ()
    return HistoryEntry(
        revision=script.revision,
        follows=(follows,) if isinstance(follows, str) else tuple(follows),
        message=script.doc,
        is_head=script.is_head,
        is_applied=None if applied is None else script.revision in applied,
    )


def _check_is_up(scripts: ScriptDirectory, revision: str, at: tuple[str, ...]) -> None:
    """Check that a revision is not older than the database's: Alembic would do nothing and report success.

    Raises:
        ConfigurationError: The revision is older.
    """
    is_back = revision == "base" or revision.startswith("-")
    if not is_back and _PLAIN.fullmatch(revision) and revision not in _HEADS:
        target = scripts.get_revision(revision)
        is_back = target.revision not in at and target.revision in _up_to(scripts, at)
    if is_back and not at:
        raise ConfigurationError(
            f"the revision of an upgrade must be a revision to upgrade to, such as head, got {revision}"
        )
    if is_back:
        raise ConfigurationError(
            f"the revision of an upgrade must not be older than {', '.join(at)}, got {revision}",
            hint="no downgrade is necessary: an older release runs on the newer schema. `thea-db downgrade` deletes"
            " tables and columns with their data",
        )
