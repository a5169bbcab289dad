"""Write a seed: register its tenants, then insert the rows of each tenant in its context, one batch a transaction."""

from __future__ import annotations

import asyncio
import json
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Any, Final, cast

from sqlalchemy import CursorResult, Table, text
from sqlalchemy.dialects.postgresql import insert

from src.database.base import TenantBase, utc_now
from src.database.cli.seed.recipe import Recipe, Share, slug_of
from src.database.cli.seed.rows import TABLES, Batch, batches
from src.database.errors import ConfigurationError
from src.database.models import Event, MessageHistory, Tenant, start_local_values
from src.database.repositories import TenantRepository
from src.database.session import AsyncSession, get_db, tenant_context

RECORD: Final = "seed"
"""The key in a tenant's metadata under which its recipe is stored."""
# One statement for many rows. PostgreSQL does not support COPY FROM into a table with row-level security.
_INSERT: Final = """
INSERT INTO {table} ({columns}) SELECT {columns} FROM json_populate_recordset(NULL::{table}, CAST(:rows AS text)::json)
ON CONFLICT DO NOTHING
"""


@dataclass(slots=True)
class Report:
    """The result of a seed.

    Args:
        shares: The tenants.
        inserted: By table, the number of rows that were inserted.
        unchanged: By table, the number of rows that existed already.
        seconds: How long it took.
    """

    shares: list[Share]
    inserted: Counter[str] = field(default_factory=Counter)
    unchanged: Counter[str] = field(default_factory=Counter)
    seconds: float = 0.0

    @property
    def messages_per_second(self) -> float:
        """The number of inserted messages per second; 0 if none was inserted."""
        return self.inserted[MessageHistory.__tablename__] / self.seconds if self.seconds else 0.0

    def count(self, table: str, rows: int, inserted: int) -> None:
        """Add the rows of a table, of which some were inserted and the others existed."""
        self.inserted[table] += inserted
        self.unchanged[table] += rows - inserted


async def present_of(seed: int) -> datetime:
    """Return the present of a seed: the one stored with its tenants if they exist, else the start of today in UTC."""
    async with get_db() as session:
        first = await TenantRepository(session).get_by_slug(slug_of(seed, 1))
    if first is not None and RECORD in first.extra:
        return datetime.fromisoformat(first.extra[RECORD]["until"])
    return utc_now().replace(hour=0, minute=0, second=0, microsecond=0)


async def fill(recipe: Recipe, *, on_progress: Callable[[int], None]) -> Report:
    """Insert the missing rows of a seed. After an interruption, another call inserts the rest.

    Args:
        recipe: The recipe.
        on_progress: Called with the number of messages of each batch after its commit.

    Raises:
        ConfigurationError: A tenant of the seed exists, and another recipe or no seed created it.
    """
    report = Report(recipe.shares())
    started = time.perf_counter()
    await _register(recipe, report)
    for share in report.shares:
        with tenant_context(share.tenant_id):
            await _write_all(batches(recipe, share), report, on_progress)
    report.seconds = time.perf_counter() - started
    return report


async def _write_all(generated: Iterator[Batch], report: Report, on_progress: Callable[[int], None]) -> None:
    """Write batches; a thread generates the next one while the server executes the current one."""
    batch = next(generated, None)
    while batch is not None:
        _, following = await asyncio.gather(_write(batch, report), asyncio.to_thread(next, generated, None))
        on_progress(len(batch[MessageHistory]))
        batch = following


async def _write(batch: Batch, report: Report) -> None:
    """Insert a batch in one transaction, and count its rows after the commit."""
    batch[Event] = [row | start_local_values(row["start_datetime"], row["timezone"]) for row in batch[Event]]
    async with get_db() as session:
        inserted = [await _insert_missing(session, model, batch[model]) for model in TABLES]
    for model, count in zip(TABLES, inserted, strict=True):
        report.count(model.__tablename__, len(batch[model]), count)


async def _insert_missing(session: AsyncSession, model: type[TenantBase], rows: Sequence[dict[str, Any]]) -> int:
    """Insert rows with the same columns, except those that exist; return the number of inserted rows."""
    if not rows:
        return 0
    table = cast("Table", model.__table__)
    names = {"tenant_id": "tenant_id", **{key: table.c[key].name for key in rows[0]}}
    statement = text(_INSERT.format(table=table.name, columns=", ".join(names.values())))
    named = [{names[key]: value for key, value in row.items()} | {"tenant_id": session.tenant_id} for row in rows]
    document = json.dumps(named, default=_as_json, ensure_ascii=False)
    return cast("CursorResult[Any]", await session.execute(statement, {"rows": document})).rowcount


def _as_json(value: object) -> str:
    """Return a value as a string that PostgreSQL reads as the type of its column."""
    if isinstance(value, bytes):
        return f"\\x{value.hex()}"
    return value.isoformat() if isinstance(value, datetime) else str(value)


async def _register(recipe: Recipe, report: Report) -> None:
    """Register the tenants in one transaction, with the recipe in their metadata.

    Raises:
        ConfigurationError: A tenant exists, and another recipe or no seed created it.
    """
    async with get_db() as session:
        for share in report.shares:
            entry = {
                "id": share.tenant_id,
                "slug": share.slug,
                "name": f"Seed {recipe.number}, tenant {share.number}",
                "extra": {RECORD: recipe.record()},
                "created_at": recipe.until - timedelta(days=1000),
                "updated_at": recipe.until,
            }
            new = await session.scalar(insert(Tenant).values(entry).on_conflict_do_nothing().returning(Tenant.id))
            if new is None:
                await _check_recipe(session, recipe, share)
            report.count(Tenant.__tablename__, 1, int(new is not None))


async def _check_recipe(session: AsyncSession, recipe: Recipe, share: Share) -> None:
    """Check that this recipe created the tenant: the counters of another one would not fit its rows.

    Raises:
        ConfigurationError: Another recipe or no seed created the tenant.
    """
    tenant = await TenantRepository(session).get_by_slug(share.slug)
    stored = None if tenant is None else tenant.extra.get(RECORD)
    if tenant is not None and tenant.id == share.tenant_id and stored == recipe.record():
        return
    origin = " ".join(f"{name}={stored.get(name)}" for name in recipe.record()) if stored else ""
    how = f"with other options ({origin})" if origin else "by another program"
    raise ConfigurationError(
        f"the tenant {share.slug} exists, and was created {how}",
        hint=f"choose another --seed, use the options of that tenant, or remove the tenant: `thea-db tenant erase"
        f" {share.slug}`",
    )
