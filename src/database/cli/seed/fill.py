"""Writes a seed: tenants into the registry, then each tenant's rows as that tenant, batch by batch."""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Any, Final

from sqlalchemy.dialects.postgresql import insert

from src.database.base import utc_now
from src.database.cli.seed.batches import TABLES, Batch, batches
from src.database.cli.seed.bulk import insert_missing
from src.database.cli.seed.recipe import Recipe, Share, slug_of
from src.database.errors import ConfigurationError
from src.database.models import Event, MessageHistory, Tenant
from src.database.models.event import start_local_values
from src.database.repositories import TenantRepository
from src.database.session import AsyncSession, get_db, tenant_context

__all__ = ["Report", "fill", "present_of"]

RECORD: Final = "seed"
"""The name in a tenant's metadata under which its recipe is kept."""


@dataclass(slots=True)
class Report:
    """What was inserted and what was there already, by table."""

    shares: list[Share]
    inserted: Counter[str] = field(default_factory=Counter)
    unchanged: Counter[str] = field(default_factory=Counter)
    seconds: float = 0.0

    @property
    def messages_a_second(self) -> float:
        """How fast messages were inserted; 0 where none had to be."""
        return self.inserted[MessageHistory.__tablename__] / self.seconds if self.seconds else 0.0


async def present_of(seed: int) -> datetime:
    """Return the present of a seed's world: that of its tenants, where they are there, or else today's start in UTC."""
    async with get_db() as session:
        first = await TenantRepository(session).get_by_slug(slug_of(seed, 1))
    if first is not None and RECORD in first.extra:
        return datetime.fromisoformat(first.extra[RECORD]["until"])
    return utc_now().replace(hour=0, minute=0, second=0, microsecond=0)


async def fill(recipe: Recipe, *, on_progress: Callable[[int], None]) -> Report:
    """Write what is missing of a seed; who was interrupted begins again, and goes on where it stopped.

    Args:
        recipe: What to make.
        on_progress: Called with the number of messages of each batch once it is committed.

    Raises:
        ConfigurationError: The seed's tenants are there and were made by another recipe, or are somebody else's.
    """
    report = Report(recipe.shares())
    started = time.perf_counter()
    await _register(recipe, report)
    for share in report.shares:
        with tenant_context(share.tenant_id):
            await _write_all(batches(recipe, share), report, on_progress)
    report.seconds = time.perf_counter() - started
    return report


async def _write_all(made: Iterator[Batch], report: Report, on_progress: Callable[[int], None]) -> None:
    """Write batches; the next one is made in a thread while the server works on the one before."""
    batch = next(made, None)
    while batch is not None:
        _, ahead = await asyncio.gather(_write(batch, report), asyncio.to_thread(next, made, None))
        on_progress(len(batch[MessageHistory]))
        batch = ahead


async def _write(batch: Batch, report: Report) -> None:
    done: Counter[str] = Counter()
    async with get_db() as session:
        for model in TABLES:
            rows = _with_local_starts(batch[Event]) if model is Event else batch[model]
            done[model.__tablename__] = await insert_missing(session, model, rows)
    for model in TABLES:  # once it is committed
        _count(report, model.__tablename__, len(batch[model]), done[model.__tablename__])


def _with_local_starts(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    return [row | start_local_values(row["start_datetime"], row["timezone"]) for row in rows]


async def _register(recipe: Recipe, report: Report) -> None:
    """Enter the tenants into the registry, all or none, with the recipe."""
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
    """Refuse to mix what was made of one recipe with what is made of another: numbers and counters would not agree.

    Raises:
        ConfigurationError: The tenant is there, and was not made of this one.
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
