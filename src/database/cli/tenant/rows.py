"""Exports, erases and purges tenants, each in the tenant's context: in constant memory, batch by batch."""

from __future__ import annotations

import json
import os
import sys
import tempfile
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO
from uuid import UUID

from rich.console import Console
from rich.progress import Progress, TextColumn

from src.database.cli.tenant.registry import find, registry_session
from src.database.errors import ConfigurationError
from src.database.models import Tenant
from src.database.repositories import TenantRepository, UserRepository, purge_expired
from src.database.session import AsyncSession, get_db, tenant_context
from src.database.statements import personal_data


async def export(slug: str, *, user_id: UUID | None, file: Path | None) -> None:
    """Write all data of a tenant, or of one of its users, as JSON lines.

    Raises:
        ConfigurationError: The file cannot be written.
        NotFoundError: There is no such tenant or user; nothing was written.
    """
    async with registry_session() as session:
        tenant = await find(session, slug)
    with tenant_context(tenant.id), _progress("exported") as advance, _output(file) as output:
        async with get_db() as session:
            rows = personal_data.export_tenant(session) if user_id is None else UserRepository(session).export(user_id)
            async for row in rows:
                output.write(json.dumps(row, ensure_ascii=False, separators=(",", ":")).encode() + b"\n")
                advance(1)


async def erase(slug: str, *, confirm: Callable[[str], None] | None) -> dict[str, int]:
    """Remove a tenant with all of its data; a batch a transaction, so that a later call continues an interrupted one.

    Args:
        slug: The slug of the tenant.
        confirm: Called with the slug if the tenant exists, before anything is removed; raises to cancel.

    Returns:
        How many rows were removed from each table.

    Raises:
        ForeignKeyError: Another session still adds rows.
        NotFoundError: There is no such tenant.
    """
    async with registry_session() as session:
        tenant = await find(session, slug)
    if confirm is not None:
        confirm(slug)
    removed: Counter[str] = Counter()
    with tenant_context(tenant.id), _progress("removed") as advance:
        async with get_db() as session:
            await TenantRepository(session).suspend(tenant.id)  # no worker begins anything for it from here on
        while batch := await _in_a_transaction(personal_data.erase_tenant_batch):
            removed.update(batch)
            advance(sum(batch.values()))
        async with get_db() as session:
            await TenantRepository(session).delete(tenant.id)
    return dict(removed)


async def purge(slug: str | None, *, dry_run: bool) -> dict[str, dict[str, int]]:
    """Purge a tenant, or all active ones; a batch a transaction, so that a later call continues an interrupted one.

    Returns:
        By slug, the number of rows that were removed from each table, or would be.

    Raises:
        NotFoundError: There is no such tenant.
    """
    purged = {}
    with _progress("purged") as advance:
        async for tenant in _chosen(slug):
            with tenant_context(tenant.id):
                purged[tenant.slug] = await _purge(advance, dry_run=dry_run)
    return purged


async def _chosen(slug: str | None) -> AsyncIterator[Tenant]:
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


@contextmanager
def _output(path: Path | None) -> Iterator[BinaryIO]:
    """Open standard output, a file, or what exists at the path and is no file, such as a pipe or a device.

    Raises:
        ConfigurationError: It cannot be written.
    """
    try:
        if path is None:
            with _standard_output() as file:
                yield file
        elif path.is_file() or not path.exists():
            with _whole_file(path.resolve()) as file:  # a symbolic link is kept
                yield file
        else:
            with path.open("wb") as file:
                yield file
    except BrokenPipeError:  # the reader needs no more: no error
        raise
    except OSError as error:
        raise ConfigurationError(f"{path or 'standard output'} cannot be written: {error.strerror}") from None


@contextmanager
def _standard_output() -> Iterator[BinaryIO]:
    """Yield standard output; after an error, redirect it to nothing: Python would write its buffer again at exit."""
    try:
        yield sys.stdout.buffer
        sys.stdout.buffer.flush()
    except OSError:
        nowhere = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nowhere, sys.stdout.fileno())
        os.close(nowhere)
        raise


@contextmanager
def _whole_file(path: Path) -> Iterator[BinaryIO]:
    """Yield a new file that replaces the one at the path when it is complete; only its owner can read it."""
    descriptor, name = tempfile.mkstemp(prefix=f".{path.name}.", dir=path.parent)
    try:
        with os.fdopen(descriptor, "wb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        Path(name).replace(path)
    finally:
        Path(name).unlink(missing_ok=True)


@contextmanager
def _progress(what: str) -> Iterator[Callable[[int], None]]:
    """Count rows on standard error if that is a terminal."""
    console = Console(stderr=True)
    columns = TextColumn(f"{{task.completed:,}} rows {what}")
    with Progress(columns, console=console, transient=True, disable=not console.is_terminal) as progress:
        task = progress.add_task(what, total=None)
        yield lambda rows: progress.advance(task, rows)
