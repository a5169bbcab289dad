"""Back up and restore: pg_dump's archive of one snapshot, with a manifest of its rows beside it, and the comparison."""

from __future__ import annotations

import asyncio
import hashlib
import json
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from secrets import token_hex
from typing import Any, Final

import asyncpg

from src.config import Settings
from src.database.connect import command_connection
from src.database.drift import temporary_database
from src.database.engine import SEES_EVERY_ROW
from src.database.errors import ConfigurationError
from src.database.migrate import REVOKE_WRITES
from src.database.operations.programs import find_program
from src.database.session import reach_target, resolve_target
from src.database.target import Target

FORMAT: Final = 1
_SHOWN: Final = 3
_TRANSACTION_TIMEOUT: Final = 17
"""The first major version whose pg_restore sets transaction_timeout, whatever the server."""

# The extension creates its own tables and their rows.
_TABLES: Final = """
SELECT format('%I.%I', nspname, relname) AS name, relrowsecurity AS row_security, relforcerowsecurity AS forced,
       pg_catalog.row_security_active(pg_class.oid) AS binds_us,
       EXISTS (SELECT FROM pg_catalog.pg_attribute
                WHERE attrelid = pg_class.oid AND attname = 'tenant_id' AND NOT attisdropped) AS has_tenants,
       ARRAY(SELECT polname || ' for ' || polcmd::text FROM pg_catalog.pg_policy
              WHERE polrelid = pg_class.oid ORDER BY 1) AS policies
  FROM pg_catalog.pg_class JOIN pg_catalog.pg_namespace ON pg_namespace.oid = relnamespace
 WHERE relkind IN ('r', 'p') AND relpersistence <> 't' AND nspname !~ '^pg_' AND nspname <> 'information_schema'
   AND NOT EXISTS (SELECT FROM pg_catalog.pg_depend
                    WHERE classid = 'pg_catalog.pg_class'::regclass AND objid = pg_class.oid AND deptype = 'e')
 ORDER BY 1
"""
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
class Table:
    """The rows of a table, of all tenants, and its row-level security."""

    rows: int
    row_security: bool
    forced: bool
    policies: list[str]

    def describe_row_security(self) -> str:
        """Return the state of row-level security in words."""
        if not self.row_security:
            return "off"
        return "forced" if self.forced else "on, and not for the owner"


@dataclass(frozen=True, slots=True, kw_only=True)
class Manifest:
    """The content of the file beside an archive, `<archive>.json`."""

    database: str
    server_version: int
    """The major version."""
    program_version: int
    """The major version of pg_dump."""
    taken_at: str
    """ISO 8601, by the server's clock."""
    revision: str | None
    sha256: str
    """The digest of the archive."""
    tables: dict[str, Table]
    format: int = FORMAT

    @property
    def rows(self) -> int:
        """The rows of all tables."""
        return sum(table.rows for table in self.tables.values())

    def as_json(self) -> str:
        """Return the text of the file."""
        return json.dumps(asdict(self), indent=2, ensure_ascii=False) + "\n"


@dataclass(frozen=True, slots=True, kw_only=True)
class Restored:
    """The result of `restore`."""

    manifest: Manifest | None
    """None: the archive has no manifest, so that nothing could be compared."""
    differences: list[str]
    application_lacks_rights: bool


async def back_up(settings: Settings, archive: Path, *, programs: Path | None = None) -> Manifest:
    """Back up the whole database into a file that its owner alone may read; there is no file before it is complete.

    Args:
        settings: DATABASE_BACKUP_URL, or DATABASE_ADMIN_URL, names the role that reads.
        archive: The file; it must not exist.
        programs: The folder of pg_dump.

    Raises:
        ConfigurationError: Row-level security binds the role, the file exists, or no pg_dump is suitable.
        ConnectionFailed: The server cannot be reached.
        DatabaseError: pg_dump failed.
    """
    archive = _new_archive(archive)
    target = await reach_target(settings, "backup")
    async with command_connection(target) as connection:
        await _check_sees_every_row(connection, target)
        major = connection.get_server_version().major
        program = find_program("pg_dump", at_least=major, folder=programs, target=target)
        async with connection.transaction(isolation="repeatable_read", readonly=True):
            snapshot = await connection.fetchval("SELECT pg_export_snapshot()")
            manifest = Manifest(
                database=target.database,
                server_version=major,
                program_version=program.major,
                taken_at=(await connection.fetchval("SELECT now()")).isoformat(),
                revision=await _revision(connection),
                sha256="",
                tables=await _read_tables(connection),
            )
            with _temporary_file(archive) as file:
                arguments = ("--format=custom", f"--snapshot={snapshot}", "--no-password", f"--file={file}")
                await program.run(target, *arguments)
                manifest = replace(manifest, sha256=await asyncio.to_thread(_digest, file))
                with _temporary_file(_manifest_path(archive)) as beside:
                    beside.write_text(manifest.as_json(), encoding="utf-8")
                    # The archive last: if it exists, both are complete.
                    beside.rename(_manifest_path(archive))
                    file.rename(archive)
    return manifest


async def verify_backup(
    settings: Settings, archive: Path, manifest: Manifest, *, programs: Path | None = None
) -> list[str]:
    """Restore an archive into a temporary database and return each difference from the manifest.

    Args:
        settings: DATABASE_ADMIN_URL names the server and the role; it may be another server.
        archive: The file that `back_up` wrote.
        manifest: The manifest that it returned.
        programs: The folder of pg_restore.

    Raises:
        ConfigurationError: No pg_restore is suitable, or there is no administrator.
        DatabaseError: The archive cannot be restored.
    """
    archive = _existing_archive(archive)
    target = await reach_target(settings, "administration")
    async with (
        command_connection(target) as connection,
        temporary_database(
            connection, "thea_verify_", variable="DATABASE_ADMIN_URL", options="ENCODING 'UTF8'"
        ) as scratch,
    ):
        return await _restore_into(replace(target, database=scratch), archive, manifest, programs)


async def restore(settings: Settings, archive: Path, *, programs: Path | None = None) -> Restored:
    """Restore a backup into the database that the settings name, which has to be empty; all of it, or nothing.

    The owner (DATABASE_MIGRATION_URL) will own what is restored; the application gets its rights by the default
    privileges that `bootstrap` sets, but for the right to write `alembic_version`.

    Args:
        settings: The database.
        archive: A file of `back_up`, or of pg_dump in its custom format.
        programs: The folder of pg_restore.

    Raises:
        ConfigurationError: The file is none or has changed, the database is not empty, or no pg_restore is suitable.
        ConnectionFailed: The server cannot be reached.
        DatabaseError: pg_restore failed; the database is as it was.
    """
    archive = _existing_archive(archive)
    manifest = read_manifest(archive)
    if manifest is not None and await asyncio.to_thread(_digest, archive) != manifest.sha256:
        raise ConfigurationError(
            f"{archive} is not what was backed up: its SHA-256 is another than the one beside it",
            hint="it was cut short or changed: take another copy",
        )
    target = await reach_target(settings, "migrations")
    async with command_connection(target) as connection:
        await _check_is_empty(connection, target)
    differences = await _restore_into(target, archive, manifest, programs)
    async with command_connection(target) as connection:
        await connection.execute(REVOKE_WRITES)
        lacking = await connection.fetchval(_LACKING, resolve_target(settings).user)
    return Restored(manifest=manifest, differences=differences, application_lacks_rights=lacking > 0)


def read_manifest(archive: Path) -> Manifest | None:
    """Return the manifest of an archive; None if there is none.

    Raises:
        ConfigurationError: The file beside the archive is no manifest, or one of a later release.
    """
    path = _manifest_path(archive)
    try:
        document = json.loads(path.read_text(encoding="utf-8"))
        tables = {name: Table(**table) for name, table in document.pop("tables").items()}
        manifest = Manifest(**document, tables=tables)
    except FileNotFoundError:
        return None
    except (OSError, ValueError, TypeError, KeyError, AttributeError) as error:
        raise ConfigurationError(f"{path} must be the manifest of a backup: {type(error).__name__}") from None
    if manifest.format != FORMAT:
        raise ConfigurationError(
            f"{path} is of format {manifest.format}, and this release reads {FORMAT}",
            hint="take the release of thea-database that made the backup, or a later one",
        )
    return manifest


def compare(expected: Mapping[str, Table], found: Mapping[str, Table]) -> list[str]:
    """Return each difference in words."""
    differences = [f"{name} is missing" for name in expected if name not in found]
    differences += [f"{name} was not in the backup" for name in found if name not in expected]
    for name in expected.keys() & found.keys():
        before, after = expected[name], found[name]
        if before.rows != after.rows:
            differences.append(f"{name} has {after.rows:,} rows, and had {before.rows:,}")
        was, is_now = before.describe_row_security(), after.describe_row_security()
        if (before.row_security, before.forced) != (after.row_security, after.forced):
            differences.append(f"{name}: row-level security is {is_now}, and was {was}")
        if before.policies != after.policies:
            differences.append(f"{name} has the policies {after.policies}, and had {before.policies}")
    return sorted(differences)


async def _restore_into(target: Target, archive: Path, manifest: Manifest | None, programs: Path | None) -> list[str]:
    """Restore into an empty database, gather its statistics, and return each difference from the manifest."""
    async with command_connection(target) as connection:
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
        str(archive),
    )
    async with command_connection(target) as connection:
        return await _compare_restored(connection, manifest)


async def _compare_restored(connection: asyncpg.Connection[Any], manifest: Manifest | None) -> list[str]:
    """Compare with the manifest and gather statistics; what the count changes is rolled back."""
    transaction = connection.transaction()
    await transaction.start()
    try:
        unguarded = [
            row["name"]
            for row in await connection.fetch(_TABLES)
            if row["has_tenants"] and not (row["row_security"] and row["forced"] and row["policies"])
        ]
        found = await _read_tables(connection)
    finally:
        await transaction.rollback()
    for name in found:
        await connection.execute(f"ANALYZE {name}")
    differences = [f"{name} has tenants' rows, and row-level security is not forced on it" for name in unguarded]
    return differences + (compare(manifest.tables, found) if manifest else [])


async def _read_tables(connection: asyncpg.Connection[Any]) -> dict[str, Table]:
    """Count the rows of every table, of all tenants, in the open transaction.

    A role that row-level security binds has to be the owner, for whom FORCE is lifted: the caller rolls that back.
    """
    found = {}
    for row in await connection.fetch(_TABLES):
        if row["binds_us"]:
            await connection.execute(f"ALTER TABLE {row['name']} NO FORCE ROW LEVEL SECURITY")
        found[row["name"]] = Table(
            rows=await connection.fetchval(f"SELECT count(*) FROM {row['name']}"),  # noqa: S608 - quoted by the server
            row_security=row["row_security"],
            forced=row["forced"],
            policies=list(row["policies"]),
        )
    return found


async def _check_sees_every_row(connection: asyncpg.Connection[Any], target: Target) -> None:
    if await connection.fetchval(SEES_EVERY_ROW):
        return
    raise ConfigurationError(
        f"{target.user} must be a superuser or have BYPASSRLS: row-level security binds it, so that a backup would lack"
        " rows",
        hint="name another role in DATABASE_BACKUP_URL: `thea-db bootstrap` makes it. Where the provider gives"
        " BYPASSRLS to nobody, back up by the provider's snapshots",
    )


async def _check_is_empty(connection: asyncpg.Connection[Any], target: Target) -> None:
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


async def _revision(connection: asyncpg.Connection[Any]) -> str | None:
    if not await connection.fetchval("SELECT to_regclass('public.alembic_version') IS NOT NULL"):
        return None
    rows = await connection.fetch("SELECT version_num FROM public.alembic_version ORDER BY 1")
    return ",".join(row[0] for row in rows) or None


def _new_archive(archive: Path) -> Path:
    """Return the absolute path of an archive whose folder exists, and that does not exist itself."""
    archive = archive.absolute()
    if not archive.parent.is_dir():
        raise ConfigurationError(f"the backup's folder must be there, got {str(archive.parent)!r}")
    for path in (archive, _manifest_path(archive)):
        if path.exists():
            raise ConfigurationError(
                f"the backup's file must not be there yet, got {str(path)!r}",
                hint="name another file, by the time for example",
            )
    return archive


def _existing_archive(archive: Path) -> Path:
    """Return the absolute path of an archive: the programs run in another folder, and take a dash for an option."""
    if not archive.is_file():
        raise ConfigurationError(f"the backup must be a file, got {str(archive)!r}")
    return archive.absolute()


def _manifest_path(archive: Path) -> Path:
    return archive.with_name(f"{archive.name}.json")


@contextmanager
def _temporary_file(place: Path) -> Iterator[Path]:
    """Create a file beside a path that its owner alone may read; delete it at the end unless it was renamed."""
    file = place.with_name(f".{place.name}.{token_hex(4)}.part")
    try:
        os.close(os.open(file, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o600))
    except OSError as error:
        raise ConfigurationError(f"nothing can be written into {place.parent}: {type(error).__name__}") from error
    try:
        yield file
    finally:
        file.unlink(missing_ok=True)


def _digest(archive: Path) -> str:
    with archive.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _conninfo(database: str) -> str:
    """Return a database's name as a parameter that no character of the name ends."""
    escaped = database.replace("\\", "\\\\").replace("'", "\\'")
    return f"dbname='{escaped}'"
