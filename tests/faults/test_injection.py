"""Hostile strings through every way in: no statement breaks or changes its meaning, and what is stored comes back.

As a superuser, whom row-level security does not bind: what gets out of its quotes finds the other tenant's rows.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any
from uuid import UUID

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine

from src.database.base import TenantBase, uuid7
from src.database.connect.embedded import SUPERUSER
from src.database.errors import DatabaseError
from src.database.pool import PoolLimits
from src.database.store import Store, StorePool
from src.database.tenancy import TenantBinding, tenant_context
from tests.acceptance.calls import Rows, fill
from tests.acceptance.test_tenants import act_as
from tests.faults.payloads import HOSTILE
from tests.faults.three_tenants import parts_of
from tests.faults.ways_in import WAYS, Place, Way

BROKEN = ("42", "0A", "XX", "54", "26", "34")
"""The statement itself is at fault, or the server: a syntax error, an unknown name, a type that does not fit."""


class Target:
    """Two tenants in a transaction that is rolled back; one is attacked, the other has what must not be found."""

    def __init__(self, connection: AsyncConnection, tenant_id: UUID, rows: Rows) -> None:
        self.connection = connection
        self.tenant_id = tenant_id
        self.rows = rows
        self.refused: Counter[str] = Counter()

    async def attack(self, way: Way, said: str) -> None:
        savepoint = await self.connection.begin_nested()
        try:
            async with act_as(self.tenant_id, self.connection) as session:
                with tenant_context(self.tenant_id):
                    self._look_at(await way(Place(session, self.rows, await self._store()), said))
        except DatabaseError as error:
            if str(error.sqlstate).startswith(BROKEN):
                raise AssertionError(f"{way.__name__} broke a statement") from error
            self.refused[f"{way.__name__}: {error.sqlstate}"] += 1
        except (ValueError, TypeError) as error:
            self.refused[f"{way.__name__}: {type(error).__name__}"] += 1
        finally:
            await savepoint.rollback()

    def _look_at(self, found: Any) -> None:
        for part in parts_of(found):
            if isinstance(part, TenantBase):
                assert part.tenant_id == self.tenant_id, f"handed out: {part!r}"

    async def _store(self) -> Store:
        """Make one whose only connection is the transaction's."""
        raw: Any = await self.connection.get_raw_connection()

        async def given() -> Any:
            return raw.driver_connection

        pool = StorePool(given, PoolLimits(size=1, overflow=0, timeout=1, lifetime=3600))
        return Store(pool, TenantBinding(self.tenant_id))


@asynccontextmanager
async def target(engine: AsyncEngine) -> AsyncIterator[Target]:
    async with engine.connect() as connection:
        outer = await connection.begin()
        attacked, other = uuid7(), uuid7()
        async with act_as(other, connection) as session:
            await fill(session)
        async with act_as(attacked, connection) as session:
            rows = await fill(session)
        yield Target(connection, attacked, rows)
        await outer.rollback()


def test_hostile_strings_break_nothing_and_find_nothing(
    engine_of: Callable[[str], AsyncEngine], *, is_long: bool
) -> None:
    """Each string by some of the ways: 400 strings; 10,000 with `--long`, each by all of them."""
    every = st.permutations(WAYS) if is_long else st.lists(st.sampled_from(WAYS), min_size=1, max_size=2)
    taken: Counter[str] = Counter()
    with asyncio.Runner() as runner:
        opened = target(engine_of(SUPERUSER))
        there = runner.run(opened.__aenter__())

        @settings(
            max_examples=10_000 if is_long else 300,
            deadline=None,
            database=None,
            suppress_health_check=list(HealthCheck),
        )
        @given(said=HOSTILE, ways=every)
        def attack(said: str, ways: list[Way]) -> None:
            for way in ways:
                taken[way.__name__] += 1
                runner.run(there.attack(way, said))

        try:
            attack()
            assert set(taken) == {way.__name__ for way in WAYS}
        finally:
            print(f"{taken.total()} by {len(taken)} ways; refused: {dict(there.refused)}")  # noqa: T201 - the figures
            runner.run(opened.__aexit__(None, None, None))
