"""Reminders of several tenants with many workers, some of which die: each is sent, and no two workers claim one."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Callable, Iterable
from contextlib import suppress
from datetime import datetime, timedelta
from itertools import pairwise
from uuid import UUID

import psycopg
import pytest
from sqlalchemy import URL, insert, select

from src.config import Settings
from src.database import get_db, tenant_context
from src.database.base import utc_now, uuid7
from src.database.errors import StaleDataError
from src.database.models import Event, Tenant, User
from src.database.repositories import EventRepository, TenantRepository


@pytest.fixture(autouse=True)
def pooled_database(cloned_database: URL, use_database: Callable[..., Settings]) -> None:
    use_database(cloned_database.update_query_dict({"pool_max": str(WORKERS)}))


WORKERS = 8
TENANTS = 4
REMINDERS, QUICK_REMINDERS = 5000, 400
BATCH = 20
LEASE = timedelta(seconds=2)
DIES_EVERY = 10
"""The share of claims whose worker dies."""


async def fill(tenants: int, reminders: int) -> list[UUID]:
    ids = [uuid7() for _ in range(tenants)]
    async with get_db() as session:
        session.add_all([Tenant(id=one, slug=f"t{n}", name="x") for n, one in enumerate(ids)])
    due = utc_now() - timedelta(minutes=1)
    for tenant_id in ids:
        with tenant_context(tenant_id):
            async with get_db() as session:
                user = User()
                session.add(user)
                await session.flush()
                row = {"tenant_id": tenant_id, "user_id": user.id, "title": "x", "start_datetime": due}
                rows = [{**row, "id": uuid7(), "reminder_datetime": due} for _ in range(reminders // tenants)]
                await session.execute(insert(Event), rows)
    return ids


class Office:
    """The workers, the sent reminders, and the times of each claim on the server's clock."""

    def __init__(self) -> None:
        self.claims = 0
        self.sent: Counter[UUID] = Counter()
        self.held: dict[UUID, list[tuple[datetime, datetime, UUID]]] = {}
        self.abandoned = 0

    async def work(self, name: str) -> None:
        """Serve the active tenants of the registry, until no reminder is left."""
        while True:
            async with get_db() as session:
                tenants = list(await session.scalars(select(Tenant.id).where(Tenant.status == "active")))
            waiting = 0
            for tenant_id in tenants:
                with tenant_context(tenant_id):
                    waiting += await self.serve(name)
            if not waiting:
                return
            await asyncio.sleep(0.2)

    async def serve(self, name: str) -> int:
        """Serve a tenant while reminders can be claimed; return the number that others have claimed."""
        while True:
            async with get_db() as session:
                claimed = await EventRepository(session).claim_due_reminders(name, limit=BATCH, lease=LEASE)
                if not claimed:
                    return await EventRepository(session).count(Event.reminder_sent_at.is_(None))
            await self.handle(claimed)

    async def handle(self, claimed: list[Event]) -> None:
        """Send and acknowledge the claimed reminders; the worker dies at random."""
        self.claims += 1
        for event in claimed:
            assert event.reminder_token is not None
            assert event.reminder_claimed_until is not None
            since = event.reminder_claimed_until - LEASE  # when the claim was sent, by the server's clock
            self.held.setdefault(event.id, []).append((since, event.reminder_claimed_until, event.reminder_token))
        task = asyncio.create_task(self.send(claimed))
        if self.claims % DIES_EVERY == 0:
            self.abandoned += 1
            await asyncio.sleep(0.001 * (self.abandoned % 20))
            task.cancel()  # at a random point: before the first, in the middle, at the commit
        await asyncio.wait([task])
        if not task.cancelled():
            await task

    async def send(self, claimed: Iterable[Event]) -> None:
        self.sent.update(event.id for event in claimed)
        async with get_db() as session:
            for event in claimed:
                assert event.reminder_token is not None
                with suppress(StaleDataError):  # too slow: another worker has claimed it
                    await EventRepository(session).ack_reminder(event.id, event.reminder_token)


@pytest.mark.slow
async def test_8_workers_send_each_reminder_and_no_two_claim_one_at_the_same_time(
    superuser: psycopg.Connection, *, is_long: bool
) -> None:
    """Several hundred reminders; with `--long` five thousand."""
    reminders = REMINDERS if is_long else QUICK_REMINDERS
    await fill(TENANTS, reminders)
    office = Office()

    await asyncio.gather(*(office.work(f"w{n}") for n in range(WORKERS)))

    assert len(office.sent) == reminders, "each one at least once"
    assert office.abandoned >= max(1, office.claims // 100)
    assert any(len(intervals) > 1 for intervals in office.held.values()), "some were claimed again"
    for intervals in office.held.values():
        in_order = sorted(intervals)
        assert all(until < since for (_, until, _), (since, _, _) in pairwise(in_order))
        assert len({token for _, _, token in intervals}) == len(intervals)
    unsent = superuser.execute("SELECT count(*) FROM events WHERE reminder_sent_at IS NULL").fetchone()
    assert unsent == (0,)


async def test_workers_that_use_the_registry_skip_a_suspended_tenant() -> None:
    active, suspended = await fill(2, 2)
    async with get_db() as session:
        await TenantRepository(session).update(suspended, status="suspended")
    office = Office()

    await office.work("w")

    assert len(office.sent) == 1
    for tenant_id, unsent in ((active, 0), (suspended, 1)):
        with tenant_context(tenant_id):
            async with get_db() as session:
                assert await EventRepository(session).count(Event.reminder_sent_at.is_(None)) == unsent


async def test_a_reminder_moved_during_a_claim_is_neither_sent_twice_nor_lost() -> None:
    [tenant_id] = await fill(1, 40)
    with tenant_context(tenant_id):
        async with get_db() as session:
            ids = [one.id for one in (await EventRepository(session).page(limit=40)).items]

        async def move(event_id: UUID) -> None:
            async with get_db() as session:
                await EventRepository(session).reschedule(event_id, utc_now() + timedelta(days=1))

        async def claim() -> None:
            async with get_db() as session:
                await EventRepository(session).claim_due_reminders("w", limit=3)

        await asyncio.gather(*(move(one) for one in ids), *(claim() for _ in range(20)))

        async with get_db() as session:
            rows = (await EventRepository(session).page(limit=40)).items
    assert all(row.reminder_token is None and row.reminder_attempts == 0 for row in rows)
    assert all(row.reminder_datetime and row.reminder_datetime > utc_now() for row in rows)


async def test_concurrent_changes_of_an_occurrence_run_one_after_the_other() -> None:
    [tenant_id] = await fill(1, 1)
    with tenant_context(tenant_id):
        async with get_db() as session:
            [series] = (await EventRepository(session).page()).items
            await EventRepository(session).update(series.id, rrule="FREQ=DAILY")
            start = series.start_datetime

        async def move(minutes: int) -> UUID:
            async with get_db() as session:
                at = start + timedelta(minutes=minutes)
                return (await EventRepository(session).reschedule(series.id, at, recurrence_id=start)).id

        assert len(set(await asyncio.gather(*(move(n) for n in range(10))))) == 1
