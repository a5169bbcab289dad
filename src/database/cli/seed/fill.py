"""Writes a seed: registers its tenants, then inserts each tenant's rows as that tenant, a batch a transaction."""

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
from src.database.models import Event, MessageHistory, Tenant
from src.database.models.event import start_local_values
from src.database.repositories import TenantRepository
from src.database.session import AsyncSession, get_db, tenant_context

RECORD: Final = "seed"
"""The name in a tenant's metadata under which its recipe is stored."""
_INSERT: Final = """
INSERT INTO {table} ({columns}) SELECT {columns} FROM json_populate_recordset(NULL::{table}, CAST(:rows AS text)::json)
ON CONFLICT DO NOTHING
"""
"""One statement for many rows: row-level security refuses COPY."""


@dataclass(slots=True)
class Report:
    """The numbers of rows that were inserted, and that existed already, by table."""

    shares: list[Share]
    inserted: Counter[str] = field(default_factory=Counter)
    unchanged: Counter[str] = field(default_factory=Counter)
    seconds: float = 0.0

    @property
    def messages_a_second(self) -> float:
        """The messages that were inserted per second; 0 if none was."""
        return self.inserted[MessageHistory.__tablename__] / self.seconds if self.seconds else 0.0


async def present_of(seed: int) -> datetime:
    """Return the present of a seed: the one stored with its tenants if they exist, else the start of today in UTC."""
    async with get_db() as session:
        first = await TenantRepository(session).get_by_slug(slug_of(seed, 1))
    if first is not None and RECORD in first.extra:
        return datetime.fromisoformat(first.extra[RECORD]["until"])
    return utc_now().replace(hour=0, minute=0, second=0, microsecond=0)


async def fill(recipe: Recipe, *, on_progress: Callable[[int], None]) -> Report:
    """Insert the missing rows of a seed; after an interruption, another call inserts the rest.

    Args:
        recipe: The recipe.
        on_progress: Called with the number of messages of each batch after its commit.

    Raises:
        ConfigurationError: A tenant of the seed exists and was made by another recipe, or by something else.
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
    """Write batches; the next one is generated in a thread while the server works on the current one."""
    batch = next(generated, None)
    while batch is not None:
        _, ahead = await asyncio.gather(_write(batch, report), asyncio.to_thread(next, generated, None))
        on_progress(len(batch[MessageHistory]))
        batch = ahead


async def _write(batch: Batch, report: Report) -> None:
    done: Counter[str] = Counter()
    async with get_db() as session:
        for model in TABLES:
            rows = _with_local_starts(batch[Event]) if model is Event else batch[model]
            done[model.__tablename__] = await _insert_missing(session, model, rows)
    for model in TABLES:  # once it is committed
        _count(report, model.__tablename__, len(batch[model]), done[model.__tablename__])


async def _insert_missing(session: AsyncSession, model: type[TenantBase], rows: Sequence[dict[str, Any]]) -> int:
    """Insert rows that have the same columns, except those that exist; return the number of inserted rows."""
    if not rows:
        return 0
    table = cast("Table", model.__table__)
    names = {"tenant_id": "tenant_id", **{key: table.c[key].name for key in rows[0]}}
    statement = text(_INSERT.format(table=table.name, columns=", ".join(names.values())))
    named = [{names[key]: value for key, value in row.items()} | {"tenant_id": session.tenant_id} for row in rows]
    sent = json.dumps(named, default=_as_json, ensure_ascii=False)
    return cast("CursorResult[Any]", await session.execute(statement, {"rows": sent})).rowcount


def _as_json(value: object) -> str:
    """Return a value as PostgreSQL reads it from a string."""
    if isinstance(value, bytes):
        return f"\\x{value.hex()}"
    return value.isoformat() if isinstance(value, datetime) else str(value)


def _with_local_starts(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    return [row | start_local_values(row["start_datetime"], row["timezone"]) for row in rows]


async def _register(recipe: Recipe, report: Report) -> None:
    """Register the tenants, all or none, with the recipe."""
    async with get_db() as session:
        for share in report.shares:
            statement = insert(Tenant).on_conflict_do_nothing().returning(Tenant.id)
            new = await session.scalar(statement.values(_entry(recipe, share)))
            await _check_recipe(session, recipe, share)
            _count(report, Tenant.__tablename__, 1, int(new is not None))


def _entry(recipe: Recipe, share: Share) -> dict[str, Any]:
    return {
        "id": share.tenant_id,
        "slug": share.slug,
        "name": share.name,
        "extra": {RECORD: recipe.record()},
        "created_at": recipe.until - timedelta(days=1000),
        "updated_at": recipe.until,
    }


async def _check_recipe(session: AsyncSession, recipe: Recipe, share: Share) -> None:
    """Check that the tenant was made by this recipe: with rows of another one, numbers and counters would not agree.

    Raises:
        ConfigurationError: The tenant was not made by this recipe.
    """
    there = await TenantRepository(session).get_by_slug(share.slug)
    made_of = None if there is None else there.extra.get(RECORD)
    if there is not None and there.id == share.tenant_id and made_of == recipe.record():
        return
    told = " ".join(f"{name}={made_of.get(name)}" for name in recipe.record()) if made_of else "not by this command"
    raise ConfigurationError(
        f"the tenant {share.slug} is there already, and was made by another recipe ({told})",
        hint=f"choose another --seed, say what it was made by, or remove it: `thea-db tenant erase {share.slug}`",
    )


def _count(report: Report, table: str, rows: int, inserted: int) -> None:
    report.inserted[table] += inserted
    report.unchanged[table] += rows - inserted
