"""Back up and restore a database: an archive of pg_dump, and a manifest of the rows of the same snapshot beside it."""

from __future__ import annotations

import asyncio
import hashlib
import json
import os
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Final

import asyncpg

from src.config import Settings
from src.database.connect import command_connection
from src.database.drift import temporary_database
from src.database.engine import SEES_EVERY_ROW
from src.database.errors import ConfigurationError
from src.database.migrate import REVOKE_WRITES, revision_of
from src.database.operations.programs import find_program
from src.database.session import reach_target, resolve_target
from src.database.target import Target

FORMAT: Final = 1
_NAMES_IN_ERROR: Final = 3
_TRANSACTION_TIMEOUT: Final = 17
"""The first major version whose pg_restore sets transaction_timeout, which older servers reject."""

# $1: the only schema, or NULL. Without the tables of extensions: CREATE EXTENSION creates them and their rows.
_TABLES: Final = """
SELECT format('%I.%I', nspname, relname) AS name, relrowsecurity AS row_security, relforcerowsecurity AS forced,
       pg_catalog.row_security_active(pg_class.oid) AS hides_rows,
       EXISTS (SELECT FROM pg_catalog.pg_attribute
                WHERE attrelid = pg_class.oid AND attname = 'tenant_id' AND NOT attisdropped) AS has_tenants,
       ARRAY(SELECT polname || ' for ' || polcmd::text FROM pg_catalog.pg_policy
              WHERE polrelid = pg_class.oid ORDER BY 1) AS policies
  FROM pg_catalog.pg_class JOIN pg_catalog.pg_namespace ON pg_namespace.oid = relnamespace
 WHERE relkind IN ('r', 'p') AND relpersistence <> 't' AND nspname !~ '^pg_' AND nspname <> 'information_schema'
   AND ($1::text IS NULL OR nspname = $1)
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
 WHERE home IN (SELECT oid FROM pg_catalog.pg_namespace WHERE nspname !~ '^pg_' AND nspname <> 'information_schema'
                   AND ($1::text IS NULL OR nspname = $1))
   AND NOT EXISTS (SELECT FROM pg_catalog.pg_depend
                    WHERE classid = kind AND objid = object.oid AND deptype = 'e')
 ORDER BY name
"""
_LACKING: Final = """
SELECT count(*) FROM pg_catalog.pg_class
 WHERE relnamespace = to_regnamespace(quote_ident($2)) AND relkind IN ('r', 'p')
   AND relname NOT IN ('thea_alembic_version', 'alembic_version')
   AND EXISTS (SELECT FROM pg_catalog.pg_roles WHERE rolname = $1)
   AND NOT (pg_catalog.has_table_privilege($1, oid, 'SELECT') AND pg_catalog.has_table_privilege($1, oid, 'INSERT'))
"""


@dataclass(frozen=True, slots=True, kw_only=True)
class Table:
    """The rows of a table, of all tenants, and its row-level security.

    Args:
        rows: The number of rows.
        row_security: True if row-level security is enabled.
        forced: True if row-level security applies to the owner of the table too.
        policies: The policies with their commands: ``tenant_isolation for *``.
    """

    rows: int
    row_security: bool
    forced: bool
    policies: list[str]

    def describe_row_security(self) -> str:
        """Return the state of row-level security in words."""
        if not self.row_security:
            return "off"
        return "forced" if self.forced else "on, but not for the owner"


@dataclass(frozen=True, slots=True, kw_only=True)
class Manifest:
    """The content of the file beside an archive, `<archive>.json`.

    Args:
        database: The name of the database.
        server_version: The major version of the server.
        program_version: The major version of pg_dump.
        taken_at: The time of the snapshot by the server's clock, in ISO 8601.
        revision: The revision of the schema; None if none is recorded.
        sha256: The digest of the archive, in hexadecimal.
        tables: The tables by qualified name.
        format: The version of this format.
        schema: The schema to which the backup is limited; None if it is of the whole database.
    """

    database: str
    server_version: int
    program_version: int
    taken_at: str
    revision: str | None
    sha256: str
    tables: dict[str, Table]
    format: int = FORMAT
    schema: str | None = None

    @property
    def rows(self) -> int:
        """The number of rows of all tables."""
        return sum(table.rows for table in self.tables.values())

    def as_json(self) -> str:
        """Return the content of the file."""
        return json.dumps(asdict(self), indent=2, ensure_ascii=False) + "\n"


@dataclass(frozen=True, slots=True, kw_only=True)
class Restored:
    """The result of `restore`.

    Args:
        manifest: The manifest of the archive; None if it has none, in which case only row-level security was checked.
        differences: A sentence for each difference from the manifest.
        application_lacks_rights: True if the application may not read and write each table.
    """

    manifest: Manifest | None
    differences: list[str]
    application_lacks_rights: bool


async def back_up(settings: Settings, archive: Path, *, programs: Path | None = None) -> Manifest:
    """Back up the whole database, or the schema of DATABASE_SCHEMA, into an archive with a manifest beside it.

    Only the owner of the files may read them. The archive appears under its name when it is complete. The rows are
    counted in the snapshot that pg_dump reads.

    Args:
        settings: DATABASE_BACKUP_URL, or DATABASE_ADMIN_URL, names the role that reads.
        archive: The file to create; it must not exist.
        programs: The folder of pg_dump; None searches this machine.

    Raises:
        ConfigurationError: Row-level security applies to the role, the file exists, the schema of DATABASE_SCHEMA has
            no table, or no pg_dump is suitable.
        ConnectionFailed: The server cannot be reached.
        DatabaseError: pg_dump failed.
    """
    archive, schema = _new_archive(archive), settings.DATABASE_SCHEMA
    target = await reach_target(settings, "backup")
    async with command_connection(target) as connection:
        await _check_sees_every_row(connection, target)
        major = connection.get_server_version().major
        program = find_program("pg_dump", at_least=major, folder=programs, target=target)
        # The snapshot is valid for pg_dump as long as the transaction that exported it is open.
        async with connection.transaction(isolation="repeatable_read", readonly=True):
            snapshot = await connection.fetchval("SELECT pg_export_snapshot()")
            manifest = Manifest(
                database=target.database,
                server_version=major,
                program_version=program.major,
                taken_at=(await connection.fetchval("SELECT now()")).isoformat(),
                revision=await _revision(connection),
                sha256="",
                tables=await _read_tables(connection, schema),
                schema=schema,
            )
            if schema is not None and not manifest.tables:
                raise ConfigurationError(
                    f"the schema of DATABASE_SCHEMA, {schema}, must have tables to back up, and has none",
                    hint="`thea-db upgrade` creates them; unset DATABASE_SCHEMA to back up the whole database",
                )
            with _temporary_file(archive) as file:
                arguments = ("--format=custom", f"--snapshot={snapshot}", "--no-password", f"--file={file}")
                await program.run(target, *arguments, *_only(schema))
                manifest = replace(manifest, sha256=await asyncio.to_thread(_digest, file))
                with _temporary_file(_manifest_path(archive)) as manifest_file:
                    manifest_file.write_text(manifest.as_json(), encoding="utf-8")
                    # The archive last: if the archive exists, both files are complete.
                    manifest_file.rename(_manifest_path(archive))
                    file.rename(archive)
    return manifest


async def verify_backup(
    settings: Settings, archive: Path, manifest: Manifest, *, programs: Path | None = None
) -> list[str]:
    """Restore an archive into a temporary database and return each difference from the manifest.

    Args:
        settings: DATABASE_ADMIN_URL names the server, which may be another than the backup's, and the role.
        archive: The archive that `back_up` wrote.
        manifest: The manifest that `back_up` returned.
        programs: The folder of pg_restore; None searches this machine.

    Returns:
        A sentence for each difference from the manifest.

    Raises:
        ConfigurationError: No pg_restore is suitable, or the settings name no administrator.
        ConnectionFailed: The server cannot be reached.
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
        scratch_target = replace(target, database=scratch)
        if manifest.schema is not None:
            async with command_connection(scratch_target) as inside:
                await inside.execute(f'CREATE SCHEMA "{manifest.schema}"')
        return await _restore_into(scratch_target, archive, manifest, programs, schema=manifest.schema)


async def restore(settings: Settings, archive: Path, *, programs: Path | None = None) -> Restored:
    """Restore a backup into an empty database, or the empty schema of DATABASE_SCHEMA, in one transaction.

    The role of DATABASE_MIGRATION_URL owns the restored objects. The application's role receives its privileges from
    the default privileges that `bootstrap` sets; the right to write the version table is revoked.

    Args:
        settings: The settings that name the database.
        archive: An archive of `back_up`, or of pg_dump in its custom format.
        programs: The folder of pg_restore; None searches this machine.

    Raises:
        ConfigurationError: The archive does not exist, has changed or is of another schema, the database or the schema
            is not empty, or no pg_restore is suitable.
        ConnectionFailed: The server cannot be reached.
        DatabaseError: pg_restore failed; the database is unchanged.
    """
    archive = _existing_archive(archive)
    manifest = read_manifest(archive)
    if manifest is not None and await asyncio.to_thread(_digest, archive) != manifest.sha256:
        raise ConfigurationError(
            f"{archive} has changed since the backup: its SHA-256 differs from the one in its manifest",
            hint="the copy is incomplete or damaged: use another copy",
        )
    schema = settings.DATABASE_SCHEMA
    if manifest is not None and manifest.schema != schema:
        of = "the whole database" if manifest.schema is None else f"the schema {manifest.schema}"
        raise ConfigurationError(
            f"DATABASE_SCHEMA must be that of the backup, which is of {of}, got {schema or 'none'}",
            hint="set DATABASE_SCHEMA as for the backup: functions name their schema, so that it cannot be renamed",
        )
    target = await reach_target(settings, "migrations")
    application = resolve_target(settings).user
    async with command_connection(target) as connection:
        if schema is not None:
            await _create_schema(connection, schema, application)
        await _check_is_empty(connection, target, schema)
    differences = await _restore_into(target, archive, manifest, programs, schema=schema)
    async with command_connection(target) as connection:
        await connection.execute(REVOKE_WRITES)
        lacking = await connection.fetchval(_LACKING, application, schema or "public")
    return Restored(manifest=manifest, differences=differences, application_lacks_rights=lacking > 0)


def read_manifest(archive: Path) -> Manifest | None:
    """Return the manifest of an archive; None if the archive has none.

    Raises:
        ConfigurationError: The file beside the archive is not a manifest, or has the format of another release.
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
            f"{path} has format {manifest.format}, and this release reads format {FORMAT}",
            hint="use the release of thea-database that wrote the backup, or a later release",
        )
    return manifest


def compare(expected: Mapping[str, Table], found: Mapping[str, Table]) -> list[str]:
    """Return a sentence for each difference between the tables of a backup and those of a database."""
    differences = [f"{name} is missing" for name in expected if name not in found]
    differences += [f"{name} was not in the backup" for name in found if name not in expected]
    for name in expected.keys() & found.keys():
        before, after = expected[name], found[name]
        if before.rows != after.rows:
            differences.append(f"{name} has {after.rows:,} rows, and had {before.rows:,}")
        if (was := before.describe_row_security()) != (is_now := after.describe_row_security()):
            differences.append(f"{name}: row-level security is {is_now}, and was {was}")
        if before.policies != after.policies:
            differences.append(f"{name} has the policies {after.policies}, and had {before.policies}")
    return sorted(differences)


async def _restore_into(
    target: Target, archive: Path, manifest: Manifest | None, programs: Path | None, *, schema: str | None
) -> list[str]:
    """Restore into an empty database or schema, analyze its tables, and return each difference from the manifest."""
    async with command_connection(target) as connection:
        major = connection.get_server_version().major
    if manifest is not None and manifest.server_version > major:
        raise ConfigurationError(
            f"the backup is of PostgreSQL {manifest.server_version}, and cannot be restored into PostgreSQL {major}",
            hint="restore into a server of the same or a later major version",
        )
    oldest = max(major, manifest.program_version if manifest else 0)
    program = find_program("pg_restore", at_least=oldest, folder=programs, target=target)
    if major < _TRANSACTION_TIMEOUT <= program.major:
        raise ConfigurationError(
            f"{program} sets transaction_timeout, which PostgreSQL {major} does not have",
            hint=f"back up and restore with the programs of PostgreSQL {major} to {_TRANSACTION_TIMEOUT - 1}: name"
            " their folder with --bin",
        )
    # The roles of the backup's server may not exist here, so owners and privileges are not restored: the connected role
    # owns the objects, and default privileges apply.
    await program.run(
        target,
        "--single-transaction",
        "--exit-on-error",
        "--no-owner",
        "--no-privileges",
        "--no-password",
        f"--dbname={_conninfo(target.database)}",
        *_only(schema),
        str(archive),
    )
    async with command_connection(target) as connection:
        return await _compare_restored(connection, manifest, schema)


async def _compare_restored(
    connection: asyncpg.Connection[Any], manifest: Manifest | None, schema: str | None
) -> list[str]:
    """Compare the tables with the manifest, and analyze them: pg_restore restores no statistics."""
    transaction = connection.transaction()
    await transaction.start()
    try:
        unprotected = [
            row["name"]
            for row in await connection.fetch(_TABLES, schema)
            if row["has_tenants"] and not (row["row_security"] and row["forced"] and row["policies"])
        ]
        found = await _read_tables(connection, schema)
    finally:
        await transaction.rollback()
    for name in found:
        await connection.execute(f"ANALYZE {name}")
    differences = [f"{name} has rows of tenants, and row-level security is not forced on it" for name in unprotected]
    if schema is not None and not found:
        differences.append(f"the archive has no table in the schema {schema}")
    return differences + (compare(manifest.tables, found) if manifest else [])


async def _read_tables(connection: asyncpg.Connection[Any], schema: str | None) -> dict[str, Table]:
    """Count the rows of every table, of all tenants, in the open transaction.

    If row-level security would hide rows, the role has to own the tables: FORCE is removed in the transaction, which
    the caller rolls back.
    """
    tables = {}
    for row in await connection.fetch(_TABLES, schema):
        if row["hides_rows"]:
            await connection.execute(f"ALTER TABLE {row['name']} NO FORCE ROW LEVEL SECURITY")
        tables[row["name"]] = Table(
            rows=await connection.fetchval(f"SELECT count(*) FROM {row['name']}"),  # noqa: S608 - quoted by the server
            row_security=row["row_security"],
            forced=row["forced"],
            policies=list(row["policies"]),
        )
    return tables


async def _check_sees_every_row(connection: asyncpg.Connection[Any], target: Target) -> None:
    if await connection.fetchval(SEES_EVERY_ROW):
        return
    raise ConfigurationError(
        f"{target.user} must be a superuser or have BYPASSRLS: row-level security would hide rows from the backup",
        hint="name another role in DATABASE_BACKUP_URL: `thea-db bootstrap` creates that role. If the provider grants"
        " BYPASSRLS to no role, back up by the provider's snapshots",
    )


async def _create_schema(connection: asyncpg.Connection[Any], schema: str, application: str) -> None:
    """Create a missing schema if the role may, as `upgrade` does; `_check_is_empty` reports one that is missing."""
    exists = "SELECT to_regnamespace(quote_ident($1)) IS NOT NULL, quote_ident($1), quote_ident($2)"
    is_there, name, role = await connection.fetchrow(exists, schema, application)
    if is_there:
        return
    try:
        await connection.execute(f"CREATE SCHEMA {name}; GRANT USAGE ON SCHEMA {name} TO {role}")
    except asyncpg.InsufficientPrivilegeError:
        return


async def _check_is_empty(connection: asyncpg.Connection[Any], target: Target, schema: str | None) -> None:
    names = [row["name"] for row in await connection.fetch(_OBJECTS, schema)]
    if names:
        more = f" and {len(names) - _NAMES_IN_ERROR} more" if len(names) > _NAMES_IN_ERROR else ""
        place = f"the schema {schema}" if schema else f"the database {target.database}"
        raise ConfigurationError(
            f"{place} must be empty, and has {', '.join(names[:_NAMES_IN_ERROR])}{more}",
            hint="restore into a database of another name, which `thea-db bootstrap` creates, then change the settings",
        )
    may_create = "SELECT coalesce(has_schema_privilege(to_regnamespace(quote_ident($1)), 'CREATE'), false)"
    if not await connection.fetchval(may_create, schema or "public"):
        place = f"the schema {schema} of {target.database}, or there is no such schema" if schema else target.database
        raise ConfigurationError(
            f"{target.user} may not create tables in {place}",
            hint="name the owner of the database in DATABASE_MIGRATION_URL; `thea-db bootstrap` creates the role, the"
            " database and the schema",
        )


def _only(schema: str | None) -> tuple[str, ...]:
    """Return the option that limits pg_dump and pg_restore to a schema; pg_restore then does not create the schema."""
    return () if schema is None else (f"--schema={schema}",)


async def _revision(connection: asyncpg.Connection[Any]) -> str | None:
    return (await revision_of(connection)).database


def _new_archive(archive: Path) -> Path:
    """Return the absolute path of an archive; check that its folder exists, and that the archive does not."""
    archive = archive.absolute()
    if not archive.parent.is_dir():
        raise ConfigurationError(f"the folder of the backup must exist, got {str(archive.parent)!r}")
    for path in (archive, _manifest_path(archive)):
        if path.exists():
            raise ConfigurationError(
                f"the file of the backup must not exist, got {str(path)!r}",
                hint="name another file, for example with the time in its name",
            )
    return archive


def _existing_archive(archive: Path) -> Path:
    """Return the absolute path of an archive: the programs run in another folder, and take `-x` as an option."""
    if not archive.is_file():
        raise ConfigurationError(f"the backup must be a file, got {str(archive)!r}")
    return archive.absolute()


def _manifest_path(archive: Path) -> Path:
    return archive.with_name(f"{archive.name}.json")


@contextmanager
def _temporary_file(path: Path) -> Iterator[Path]:
    """Create a file beside a path, which only its owner may read; delete it at the end unless it was renamed."""
    try:
        descriptor, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.", suffix=".part")
    except OSError as error:
        raise ConfigurationError(f"{path.parent} must be writable: {type(error).__name__}") from error
    os.close(descriptor)
    file = Path(name)
    try:
        yield file
    finally:
        file.unlink(missing_ok=True)


def _digest(archive: Path) -> str:
    with archive.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _conninfo(database: str) -> str:
    """Return a connection string with the name of a database: as a plain name, `a=b` would be parsed as a parameter."""
    escaped = database.replace("\\", "\\\\").replace("'", "\\'")
    return f"dbname='{escaped}'"
