"""Exports, erases and purges tenants, each acting as the tenant: in constant memory, batch by batch."""

from __future__ import annotations

import json
import os
import sys
import tempfile
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from uuid import UUID

from rich.console import Console
from rich.progress import Progress, TextColumn

from src.database.cli.tenant.registry import find, registry_session
from src.database.errors import ConfigurationError
from src.database.models import Tenant
from src.database.repositories import TenantRepository, UserRepository, purge_expired
from src.database.session import AsyncSession, get_db, tenant_context
from src.database.statements.personal_data import erase_tenant_batch, export_tenant

__all__ = ["erase", "export", "purge"]


async def export(slug: str, *, user_id: UUID | None, file: Path | None) -> None:
    """Write all that is held on a tenant, or on one of its users, as JSON lines.

    Raises:
        ConfigurationError: The file cannot be written.
        NotFoundError: There is no such tenant or user; nothing was written.
    """
    async with registry_session() as session:
        tenant = await find(session, slug)
    with tenant_context(tenant.id), _progress("exported") as advance:
        async with get_db() as session:
            rows = export_tenant(session) if user_id is None else UserRepository(session).export(user_id)
            with _standard_output() if file is None else _output(file) as write:
                async for row in rows:
                    write(json.dumps(row, ensure_ascii=False, separators=(",", ":")).encode() + b"\n")
                    advance(1)


async def erase(slug: str, *, confirm: Callable[[str], None] | None) -> dict[str, int]:
    """Remove a tenant with all that is held on it; a batch a transaction, so that it can go on where it stopped.

    Args:
        slug: Which.
        confirm: Called with the slug once it is known that there is such a tenant; raises to call it off.

    Returns:
        How many rows were removed from each table.

    Raises:
        ForeignKeyError: Somebody is still adding to it.
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
        while batch := await _in_a_transaction(erase_tenant_batch):
            removed.update(batch)
            advance(sum(batch.values()))
        async with get_db() as session:
            await TenantRepository(session).delete(tenant.id)
    return dict(removed)


async def purge(slug: str | None, *, dry_run: bool) -> dict[str, dict[str, int]]:
    """Purge a tenant, or all that are active; a batch a transaction, so that it can go on where it stopped.

    Returns:
        By slug, how many rows went from each table, or would go.

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
def _standard_output() -> Iterator[Callable[[bytes], object]]:
    """Write to standard output.

    Raises:
        ConfigurationError: It takes no more, as where the disk is full.
    """

    def write(line: bytes) -> None:
        with _nothing_left_behind(), _refused("standard output"):
            sys.stdout.buffer.write(line)

    yield write
    with _nothing_left_behind(), _refused("standard output"):
        sys.stdout.buffer.flush()


@contextmanager
def _nothing_left_behind() -> Iterator[None]:
    """Once it is refused, point standard output at nothing: Python writes what is buffered as it ends, and fails."""
    try:
        yield
    except ConfigurationError:
        nowhere = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nowhere, sys.stdout.fileno())
        os.close(nowhere)
        raise


@contextmanager
def _output(path: Path) -> Iterator[Callable[[bytes], object]]:
    """Write to a file, or straight to what is there and no file, as a pipe or a device.

    Raises:
        ConfigurationError: It cannot be written.
    """
    with _refused(path):
        is_file = path.is_file() or not path.exists()
        target = path.resolve()  # a link stays one
    with _whole_file(target) if is_file else _straight(path) as write:
        yield write


@contextmanager
def _straight(path: Path) -> Iterator[Callable[[bytes], object]]:
    with _refused(path):
        file = path.open("wb", buffering=0)
    with file:

        def write(line: bytes) -> None:
            rest = memoryview(line)
            with _refused(path):
                while rest:
                    rest = rest[file.write(rest) :]

        yield write


@contextmanager
def _whole_file(path: Path) -> Iterator[Callable[[bytes], object]]:
    """Write a file that gets its name once it is whole, readable by its owner alone.

    Raises:
        ConfigurationError: It cannot be written there.
    """
    with _refused(path):
        descriptor, name = tempfile.mkstemp(prefix=f".{path.name}.", dir=path.parent)  # only its owner may read it
    try:
        with os.fdopen(descriptor, "wb") as file:

            def write(line: bytes) -> None:
                with _refused(path):
                    file.write(line)

            yield write
            with _refused(path):
                file.flush()
                os.fsync(file.fileno())
                Path(name).replace(path)
    finally:
        with suppress(FileNotFoundError):
            Path(name).unlink()


@contextmanager
def _refused(place: Path | str) -> Iterator[None]:
    try:
        yield
    except BrokenPipeError:  # who reads has had enough: no fault
        raise
    except OSError as error:
        raise ConfigurationError(f"{place} cannot be written: {error.strerror}") from None


@contextmanager
def _progress(what: str) -> Iterator[Callable[[int], None]]:
    """Count on the terminal, beside the output proper; elsewhere say nothing."""
    console = Console(stderr=True)
    columns = TextColumn(f"{{task.completed:,}} rows {what}")
    with Progress(columns, console=console, transient=True, disable=not console.is_terminal) as progress:
        task = progress.add_task(what, total=None)
        yield lambda rows: progress.advance(task, rows)
