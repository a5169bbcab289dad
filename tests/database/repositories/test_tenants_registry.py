"""TenantRepository: the registry works without a current tenant; other SQL can change the current entry only."""

from __future__ import annotations

import asyncio
from typing import Any
from uuid import UUID

import pytest
from sqlalchemy import URL, select, text
from sqlalchemy.ext.asyncio import AsyncEngine

from src.database import get_db, get_read_db, tenant_context
from src.database.base import uuid7
from src.database.errors import DuplicateKeyError, ForeignKeyError, NotFoundError, StaleDataError
from src.database.models import Tenant, User
from src.database.repositories import TenantRepository, UserRepository
from src.database.schemas import TenantUpdate
from src.database.session import AsyncSession
from src.database.statements.pagination import InvalidCursorError
from tests.database.conftest import A, B


@pytest.fixture
def tenants(session: AsyncSession) -> TenantRepository:
    return TenantRepository(session)


async def of_test(tenants: TenantRepository) -> list[str]:
    return [tenant.slug async for tenant in tenants.active() if tenant.slug.startswith("t-")]


async def test_registers_a_tenant_and_finds_it(tenants: TenantRepository) -> None:
    made = await tenants.create("t-acme", "Acme", retention_days=90)

    assert (made.status, made.retention_days) == ("active", 90)
    assert await tenants.get(made.id) is made
    assert await tenants.get_by_slug("t-acme") is made
    assert await tenants.get_by_slug("T-ACME") is None


@pytest.mark.parametrize("slug", ["", "-a", "A", "a_b", "a" * 64, "a\n", "ñ", "a\0"])
async def test_rejects_a_slug_that_the_database_would_refuse(tenants: TenantRepository, slug: str) -> None:
    with pytest.raises(ValueError, match="slug must be 1 to 63 characters from a-z, 0-9 and dashes"):
        await tenants.create(slug, "Acme")


@pytest.mark.parametrize(("name", "days"), [("", None), ("x" * 201, None), ("x", 0), ("x", -1), ("x", 2**31)])
async def test_rejects_an_invalid_name_or_retention(tenants: TenantRepository, name: str, days: int | None) -> None:
    with pytest.raises(ValueError, match=r"must be (1 to 200|a whole number from 1)"):
        await tenants.create("t-acme", name, retention_days=days)


async def test_accepts_values_at_their_limits(tenants: TenantRepository) -> None:
    made = await tenants.create("t" + "-" * 62, "x" * 200, retention_days=2**31 - 1)

    assert made.status == "active"


async def test_changes_only_the_given_attributes(tenants: TenantRepository) -> None:
    made = await tenants.create("t-acme", "Acme", retention_days=90)
    change = TenantUpdate.model_validate({"retention_days": None, "extra": {"plan": "x"}})

    changed = await tenants.update(made.id, **change.to_values())

    assert changed is made
    assert (made.slug, made.name, made.status, made.retention_days) == ("t-acme", "Acme", "active", None)
    assert made.extra == {"plan": "x"}
    assert await tenants.update(made.id) is made
    assert (await tenants.update(made.id, slug="t-b", name="B", status="suspended")).slug == "t-b"
    with pytest.raises(NotFoundError):
        await tenants.update(uuid7(), name="x")
    with pytest.raises(NotFoundError):
        await tenants.update(uuid7())


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"id": uuid7()}, r"Tenant\.id cannot be set"),
        ({"nonsense": 1}, r"Tenant\.nonsense cannot be set: .* these can be set: slug, name"),
        ({"slug": None}, "slug must not be None"),
        ({"name": None}, "name must not be None"),
        ({"status": "gone"}, "status must be one of active, suspended, got 'gone'"),
        ({"status": None}, "status must not be None"),
        ({"retention_days": 0}, "retention_days must be a whole number from 1"),
        ({"retention_days": True}, "retention_days must be a whole number from 1"),
        ({"extra": None}, "extra must not be None"),
    ],
)
async def test_rejects_an_invalid_change(tenants: TenantRepository, values: dict[str, Any], message: str) -> None:
    made = await tenants.create("t-acme", "Acme")

    with pytest.raises(ValueError, match=message):
        await tenants.update(made.id, **values)
    with pytest.raises(ValueError, match="status must be one of active, suspended, got 'gone'"):
        await tenants.page(status="gone")  # type: ignore[arg-type] # on purpose


async def test_a_second_tenant_cannot_have_the_same_slug(tenants: TenantRepository) -> None:
    await tenants.create("t-acme", "Acme")

    with pytest.raises(DuplicateKeyError):
        await tenants.create("t-acme", "Other")


async def test_a_suspended_tenant_is_skipped_until_it_is_activated(tenants: TenantRepository) -> None:
    one, two = await tenants.create("t-one", "1"), await tenants.create("t-two", "2")

    assert (await tenants.suspend(one.id)).status == "suspended"
    assert await of_test(tenants) == ["t-two"]
    await tenants.suspend(one.id)
    assert (await tenants.activate(one.id)) is one
    assert await of_test(tenants) == ["t-one", "t-two"]
    assert two.status == "active"


@pytest.mark.parametrize("method", ["get", "suspend", "activate", "delete"])
async def test_an_unknown_tenant_is_an_error(tenants: TenantRepository, method: str) -> None:
    with pytest.raises(NotFoundError, match="there is no tenant with id"):
        await getattr(tenants, method)(uuid7())


async def test_iterates_over_more_tenants_than_a_batch(
    tenants: TenantRepository, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("src.database.repositories.tenants.ACTIVE_BATCH", 2)
    slugs = [(await tenants.create(f"t-{number}", "x")).slug for number in range(5)]

    assert await of_test(tenants) == slugs


async def test_pages_follow_one_another(tenants: TenantRepository, session: AsyncSession) -> None:
    made = [await tenants.create(f"t-{number}", "x") for number in range(5)]
    await tenants.suspend(made[2].id)
    found: list[Tenant] = []
    cursor = None
    while True:
        page = await tenants.page(status="active", after=cursor, limit=2)
        found += page.items
        cursor = page.next_cursor
        if cursor is None:
            break

    assert [tenant for tenant in found if tenant.slug.startswith("t-")] == [*made[:2], *made[3:]]
    assert len((await tenants.page(limit=1)).items) == 1
    with pytest.raises(InvalidCursorError):
        await tenants.page(after="forged")
    with pytest.raises(ValueError, match="limit must be"):
        await tenants.page(limit=0)


@pytest.mark.usefixtures("engine")
async def test_works_without_a_current_tenant() -> None:
    async with get_db() as session:
        tenants = TenantRepository(session)
        made = await tenants.create("t-new", "New")
        await tenants.suspend(made.id)

        assert made.slug not in await of_test(tenants)
        assert (await tenants.get(A)).slug == "a"


@pytest.mark.usefixtures("engine")
@pytest.mark.parametrize("scope", [get_db, get_read_db])
async def test_a_worker_serves_one_tenant_after_the_other_without_an_open_transaction(
    scope: type, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("src.database.repositories.tenants.ACTIVE_BATCH", 1)
    seen = []
    async with scope() as registry:
        async for tenant in TenantRepository(registry).active():
            with tenant_context(tenant.id):
                async with get_db() as session:
                    seen.append((tenant.id, await UserRepository(session).count()))
            assert not registry.in_transaction()

    assert {A, B} <= {tenant_id for tenant_id, _ in seen}
    assert all(count == 1 for tenant_id, count in seen if tenant_id in (A, B))


async def test_iterating_does_not_commit_earlier_writes(cloned_database: URL) -> None:
    """Going through the tenants ends only a transaction that it began."""
    async with get_db() as session:
        await TenantRepository(session).create("t-new", "New")
        assert "t-new" in await of_test(TenantRepository(session))
        await session.rollback()
    async with get_db() as session:
        assert await TenantRepository(session).get_by_slug("t-new") is None


async def test_a_tenant_with_users_cannot_be_deleted(
    tenants: TenantRepository, session: AsyncSession, user: User
) -> None:
    with pytest.raises(ForeignKeyError, match=r"still has rows in other tables\nhint: stop its services; .* erase"):
        await tenants.delete(session.tenant_id)


async def test_one_of_two_concurrent_registrations_of_a_slug_succeeds(cloned_database: URL) -> None:
    async def register() -> None:
        async with get_db() as session:
            await TenantRepository(session).create("t-new", "New")

    done = await asyncio.gather(*(register() for _ in range(4)), return_exceptions=True)

    assert sorted(type(one).__name__ for one in done) == ["DuplicateKeyError"] * 3 + ["NoneType"]


@pytest.fixture
async def entries(tenants: TenantRepository, tenant_id: UUID) -> tuple[Tenant, Tenant]:
    """The current tenant's entry and another's."""
    other = await tenants.create("t-other", "Other", retention_days=90)
    return await tenants.get(tenant_id), other


@pytest.mark.parametrize("change", ["status = 'suspended'", "retention_days = 1", "slug = 't-taken', name = 'Taken'"])
async def test_sql_of_a_tenant_changes_its_own_entry_alone(
    session: AsyncSession, entries: tuple[Tenant, Tenant], change: str
) -> None:
    statement = text(f"UPDATE tenants SET {change} RETURNING id")  # noqa: S608 - the test's own constants

    changed = list(await session.scalars(statement))

    assert changed == [entries[0].id]


async def test_sql_of_a_tenant_removes_its_own_entry_alone(
    session: AsyncSession, entries: tuple[Tenant, Tenant]
) -> None:
    statement = text("DELETE FROM tenants RETURNING id")

    assert list(await session.scalars(statement)) == [entries[0].id]


async def test_a_mapped_change_of_another_tenants_entry_is_an_error(
    session: AsyncSession, entries: tuple[Tenant, Tenant]
) -> None:
    entries[1].status = "suspended"

    with pytest.raises(StaleDataError):
        await session.flush()


async def test_without_a_current_tenant_sql_changes_no_entry(engine: AsyncEngine) -> None:
    async with AsyncSession(engine) as session:
        changed = await session.scalars(text("UPDATE tenants SET status = 'suspended' RETURNING id"))

        assert list(changed) == []


async def test_changing_an_entry_does_not_bind_the_session_to_its_tenant(
    session: AsyncSession, tenants: TenantRepository, entries: tuple[Tenant, Tenant]
) -> None:
    own, other = entries
    pending = User(display_name="Ada")
    session.add(pending)

    await tenants.update(other.id, status="suspended", retention_days=1)
    await UserRepository(session).add(User(display_name="Bob"))

    seen = select(text("tenant_id")).select_from(text("users"))
    assert set(await session.scalars(seen)) == {own.id}
    assert pending.tenant_id == own.id


async def test_sql_can_change_the_entry_that_a_method_named_until_the_transaction_ends(engine: AsyncEngine) -> None:
    statement = text("UPDATE tenants SET name = 'X' RETURNING id")
    async with AsyncSession(engine) as session:
        await TenantRepository(session).suspend(A)
        assert list(await session.scalars(statement)) == [A]
        await session.commit()
        assert list(await session.scalars(statement)) == []
