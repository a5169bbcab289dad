"""backup: pg_dump's custom format, of one snapshot, with what is in it written down beside it."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from secrets import token_hex
from typing import Any

import asyncpg

from src.config import Settings
from src.database.connect import run_shielded
from src.database.engine import SEES_EVERY_ROW
from src.database.errors import ConfigurationError
from src.database.operations.administration import open_connection, reach_target
from src.database.operations.archive import Manifest, digest, manifest_path, read_tables
from src.database.operations.programs import find_program
from src.database.operations.restore import restore_into
from src.database.target import Target

__all__ = ["back_up", "verify_backup"]


async def back_up(settings: Settings, archive: Path, *, programs: Path | None = None) -> Manifest:
    """Write a backup of the whole database, for its owner's eyes alone; nothing is there before it is whole.

    Args:
        settings: DATABASE_BACKUP_URL, or DATABASE_ADMIN_URL, says who reads.
        archive: The file; it must not be there yet.
        programs: The folder of pg_dump.

    Raises:
        ConfigurationError: Row-level security binds the role, the file is there, or no pg_dump serves.
        ConnectionFailed: The server cannot be reached.
        DatabaseError: pg_dump failed.
    """
    archive = _place(archive)
    target = await reach_target(settings, "backup")
    async with open_connection(target) as connection:
        await _refuse_who_is_bound(connection, target)
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
                tables=await read_tables(connection),
            )
            with _fresh_file(archive) as fresh:
                await program.run(
                    target, "--format=custom", f"--snapshot={snapshot}", "--no-password", f"--file={fresh}"
                )
                manifest = replace(manifest, sha256=await asyncio.to_thread(digest, fresh))
                with _fresh_file(manifest_path(archive)) as beside:
                    beside.write_text(manifest.as_json(), encoding="utf-8")
                    # The archive last: where it is, all of it is.
                    beside.rename(manifest_path(archive))
                    fresh.rename(archive)
    return manifest


async def verify_backup(
    settings: Settings, archive: Path, manifest: Manifest, *, programs: Path | None = None
) -> list[str]:
    """Restore an archive into a database of its own, which is dropped again; name each difference from the manifest.

    Args:
        settings: DATABASE_ADMIN_URL says where and as whom; it may be another server.
        archive: What `back_up` wrote.
        manifest: What it returned.
        programs: The folder of pg_restore.

    Raises:
        ConfigurationError: No pg_restore serves, or there is no administrator.
        DatabaseError: The archive cannot be restored.
    """
    target = await reach_target(settings, "administration")
    scratch = f"thea_verify_{token_hex(6)}"
    async with open_connection(target) as connection:
        await connection.execute(f"CREATE DATABASE {scratch} ENCODING 'UTF8' TEMPLATE template0")
        try:
            return await restore_into(replace(target, database=scratch), archive, manifest, programs=programs)
        finally:
            await run_shielded(connection.execute(f"DROP DATABASE IF EXISTS {scratch} WITH (FORCE)"))


def _place(archive: Path) -> Path:
    """Return where it will be, however it is named."""
    archive = archive.absolute()
    if not archive.parent.is_dir():
        raise ConfigurationError(f"the backup's folder must be there, got {str(archive.parent)!r}")
    for path in (archive, manifest_path(archive)):
        if path.exists():
            raise ConfigurationError(
                f"the backup's file must not be there yet, got {str(path)!r}",
                hint="name another file, by the time for example",
            )
    return archive


@contextmanager
def _fresh_file(place: Path) -> Iterator[Path]:
    """Make a file beside its place that its owner alone reads; it is gone at the end if it was not moved there."""
    fresh = place.with_name(f".{place.name}.{token_hex(4)}.part")
    try:
        os.close(os.open(fresh, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o600))
    except OSError as error:
        raise ConfigurationError(f"nothing can be written into {place.parent}: {type(error).__name__}") from error
    try:
        yield fresh
    finally:
        fresh.unlink(missing_ok=True)


async def _refuse_who_is_bound(connection: asyncpg.Connection[Any], target: Target) -> None:
    if await connection.fetchval(SEES_EVERY_ROW):
        return
    raise ConfigurationError(
        f"{target.user} must be a superuser or have BYPASSRLS: row-level security binds it, so that a backup would lack"
        " rows",
        hint="name another role in DATABASE_BACKUP_URL: `thea-db bootstrap` makes it. Where the provider gives"
        " BYPASSRLS to nobody, back up by the provider's snapshots",
    )


async def _revision(connection: asyncpg.Connection[Any]) -> str | None:
    if not await connection.fetchval("SELECT to_regclass('public.alembic_version') IS NOT NULL"):
        return None
    rows = await connection.fetch("SELECT version_num FROM public.alembic_version ORDER BY 1")
    return ",".join(row[0] for row in rows) or None
