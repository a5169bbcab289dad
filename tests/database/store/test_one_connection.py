"""A pool of one connection, three tenants at random, and cancellations at any await of a call."""

from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass, field
from typing import Any
from uuid import UUID

import pytest
from sqlalchemy import URL

from src.config import Settings
from src.database import get_db, get_engine, tenant_context
from src.database.base import uuid7
from src.database.models import Tenant
from src.database.store import get_store
from tests.database.store.paths import new_message

MOST_TURNS_OF_THE_LOOP = 120
"""More iterations of the event loop than a call takes."""


@dataclass
class Service:
    """The messages of one tenant: the acknowledged keys, and those that a cancelled call may have stored."""

    tenant: UUID
    conversation: UUID
    acknowledged: list[str] = field(default_factory=list)
    uncertain: list[str] = field(default_factory=list)
    ended: int = 0

    async def append(self, key: str) -> None:
        row = await get_store().append(self.conversation, new_message(key))
        assert row.inserted or key in self.uncertain
        self.acknowledged.append(key)

    async def turn(self, key: str) -> None:
        turn = await get_store().turn(1, "telegram", "1", [new_message(key)], recent=1000)
        assert turn.conversation.id == self.conversation
        self.acknowledged.append(key)
        if turn.appended[0].inserted:  # otherwise a cancelled call has stored the key before
            self.check([row.message_id for row in turn.recent], [key])

    async def recent(self, key: str) -> None:
        del key
        rows = await get_store().recent(self.conversation, limit=1000)
        self.check([row.message_id for row in rows])
        assert [row.seq for row in rows] == list(range(1, len(rows) + 1))

    def check(self, stored: list[str], new: list[str] = []) -> None:  # noqa: B006 - only read
        """Check that each acknowledged key is stored once, and that every stored key was sent."""
        stored = [*stored, *(key for key in new if key not in stored)]
        assert len(stored) == len(set(stored))
        assert set(self.acknowledged) <= set(stored) <= {*self.acknowledged, *self.uncertain}


@pytest.fixture
async def services(cloned_database: URL, use_database: Callable[..., Settings]) -> AsyncIterator[list[Service]]:
    use_database(cloned_database.update_query_dict({"pool_max": "1"}))
    tenants = [uuid7() for _ in range(3)]
    async with get_db() as session:
        session.add_all(Tenant(id=one, slug=str(one), name="T") for one in tenants)
    made = []
    for tenant in tenants:
        with tenant_context(tenant):
            turn = await get_store().turn(1, "telegram", "1", [new_message("first")])
        made.append(Service(tenant, turn.conversation.id, ["first"]))
    yield made
    await get_engine("store").dispose()


async def cancelled_after(turns: int, call: Any) -> bool:
    """Run a call, cancel it after this number of iterations of the loop, and return True if it was cancelled."""
    task = asyncio.ensure_future(call)
    for _ in range(turns):
        if task.done():
            break
        await asyncio.sleep(0)
    task.cancel()
    try:
        await task
    except asyncio.CancelledError:
        return True
    return False


@pytest.mark.slow
async def test_cancellations_do_not_lose_double_or_mix_up_messages(services: list[Service], *, is_long: bool) -> None:
    """300 steps; with `--long` 10,000."""
    seed = random.SystemRandom().getrandbits(32)
    dice, is_cancelled = random.Random(seed), 0  # noqa: S311 - not for security
    try:
        for number in range(10_000 if is_long else 300):
            service = dice.choice(services)
            # The same key for each tenant now and then; a key whose call was cancelled is sent again.
            key = dice.choice(service.uncertain) if service.uncertain and dice.random() < 0.2 else f"k{number}"
            if key not in service.uncertain:
                service.uncertain.append(key)
            call = dice.choice([service.append, service.append, service.turn, service.recent])
            if len(service.acknowledged) > 800:
                continue  # a window has at most 1000
            with tenant_context(service.tenant):
                if dice.random() < 0.5:
                    is_cancelled += await cancelled_after(dice.randrange(MOST_TURNS_OF_THE_LOOP), call(key))
                else:
                    await call(key)
            if key in service.acknowledged:
                service.uncertain.remove(key)
                service.acknowledged = list(dict.fromkeys(service.acknowledged))
            assert get_store().pool.size <= 1
        for service in services:
            with tenant_context(service.tenant):
                await service.recent("")
    except BaseException as error:
        error.add_note(f"the seed was {seed}")
        raise

    assert is_cancelled > 30
    assert (get_store().pool.size, get_store().pool.in_use, get_store().pool.waiting) == (1, 0, 0)
