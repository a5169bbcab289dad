"""Upgrade and downgrade a database, and report its revisions; the migrations are the checkout's or the wheel's."""

from __future__ import annotations

import asyncio
import re
from collections.abc import AsyncIterator, Callable, Iterator
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
from src.database.migrate.lock import Patience, migration_connection
from src.database.migrate.retry import APPLIED, CONNECTION, PATIENCE, Step
from src.database.migrate.revision_status import Revision, check_origin, move_version_table
from src.database.migrate.scripts import alembic_config, explain, is_checkout, script_directory

POLL_SECONDS: Final = 0.05
_ALEMBIC: Final = Lock()
"""`alembic.op` and `alembic.context` are global in the process: without the lock, the operations of two concurrent
migrations of two databases would go to one of them."""
_PLAIN: Final = re.compile(r"\w+")


@dataclass(frozen=True, slots=True, kw_only=True)
class Migrated:
    """The revisions of a database before and after a migration, and its steps.

    Args:
        before: The revisions before the migration; empty if there was no schema.
        after: The revisions after the migration.
        steps: The migrations that this call applied or reverted, in this order. Those of a concurrent migrator are not
            among them.
    """

    before: tuple[str, ...]
    after: tuple[str, ...]
    steps: tuple[Step, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class HistoryEntry:
    """A migration of this installation.

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
    settings: Settings, revision: str = "head", *, folder: Path | None = None, patience: Patience | None = None
) -> Migrated:
    """Upgrade a database to a revision; do nothing if the database is at that revision.

    Args:
        settings: The settings that name the database.
        revision: A revision, ``head``, or ``+1`` and so on.
        folder: A folder of further revisions.
        patience: How long to wait for other migrators and for locks.

    Raises:
        ConfigurationError: The revision is unknown or older than the database's, the target is invalid, or other
            migrations made the database.
        ConnectionFailed: The database cannot be reached.
        LockNotAvailable: Another session has been migrating, or has used a table, for too long.
    """

    def act(config: Config, at: tuple[str, ...]) -> None:
        _check_is_up(ScriptDirectory.from_config(config), revision, at)
        command.upgrade(config, revision)

    return await _migrate(settings, act, folder, patience)


async def downgrade(
    settings: Settings, revision: str, *, folder: Path | None = None, patience: Patience | None = None
) -> Migrated:
    """Revert migrations: drop the tables and columns that they created, with the data in them.

    Args:
        settings: The settings that name the database.
        revision: The newest revision to keep, ``-1`` and so on, or ``base`` to keep none.
        folder: A folder of further revisions.
        patience: How long to wait for other migrators and for locks.

    Raises:
        ConfigurationError: The revision is unknown, or the database is not newer.
        ConnectionFailed: The database cannot be reached.
        LockNotAvailable: Another session has been migrating, or has used a table, for too long.
    """
    return await _migrate(settings, lambda config, _at: command.downgrade(config, revision), folder, patience)


async def stamp(
    settings: Settings, revision: str, *, folder: Path | None = None, patience: Patience | None = None
) -> Migrated:
    """Record a revision without running a migration; the schema must already be at this revision.

    Args:
        settings: The settings that name the database.
        revision: The revision to record.
        folder: A folder of further revisions.
        patience: How long to wait for other migrators.

    Returns:
        The revisions recorded before and after, without steps.

    Raises:
        ConfigurationError: The revision is unknown.
        ConnectionFailed: The database cannot be reached.
        LockNotAvailable: Another session has been migrating for too long.
    """
    stamped = await _migrate(settings, lambda config, _at: command.stamp(config, revision), folder, patience)
    return replace(stamped, steps=())


async def current(settings: Settings) -> tuple[str, ...]:
    """Return the revisions of a database; empty if there is no schema. A running migration is not waited for.

    Raises:
        ConfigurationError: Other migrations than this package's made the database.
        ConnectionFailed: The database cannot be reached.
    """

    def read(connection: Connection) -> tuple[str, ...]:
        return _revisions(check_origin(connection))

    async with migration_connection(settings, exclusive=False) as connection:
        return await connection.run_sync(read)


async def history(settings: Settings | None = None, *, folder: Path | None = None) -> list[HistoryEntry]:
    """Return the migrations of this installation, the newest first.

    Args:
        settings: The settings that name a database, which is queried for its revisions; None queries no database.
        folder: A folder of further revisions.

    Raises:
        ConfigurationError: The database is at a revision that this installation does not have.
        ConnectionFailed: The database cannot be reached.
    """
    at = None if settings is None else await current(settings)
    scripts = script_directory(folder)
    with _explained(folder):
        applied = None if at is None else _up_to(scripts, at)
        return [_entry(script, applied) for script in scripts.walk_revisions()]


async def revision(settings: Settings, message: str, *, autogenerate: bool = False, folder: Path | None = None) -> Path:
    """Write a new migration, which follows the newest one, from the template; return the path of the file.

    Args:
        settings: With `autogenerate`, the settings that name the database with which the models are compared. It must
            be at the newest revision.
        message: A description: the first line of the file, and part of its name.
        autogenerate: Fill the migration with the difference between the models and the database, as far as Alembic
            compares them.
        folder: The folder of the file, for a draft; by default the folder of the checkout.

    Raises:
        ConfigurationError: No folder is named in an installed release, or the database is not at the newest revision.
        ConnectionFailed: The database cannot be reached.
    """
    if folder is None and not is_checkout():
        raise ConfigurationError(
            "a new migration must be in a checkout: the next release would delete a migration in the installed package,"
            " and no other machine would have it",
            hint="work in the checkout, or name a folder of your own for a draft (`--folder`)",
        )
    config = alembic_config(folder)

    def write(_connection: object = None) -> Path:
        version_path = None if folder is None else str(folder.absolute())
        written = command.revision(config, message, autogenerate=autogenerate, version_path=version_path)
        assert isinstance(written, Script)  # noqa: S101 - Alembic returns a list only if several were requested
        return Path(written.path)

    with _explained(folder):
        if not autogenerate:
            return write()
        async with migration_connection(settings) as connection, _exclusive_alembic():
            config.attributes[CONNECTION] = connection.sync_connection
            return await connection.run_sync(write)


async def sql(revisions: str = "head", *, down: bool = False, folder: Path | None = None) -> str:
    """Return the SQL of migrations, to be run by psql; no database is queried.

    Args:
        revisions: The last revision; or ``<from>:<to>``, for a database that is at the revision ``<from>``.
        down: Return the SQL of the downgrade, which needs ``<from>:<to>``.
        folder: A folder of further revisions.

    Raises:
        ConfigurationError: A revision is unknown.
        DatabaseError: A migration cannot be written as SQL.
    """
    config = alembic_config(folder)
    config.output_buffer = StringIO()
    async with _exclusive_alembic():
        with _explained(folder):
            (command.downgrade if down else command.upgrade)(config, revisions, sql=True)
    return config.output_buffer.getvalue()


async def _migrate(
    settings: Settings,
    act: Callable[[Config, tuple[str, ...]], None],
    folder: Path | None,
    patience: Patience | None,
) -> Migrated:
    config = alembic_config(folder)
    steps: list[Step] = []
    config.attributes.update({APPLIED: steps, PATIENCE: patience})

    def run(connection: Connection) -> Migrated:
        before = _revisions(check_origin(connection))
        move_version_table(connection)
        config.attributes[CONNECTION] = connection
        act(config, before)
        return Migrated(before=before, after=_revisions(check_origin(connection)), steps=tuple(steps))

    with _explained(folder):
        async with migration_connection(settings, patience=patience) as connection, _exclusive_alembic():
            return await connection.run_sync(run)


@contextmanager
def _explained(folder: Path | None) -> Iterator[None]:
    """Translate the errors of Alembic."""
    try:
        yield
    except CommandError as error:
        raise explain(error, folder) from error


@asynccontextmanager
async def _exclusive_alembic() -> AsyncIterator[None]:
    """Exclude the other migrations of this process, whatever their thread and event loop."""
    while not _ALEMBIC.acquire(blocking=False):  # noqa: ASYNC110 - an asyncio.Event is of one event loop
        await asyncio.sleep(POLL_SECONDS)
    try:
        yield
    finally:
        _ALEMBIC.release()


def _revisions(revision: Revision) -> tuple[str, ...]:
    return tuple(revision.database.split(",")) if revision.database else ()


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
    if not is_back and _PLAIN.fullmatch(revision) and revision not in {"head", "heads"}:
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
