"""The registry of tenants. Its methods need no current tenant."""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping
from typing import TYPE_CHECKING, Any, Final, TypeVar, Unpack
from uuid import UUID

from sqlalchemy import select

from src.database.errors import NotFoundError
from src.database.models import Tenant, limits
from src.database.observability import names_statements
from src.database.session import AsyncSession
from src.database.statements import Keyset, Page, check_limit, tenants

if TYPE_CHECKING:
    from src.database.models import attributes

ACTIVE_BATCH: Final = 100

T = TypeVar("T")


@names_statements
class TenantRepository:
    """The registry of tenants.

    Row-level security restricts your own SQL to changing the entry of the current tenant. The methods of this class
    name the entry to the server before they change it, so they change any entry, with or without a current tenant.

    `active` skips suspended tenants, and so do the workers that iterate over it. Suspending a tenant does not stop its
    sessions, because a check would add a round trip to each of them. `TenantMiddleware` checks the status for requests;
    in a service without it, check the status where you authenticate users.
    """

    def __init__(self, session: AsyncSession) -> None:
        self.session = session

    async def create(self, slug: str, name: str, *, retention_days: int | None = None) -> Tenant:
        """Register a tenant.

        Args:
            slug: The name of the tenant in commands: 1 to 63 characters from a-z, 0-9 and dashes, not beginning
                with a dash.
            name: The name to display, 1 to 200 characters.
            retention_days: How long messages are kept, 1 day or more. None keeps them forever.

        Raises:
            DuplicateKeyError: Another tenant has the slug.
            ValueError: An argument is outside these limits.

        Example:
            acme = await TenantRepository(session).create("acme", "Acme Ltd.", retention_days=365)
        """
        _check({"slug": slug, "name": name, "retention_days": retention_days})
        tenant = Tenant(slug=slug, name=name, retention_days=retention_days)
        self.session.add(tenant)
        await self.session.flush()
        return tenant

    async def get(self, tenant_id: UUID) -> Tenant:
        """Return the tenant with this id.

        Raises:
            NotFoundError: There is no such tenant.
        """
        return _found(await self.session.scalar(select(Tenant).where(Tenant.id == tenant_id)), tenant_id)

    async def get_by_slug(self, slug: str) -> Tenant | None:
        """Return the tenant with this slug, or None."""
        tenant: Tenant | None = await self.session.scalar(select(Tenant).where(Tenant.slug == slug))
        return tenant

    async def update(self, tenant_id: UUID, /, **values: Unpack[attributes.TenantChanges]) -> Tenant:
        """Update attributes of a tenant: any of `slug`, `name`, `status`, `retention_days` and `extra`.

        Raises:
            DuplicateKeyError: Another tenant has the slug.
            NotFoundError: There is no such tenant.
            ValueError: An attribute cannot be set, or its value is outside the limits that `create` documents.
        """
        _check(values)
        return await (self._set(tenant_id, **values) if values else self.get(tenant_id))

    async def suspend(self, tenant_id: UUID) -> Tenant:
        """Suspend a tenant, so that workers skip it. Suspending a suspended tenant is not an error.

        Raises:
            NotFoundError: There is no such tenant.
        """
        return await self._set(tenant_id, status="suspended")

    async def activate(self, tenant_id: UUID) -> Tenant:
        """Activate a suspended tenant. Activating an active tenant is not an error.

        Raises:
            NotFoundError: There is no such tenant.
        """
        return await self._set(tenant_id, status="active")

    async def delete(self, tenant_id: UUID) -> None:
        """Delete a tenant from the registry. The tenant must not have rows in other tables.

        Raises:
            ForeignKeyError: The tenant still has such rows.
            NotFoundError: There is no such tenant.
        """
        _found(await tenants.delete_tenant(self.session, tenant_id), tenant_id)

    async def page(
        self, *, status: limits.TenantStatus | None = None, after: str | None = None, limit: int = 50
    ) -> Page[Tenant]:
        """Return one page of tenants, in the order of their registration.

        Args:
            status: Only tenants with this status.
            after: The `next_cursor` of the previous page.
            limit: The largest number of tenants in the page, 1 to 1000.

        Raises:
            InvalidCursorError: The cursor is not from this query.
            ValueError: The limit or the status is invalid.
        """
        check_limit(limit)
        statement = select(Tenant)
        if status is not None:
            limits.TENANT_STATUS.check("status", status)
            statement = statement.where(Tenant.status == status)
        order = Keyset.of(Tenant)
        return order.page(list(await self.session.scalars(order.begin(statement, after).limit(limit + 1))), limit)

    async def active(self) -> AsyncIterator[Tenant]:
        """Yield the active tenants, in constant memory.

        The transaction of each batch ends before its tenants are yielded, so a slow worker holds none open. A
        transaction that was open before the first tenant stays open.

        Example:
            async for tenant in TenantRepository(session).active():
                with tenant_context(tenant.id):
                    async with get_db() as tenants_session:
                        await purge_expired(tenants_session)
        """
        cursor: str | None = None
        while True:
            is_own_transaction = not self.session.in_transaction()
            page = await self.page(status="active", after=cursor, limit=ACTIVE_BATCH)
            if is_own_transaction:  # commit instead of rollback, which would expire the tenants to yield
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
        ValueError: An attribute cannot be set, or a value is outside its limit.
    """
    for name, value in values.items():
        if name not in limits.TENANTS:
            raise ValueError(
                f"Tenant.{name} cannot be set: it is unknown, or never changes; these can be set:"
                f" {', '.join(limits.TENANTS)}"
            )
        if value is None and name != "retention_days":
            raise ValueError(f"{name} must not be None")
        limits.TENANTS[name].check(name, value)


def _found(found: T | None, tenant_id: UUID) -> T:
    if found is None:
        raise NotFoundError(f"there is no tenant with id {tenant_id}", hint="`thea-db tenant list` shows all tenants")
    return found
