"""Export, erase and purge tenants, each in the tenant's context: in constant memory, batch by batch."""

from __future__ import annotations

import json
import os
import sys
import tempfile
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO, Final
from uuid import UUID

from sqlalchemy import ARRAY, Text, bindparam, text

from src.config import get_logger
from src.database.base import tenant_tables
from src.database.cli.output import progress
from src.database.cli.tenant.registry import find, registry_session
from src.database.errors import ConfigurationError
from src.database.models import Tenant
from src.database.repositories import TenantRepository, UserRepository, purge_expired
from src.database.session import AsyncSession, get_db, tenant_context
from src.database.statements import personal_data

_OTHER_TABLES: Final = text("""
    SELECT c.relname
      FROM pg_catalog.pg_class c
      JOIN pg_catalog.pg_attribute a ON a.attrelid = c.oid AND a.attname = 'tenant_id' AND NOT a.attisdropped
     WHERE c.relnamespace = pg_catalog.current_schema()::regnamespace
       AND c.relkind IN ('r', 'p') AND NOT c.relispartition AND c.relname <> ALL (:known)
     ORDER BY 1
""").bindparams(bindparam("known", type_=ARRAY(Text)))


async def export(slug: str, *, user_id: UUID | None, file: Path | None) -> None:
    """Write all data of a tenant, or of one of its users, as JSON lines.

    Args:
        slug: The slug of the tenant.
        user_id: The user; None: all users.
        file: The file; None: standard output.

    Raises:
        ConfigurationError: The file cannot be written.
        NotFoundError: There is no such tenant or user; no file was written.
    """
    async with registry_session() as session:
        tenant = await find(session, slug)
    with tenant_context(tenant.id), progress("rows") as advance, _output(file) as output:
        async with get_db() as session:
            await _warn_of_unknown_tables(session)
            rows = personal_data.export_tenant(session) if user_id is None else UserRepository(session).export(user_id)
            async for row in rows:
                output.write(json.dumps(row, ensure_ascii=False, separators=(",", ":")).encode() + b"\n")
                advance(1)


async def erase(slug: str, *, confirm: Callable[[str], None] | None) -> dict[str, int]:
    """Remove a tenant with all of its data, one batch a transaction: a later call continues an interrupted one.

    Args:
        slug: The slug of the tenant.
        confirm: Called with the slug if the tenant exists, before anything is removed; raises to cancel.

    Returns:
        By table, the number of rows that were removed.

    Raises:
        ForeignKeyError: Another session inserted rows meanwhile.
        NotFoundError: There is no such tenant.
    """
    async with registry_session() as session:
        tenant = await find(session, slug)
        await _warn_of_unknown_tables(session)
    if confirm is not None:
        confirm(slug)
    removed: Counter[str] = Counter()
    with tenant_context(tenant.id), progress("rows") as advance:
        async with get_db() as session:
            await TenantRepository(session).suspend(tenant.id)  # workers skip a suspended tenant, and insert no rows
        while batch := await _in_a_transaction(personal_data.erase_tenant_batch):
            removed.update(batch)
            advance(sum(batch.values()))
        async with get_db() as session:
            await TenantRepository(session).delete(tenant.id)
    return dict(removed)


async def purge(slug: str | None, *, dry_run: bool) -> dict[str, dict[str, int]]:
    """Remove expired rows, one batch a transaction: a later call continues an interrupted one.

    Args:
        slug: The slug of the tenant; None: all active tenants.
        dry_run: Count the rows, and remove none.

    Returns:
        By slug and table, the number of rows that were removed, or would be.

    Raises:
        NotFoundError: There is no such tenant.
    """
    purged = {}
    with progress("rows") as advance:
        async for tenant in _tenants(slug):
            with tenant_context(tenant.id):
                purged[tenant.slug] = await _purge(advance, dry_run=dry_run)
    return purged


async def _tenants(slug: str | None) -> AsyncIterator[Tenant]:
    async with registry_session() as session:
        if slug is not None:
            tenant = await find(session, slug)
            await session.commit()
            yield tenant
            return
        async for tenant in TenantRepository(session).active():
            yield tenant


async def _purge(advance: Callable[[int], None], *, dry_run: bool) -> dict[str, int]:
    if dry_run:
        return await _in_a_transaction(lambda session: purge_expired(session, dry_run=True))
    total: Counter[str] = Counter()
    while any((batch := await _in_a_transaction(purge_expired)).values()):
        total.update(batch)
        advance(sum(batch.values()))
    return dict(total)


async def _in_a_transaction(work: Callable[[AsyncSession], Awaitable[dict[str, int]]]) -> dict[str, int]:
    async with get_db() as session:
        return await work(session)


async def _warn_of_unknown_tables(session: AsyncSession) -> None:
    """Log the tables of tenants that no model describes: their rows are neither exported nor erased."""
    known = [table.name for table in tenant_tables()]
    if unknown := list(await session.scalars(_OTHER_TABLES, {"known": known})):
        get_logger(__name__).warning(
            "tenant_tables_unknown",
            tables=unknown,
            hint="run the command where DATABASE_SERVICE_MODELS names the models of these tables",
        )


@contextmanager
def _output(path: Path | None) -> Iterator[BinaryIO]:
    """Open standard output, a file, or an existing pipe or device.

    Raises:
        ConfigurationError: The output cannot be written.
    """
    try:
        if path is None:
            with _standard_output() as file:
                yield file
        elif path.is_file() or not path.exists():
            with _replacing_file(path.resolve()) as file:  # resolved: a symbolic link is kept, and its target replaced
                yield file
        else:
            with path.open("wb") as file:
                yield file
    except BrokenPipeError:  # such as `| head`: the reader has closed the pipe
        raise
    except OSError as error:
        raise ConfigurationError(f"{path or 'standard output'} cannot be written: {error.strerror}") from None


@contextmanager
def _standard_output() -> Iterator[BinaryIO]:
    """Yield standard output; after an error, redirect it to the null device, as Python flushes the buffer at exit."""
    try:
        yield sys.stdout.buffer
        sys.stdout.buffer.flush()
    except OSError:
        null = os.open(os.devnull, os.O_WRONLY)
        os.dup2(null, sys.stdout.fileno())
        os.close(null)
        raise


@contextmanager
def _replacing_file(path: Path) -> Iterator[BinaryIO]:
    """Yield a new file that replaces the one at the path when the block succeeds; only its owner can read it."""
    descriptor, name = tempfile.mkstemp(prefix=f".{path.name}.", dir=path.parent)
    try:
        with os.fdopen(descriptor, "wb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        Path(name).replace(path)
    finally:
        Path(name).unlink(missing_ok=True)
