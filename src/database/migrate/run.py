"""Brings the schema to a revision, and says at which one it is: from the checkout or from the wheel."""

from __future__ import annotations

import asyncio
import re
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from io import StringIO
from pathlib import Path
from threading import Lock
from typing import Final

from alembic import command
from alembic.config import Config
from alembic.migration import MigrationContext
from alembic.script import Script, ScriptDirectory
from alembic.util import CommandError
from sqlalchemy import Connection

from src.config import Settings
from src.database.errors import ConfigurationError
from src.database.migrate.lock import Patience, migration_connection
from src.database.migrate.retry import APPLIED, CONNECTION, PATIENCE, Step
from src.database.migrate.revision_status import check_origin
from src.database.migrate.scripts import alembic_config, explain, is_checkout, script_directory

__all__ = ["HistoryEntry", "Migrated", "current", "downgrade", "history", "revision", "sql", "stamp", "upgrade"]

POLL_SECONDS: Final = 0.05
_ALEMBIC: Final = Lock()
"""`alembic.op` and `alembic.context` are the process's: who runs migrations there is alone, whatever the database."""
_PLAIN: Final = re.compile(r"\w+")


@dataclass(frozen=True, slots=True, kw_only=True)
class Migrated:
    """Where the database was and is, and what was done in between.

    Args:
        before: The revisions it was at: none where there was no schema.
        after: Those that it is at.
        steps: What was applied or taken back, in this order; by this call, and not by another migrator before it.
    """

    before: tuple[str, ...]
    after: tuple[str, ...]
    steps: tuple[Step, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class HistoryEntry:
    """One migration of this installation.

    Args:
        revision: Its name.
        follows: What it comes after: none for the first.
        message: What it does.
        is_head: Nothing comes after it.
        is_applied: The database has it; None where the database was not asked.
    """

    revision: str
    follows: tuple[str, ...]
    message: str
    is_head: bool
    is_applied: bool | None


async def upgrade(
    settings: Settings, revision: str = "head", *, folder: Path | None = None, patience: Patience | None = None
) -> Migrated:
    """Bring the database that the settings name up to a revision; does nothing where it is there already.

    Args:
        settings: Where to.
        revision: A revision, ``head``, or ``+1`` and so on.
        folder: Has further revisions.
        patience: How long to wait for other migrators and for locks.

    Raises:
        ConfigurationError: The revision is unknown or lies behind the database's, or the target cannot be right.
        ConnectionFailed: The database cannot be reached.
        LockNotAvailable: Somebody else has been migrating, or has used a table, for too long.
    """

    def act(config: Config, at: tuple[str, ...]) -> None:
        _check_that_it_is_up(ScriptDirectory.from_config(config), revision, at)
        command.upgrade(config, revision)

    return await _migrate(settings, act, folder, patience)


async def downgrade(
    settings: Settings, revision: str, *, folder: Path | None = None, patience: Patience | None = None
) -> Migrated:
    """Take migrations back, with all the data that only they have room for.

    Args:
        settings: Where to.
        revision: The newest that stays, ``-1`` and so on, or ``base`` for none.
        folder: Has further revisions.
        patience: How long to wait for other migrators and for locks.

    Raises:
        ConfigurationError: The revision is unknown, or the database is not past it.
        ConnectionFailed: The database cannot be reached.
        LockNotAvailable: Somebody else has been migrating, or has used a table, for too long.
    """
    return await _migrate(settings, lambda config, _at: command.downgrade(config, revision), folder, patience)


async def stamp(
    settings: Settings, revision: str, *, folder: Path | None = None, patience: Patience | None = None
) -> Migrated:
    """Record a revision in alembic_version, and run no migration: the schema has to be at this revision already.

    Returns:
        The revisions that were and are recorded, without steps.

    Raises:
        ConfigurationError: The revision is unknown.
        ConnectionFailed: The database cannot be reached.
        LockNotAvailable: Somebody else has been migrating for too long.
    """
    stamped = await _migrate(settings, lambda config, _at: command.stamp(config, revision), folder, patience)
    return replace(stamped, steps=())


async def current(settings: Settings) -> tuple[str, ...]:
    """Return the revisions that the database is at: none where there is no schema. It waits for no migration.

    Raises:
        ConfigurationError: Other migrations than this package's made the database.
        ConnectionFailed: The database cannot be reached.
    """
    async with migration_connection(settings, alone=False) as connection:
        return await connection.run_sync(_read_own_heads)


async def history(settings: Settings | None = None, *, folder: Path | None = None) -> list[HistoryEntry]:
    """Return the migrations of this installation, the newest first.

    Args:
        settings: The database to ask which of them it has; by default it is not asked.
        folder: Has further revisions.

    Raises:
        ConfigurationError: The database is at a revision that is not among them.
        ConnectionFailed: The database cannot be reached.
    """
    at = None if settings is None else await current(settings)
    scripts = script_directory(folder)
    try:
        applied = None if at is None else _up_to(scripts, at)
        return [_entry(script, applied) for script in scripts.walk_revisions()]
    except CommandError as error:
        raise explain(error, folder) from error


async def revision(settings: Settings, message: str, *, autogenerate: bool = False, folder: Path | None = None) -> Path:
    """Write a new migration from the template, after the newest one; returns the file.

    Args:
        settings: The database that the models are compared with, which must be at the newest revision.
        message: What it does: the first line of the file, and part of its name.
        autogenerate: Fill it with the difference between the models and the database, as far as Alembic sees it.
        folder: Where to; by default among the checkout's own. What is tried here belongs there in the end.

    Raises:
        ConfigurationError: This is an installed release, and there is no folder; or the database is not up to date.
        ConnectionFailed: The database cannot be reached.
    """
    if folder is None and not is_checkout():
        raise ConfigurationError(
            "the migrations of an installed package are the release's: a new one there would be lost with the next"
            " release, and known to no other machine",
            hint="work in the checkout, or name a folder of your own for a draft (`--folder`)",
        )
    config = alembic_config(folder)

    def write() -> Path:
        place = None if folder is None else str(folder.absolute())
        made = command.revision(config, message, autogenerate=autogenerate, version_path=place)
        assert isinstance(made, Script)  # noqa: S101 - one was asked for
        return Path(made.path)

    try:
        if not autogenerate:
            return write()
        async with migration_connection(settings) as connection, _alembic_to_itself():
            config.attributes[CONNECTION] = connection.sync_connection
            return await connection.run_sync(lambda _connection: write())
    except CommandError as error:
        raise explain(error, folder) from error


async def sql(revisions: str = "head", *, down: bool = False, folder: Path | None = None) -> str:
    """Return the SQL of migrations, for somebody else to run; no database is asked.

    Args:
        revisions: Up to which; ``<from>:<to>`` for a database that is at the former.
        down: Of taking them back; it needs ``<from>:<to>``.
        folder: Has further revisions.

    Raises:
        ConfigurationError: A revision is unknown.
        DatabaseError: A migration cannot be written as SQL.
    """
    written = StringIO()
    config = alembic_config(folder)
    config.output_buffer = written
    async with _alembic_to_itself():
        try:
            (command.downgrade if down else command.upgrade)(config, revisions, sql=True)
        except CommandError as error:
            raise explain(error, folder) from error
    return written.getvalue()


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
        before = _read_heads(connection)
        check_origin(connection, before)
        config.attributes[CONNECTION] = connection
        act(config, before)
        return Migrated(before=before, after=_read_heads(connection), steps=tuple(steps))

    try:
        async with migration_connection(settings, patience=patience) as connection, _alembic_to_itself():
            return await connection.run_sync(run)
    except CommandError as error:
        raise explain(error, folder) from error


@asynccontextmanager
async def _alembic_to_itself() -> AsyncIterator[None]:
    """Wait for the other migrations of this process, in whichever thread and event loop they run."""
    while not _ALEMBIC.acquire(blocking=False):  # noqa: ASYNC110 - who holds it may be of another loop
        await asyncio.sleep(POLL_SECONDS)
    try:
        yield
    finally:
        _ALEMBIC.release()


def _read_heads(connection: Connection) -> tuple[str, ...]:
    heads = MigrationContext.configure(connection).get_current_heads()
    connection.rollback()  # of a read
    return tuple(sorted(heads))


def _read_own_heads(connection: Connection) -> tuple[str, ...]:
    at = _read_heads(connection)
    check_origin(connection, at)
    return at


def _up_to(scripts: ScriptDirectory, at: tuple[str, ...]) -> set[str]:
    scripts.get_revisions(at)  # of one that is unknown it says so in words that are translated
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


def _check_that_it_is_up(scripts: ScriptDirectory, asked: str, at: tuple[str, ...]) -> None:
    """Alembic does nothing where the way is down, and calls that done.

    Raises:
        ConfigurationError: The way is down.
    """
    is_back = asked == "base" or asked.startswith("-")
    if not is_back and _PLAIN.fullmatch(asked) and asked not in {"head", "heads"}:
        target = scripts.get_revision(asked)
        is_back = target.revision not in at and target.revision in _up_to(scripts, at)
    if is_back:
        raise ConfigurationError(
            f"upgrade goes up, and {asked} lies behind {', '.join(at) or 'an empty database'}",
            hint="nothing has to be taken back: an older release runs on the newer schema. `thea-db downgrade` drops"
            " tables and columns with their data",
        )
