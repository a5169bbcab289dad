"""Repository.upsert, called concurrently."""

from __future__ import annotations

import asyncio

import pytest

from src.database import get_db
from src.database.base import uuid7
from src.database.models import Tenant
from src.database.repositories import UserRepository
from src.database.session import tenant_context


@pytest.mark.usefixtures("cloned_database")
async def test_one_of_many_concurrent_upserts_inserts_and_none_is_lost() -> None:
    async def upsert(n: int) -> str:
        async with get_db() as session:
            done = await UserRepository(session).upsert(
                {"telegram_id": 1, "display_name": str(n % 4)}, key=["telegram_id"]
            )
            return done.outcome

    outcomes = await asyncio.gather(*(upsert(n) for n in range(16)))

    assert outcomes.count("inserted") == 1
    assert set(outcomes) <= {"inserted", "updated", "unchanged"}
    async with get_db() as session:
        assert await UserRepository(session).count() == 1


@pytest.mark.usefixtures("cloned_database")
async def test_two_tenants_upsert_the_same_key_each_for_itself() -> None:
    tenants = [uuid7(), uuid7()]
    async with get_db() as session:
        session.add_all([Tenant(id=each, slug=each.hex, name="x") for each in tenants])
    rows = []
    for each in tenants:
        with tenant_context(each):
            async with get_db() as session:
                rows.append(await UserRepository(session).upsert({"telegram_id": 1}, key=["telegram_id"]))

    assert [row.outcome for row in rows] == ["inserted", "inserted"]
    assert [row.row.tenant_id for row in rows] == tenants
