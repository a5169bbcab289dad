"""restore: pg_restore into an empty database, in one transaction, and then a look whether all of it is there."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import asyncpg

from src.config import Settings
from src.database.errors import ConfigurationError
from src.database.migrate.version_table import REVOKE_WRITES
from src.database.operations.administration import open_connection, reach_target
from src.database.operations.archive import Manifest, compare, digest, read_manifest, read_tables, unguarded
from src.database.operations.programs import find_program
from src.database.resolve import resolve_target
from src.database.target import Target

__all__ = ["Restored", "restore", "restore_into"]

_SHOWN: Final = 3
_TRANSACTION_TIMEOUT: Final = 17
"""The first major whose pg_restore sets it, whatever the server."""
_OBJECTS: Final = """
SELECT name FROM (
    SELECT 'pg_catalog.pg_class'::regclass, oid, relnamespace, relname FROM pg_catalog.pg_class
     WHERE relkind IN ('r', 'p', 'v', 'm', 'S', 'f') AND relpersistence <> 't'
    UNION ALL
    SELECT 'pg_catalog.pg_proc'::regclass, oid, pronamespace, proname FROM pg_catalog.pg_proc)
       AS object (kind, oid, home, name)
 WHERE home NOT IN (SELECT oid FROM pg_catalog.pg_namespace WHERE nspname ~ '^pg_' OR nspname = 'information_schema')
   AND NOT EXISTS (SELECT FROM pg_catalog.pg_depend
                    WHERE classid = kind AND objid = object.oid AND deptype = 'e')
 ORDER BY name
"""
_LACKING: Final = """
SELECT count(*) FROM pg_catalog.pg_class
 WHERE relnamespace = 'public'::regnamespace AND relkind IN ('r', 'p') AND relname <> 'alembic_version'
   AND EXISTS (SELECT FROM pg_catalog.pg_roles WHERE rolname = $1)
   AND NOT (pg_catalog.has_table_privilege($1, oid, 'SELECT') AND pg_catalog.has_table_privilege($1, oid, 'INSERT'))
"""


@dataclass(frozen=True, slots=True, kw_only=True)
class Restored:
    """What came of it."""

    manifest: Manifest | None
    """None: nothing was written down beside the archive, so that nothing could be compared."""
    differences: list[str]
    application_lacks_rights: bool


async def restore(settings: Settings, archive: Path, *, programs: Path | None = None) -> Restored:
    """Restore a backup into the database that the settings name, which has to be empty; all of it, or nothing.

    What is restored is the owner's (DATABASE_MIGRATION_URL), whoever owned it; the application gets its rights by the
    default privileges that `bootstrap` sets, but for the right to write `alembic_version`.

    Args:
        settings: Where to.
        archive: What `back_up` wrote, or pg_dump in its custom format.
        programs: The folder of pg_restore.

    Raises:
        ConfigurationError: The file is none or has changed, the database is not empty, or no pg_restore serves.
        ConnectionFailed: The server cannot be reached.
        DatabaseError: pg_restore failed; the database is as it was.
    """
    _check_file(archive)
    manifest = read_manifest(archive)
    if manifest is not None and await asyncio.to_thread(digest, archive) != manifest.sha256:
        raise ConfigurationError(
            f"{archive} is not what was backed up: its SHA-256 is another than the one beside it",
            hint="it was cut short or changed: take another copy",
        )
    target = await reach_target(settings, "migrations")
    async with open_connection(target) as connection:
        await _refuse_what_is_not_empty(connection, target)
    differences = await restore_into(target, archive, manifest, programs=programs)
    async with open_connection(target) as connection:
        await connection.execute(REVOKE_WRITES)
        lacking = await connection.fetchval(_LACKING, resolve_target(settings).user)
    return Restored(manifest=manifest, differences=differences, application_lacks_rights=lacking > 0)


async def restore_into(
    target: Target, archive: Path, manifest: Manifest | None, *, programs: Path | None = None
) -> list[str]:
    """Restore into an empty database, gather its statistics, and name each difference from what was written down.

    Raises:
        ConfigurationError: The server is older than the backup's, or no pg_restore serves.
        DatabaseError: pg_restore failed; the database is as it was.
    """
    async with open_connection(target) as connection:
        major = connection.get_server_version().major
    if manifest is not None and manifest.server_version > major:
        raise ConfigurationError(
            f"the backup is of PostgreSQL {manifest.server_version}, and cannot be restored into {major}",
            hint="a backup goes into the same major version or a later one",
        )
    oldest = max(major, manifest.program_version if manifest else 0)
    program = find_program("pg_restore", at_least=oldest, folder=programs, target=target)
    if major < _TRANSACTION_TIMEOUT <= program.major:
        raise ConfigurationError(
            f"{program} sets what PostgreSQL {major} does not know (transaction_timeout)",
            hint=f"back up and restore by programs of PostgreSQL {major}, or below {_TRANSACTION_TIMEOUT}: --bin",
        )
    await program.run(
        target,
        "--single-transaction",
        "--exit-on-error",
        "--no-owner",
        "--no-privileges",
        "--no-password",
        f"--dbname={_conninfo(target.database)}",
        _argument(archive),
    )
    async with open_connection(target) as connection:
        return await _look(connection, manifest)


async def _look(connection: asyncpg.Connection[Any], manifest: Manifest | None) -> list[str]:
    """Compare, with FORCE lifted where it binds us: nobody sees that, and it is rolled back."""
    transaction = connection.transaction()
    await transaction.start()
    try:
        open_tables = await unguarded(connection)
        found = await read_tables(connection)
    finally:
        await transaction.rollback()
    for name in found:
        await connection.execute(f"ANALYZE {name}")
    differences = [f"{name} has tenants' rows, and row-level security is not forced on it" for name in open_tables]
    return differences + (compare(manifest.tables, found) if manifest else [])


async def _refuse_what_is_not_empty(connection: asyncpg.Connection[Any], target: Target) -> None:
    names = [row["name"] for row in await connection.fetch(_OBJECTS)]
    if names:
        more = f" and {len(names) - _SHOWN} more" if len(names) > _SHOWN else ""
        raise ConfigurationError(
            f"the database {target.database} must be empty, and has {', '.join(names[:_SHOWN])}{more}",
            hint="restore into a database of another name, made by `thea-db bootstrap`, and then change the settings",
        )
    if not await connection.fetchval("SELECT has_schema_privilege('public', 'CREATE')"):
        raise ConfigurationError(
            f"{target.user} may not create tables in {target.database}",
            hint="name its owner in DATABASE_MIGRATION_URL; `thea-db bootstrap` makes both",
        )


def _check_file(archive: Path) -> None:
    if not archive.is_file():
        raise ConfigurationError(f"the backup must be a file, got {str(archive)!r}")


def _argument(archive: Path) -> str:
    """Name a file to a program that works in another folder, and that takes a dash for an option."""
    return str(archive.absolute())


def _conninfo(database: str) -> str:
    """Name a database so that nothing in its name is taken for a parameter."""
    escaped = database.replace("\\", "\\\\").replace("'", "\\'")
    return f"dbname='{escaped}'"
