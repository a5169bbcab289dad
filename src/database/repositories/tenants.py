"""The registry of tenants, which needs no current tenant."""

from __future__ import annotations

import re
from collections.abc import AsyncIterator, Mapping
from typing import Any, Final, Literal, TypeVar, get_args
from uuid import UUID

from sqlalchemy import select

from src.database.errors import NotFoundError
from src.database.models import Tenant
from src.database.models.limits import SLUG, TENANT_NAME
from src.database.observability import names_statements
from src.database.session import AsyncSession
from src.database.statements import Keyset, Page, check_limit, tenants

ACTIVE_BATCH: Final = 100
LARGEST_RETENTION_DAYS: Final = 2**31 - 1

_SLUG: Final = re.compile(SLUG)

Status = Literal["active", "suspended"]
T = TypeVar("T")

_CHANGING: Final = ("slug", "name", "status", "retention_days", "extra")


@names_statements
class TenantRepository:
    """The registry of tenants. Reading an entry needs no current tenant, and neither does changing one here.

    Row-level security lets SQL of your own change the current tenant's entry alone. The methods of this class name the
    entry that they change to the server.

    A suspended tenant is passed over by `active`, and so by the workers that go through it. Its sessions work on: to
    ask the registry would cost each of them a round trip. Who lets people in asks here.
    """

    def __init__(self, session: AsyncSession) -> None:
        self.session = session

    async def create(self, slug: str, name: str, *, retention_days: int | None = None) -> Tenant:
        """Register a tenant.

        Args:
            slug: What people and commands call it: 1 to 63 of a-z, 0-9 and dashes, no dash first.
            name: What is shown, 1 to 200 characters.
            retention_days: How long messages are kept; None: for ever.

        Raises:
            DuplicateKeyError: The slug is taken.
            ValueError: The slug, the name or the retention is not as said here.
        """
        _check({"slug": slug, "name": name, "retention_days": retention_days})
        tenant = Tenant(slug=slug, name=name, retention_days=retention_days)
        self.session.add(tenant)
        await self.session.flush()
        return tenant

    async def get(self, tenant_id: UUID) -> Tenant:
        """Return the tenant of this id.

        Raises:
            NotFoundError: There is none.
        """
        return _found(await self.session.scalar(select(Tenant).where(Tenant.id == tenant_id)), tenant_id)

    async def get_by_slug(self, slug: str) -> Tenant | None:
        """Return the tenant with this slug, or None."""
        tenant: Tenant | None = await self.session.scalar(select(Tenant).where(Tenant.slug == slug))
        return tenant

    async def update(self, tenant_id: UUID, /, **values: Any) -> Tenant:
        """Change attributes of a tenant: `slug`, `name`, `status`, `retention_days`, `extra`; the others stay.

        Raises:
            DuplicateKeyError: The slug is taken.
            NotFoundError: There is none of this id.
            ValueError: An attribute is unknown or never changes, or its value is not as `create` says.
        """
        _check(values)
        return await (self._set(tenant_id, **values) if values else self.get(tenant_id))

    async def suspend(self, tenant_id: UUID) -> Tenant:
        """Suspend a tenant: workers skip it. A suspended one stays so.

        Raises:
            NotFoundError: There is none of this id.
        """
        return await self._set(tenant_id, status="suspended")

    async def activate(self, tenant_id: UUID) -> Tenant:
        """Activate a tenant: workers serve it again. An active one stays so.

        Raises:
            NotFoundError: There is none of this id.
        """
        return await self._set(tenant_id, status="active")

    async def delete(self, tenant_id: UUID) -> None:
        """Delete a tenant from the registry, once it has no rows.

        Raises:
            ForeignKeyError: It has users.
            NotFoundError: There is none of this id.
        """
        _found(await tenants.delete_tenant(self.session, tenant_id), tenant_id)

    async def page(self, *, status: Status | None = None, after: str | None = None, limit: int = 50) -> Page[Tenant]:
        """Return one page, in the order in which they were registered.

        Args:
            status: Only these.
            after: The cursor of the page before.
            limit: Tenants a page, 1 to 1000.

        Raises:
            InvalidCursorError: The cursor is not one of this query's.
            ValueError: The limit or the status cannot serve.
        """
        check_limit(limit)
        statement = select(Tenant)
        if status is not None:
            _check_status(status)
            statement = statement.where(Tenant.status == status)
        order = Keyset.of(Tenant)
        return order.page(list(await self.session.scalars(order.begin(statement, after).limit(limit + 1))), limit)

    async def active(self) -> AsyncIterator[Tenant]:
        """Yield the active tenants, as a worker needs them, in constant memory.

        Between batches nothing stays open, however long a worker takes for each: a transaction that this begins, it
        also ends. In a transaction that was begun before, it stays inside.
        """
        cursor: str | None = None
        while True:
            is_own_transaction = not self.session.in_transaction()
            page = await self.page(status="active", after=cursor, limit=ACTIVE_BATCH)
            if is_own_transaction:  # nothing is written in it
                await self.session.commit()
            for tenant in page.items:
                yield tenant
            if (cursor := page.next_cursor) is None:
                return

    async def _set(self, tenant_id: UUID, **values: Any) -> Tenant:
        return _found(await tenants.update_tenant(self.session, tenant_id, **values), tenant_id)


def _check(values: Mapping[str, Any]) -> None:
    """Check attributes of a tenant.

    Raises:
        ValueError: An attribute is unknown, or a value cannot be.
    """
    if unknown := sorted(values.keys() - _CHANGING):
        raise ValueError(
            f"Tenant.{unknown[0]} cannot be set: it is unknown, or never changes; known: {', '.join(_CHANGING)}"
        )
    if "slug" in values and not (isinstance(values["slug"], str) and _SLUG.fullmatch(values["slug"])):
        slug = values["slug"]
        raise ValueError(f"slug must be 1 to 63 of a-z, 0-9 and dashes, and not begin with a dash, got {slug!r}")
    if not isinstance(name := values.get("name", "-"), str):
        raise ValueError(f"name must be 1 to {TENANT_NAME.maximum} characters, got {type(name).__name__}")  # noqa: TRY004
    TENANT_NAME.check("name", name)
    _check_status(values.get("status", "active"))
    days = values.get("retention_days")
    if days is not None and not (type(days) is int and 1 <= days <= LARGEST_RETENTION_DAYS):
        raise ValueError(f"retention_days must be 1 or more, or None to keep for ever, got {days}")
    if not isinstance(values.get("extra", {}), dict):
        raise ValueError(f"extra must be a dict, got {type(values['extra']).__name__}")  # noqa: TRY004 - bad input


def _check_status(status: Any) -> None:
    if status not in get_args(Status):
        raise ValueError(f"status must be one of {', '.join(get_args(Status))}, got {status!r}")


def _found(found: T | None, tenant_id: UUID) -> T:
    if found is None:
        raise NotFoundError(f"there is no tenant with id {tenant_id}", hint="`thea-db tenant list` shows them")
    return found
