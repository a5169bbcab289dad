"""Update and delete entries of the registry of tenants."""

from __future__ import annotations

from typing import Any
from uuid import UUID

from sqlalchemy import delete, text, update

from src.database.errors import ForeignKeyError
from src.database.models import Tenant
from src.database.session import AsyncSession


async def update_tenant(session: AsyncSession, tenant_id: UUID, **values: Any) -> Tenant | None:
    """Update attributes of a tenant, and return it, or None if it is not registered."""
    await _name_entry(session, tenant_id)
    statement = update(Tenant).where(Tenant.id == tenant_id).values(**values).returning(Tenant)
    options = {"populate_existing": True, "synchronize_session": False}
    tenant: Tenant | None = await session.scalar(statement, execution_options=options)
    return tenant


async def delete_tenant(session: AsyncSession, tenant_id: UUID) -> UUID | None:
    """Delete a tenant's entry, and return its id, or None if it is not registered.

    Raises:
        ForeignKeyError: The tenant has users.
    """
    await _name_entry(session, tenant_id)
    statement = delete(Tenant).where(Tenant.id == tenant_id).returning(Tenant.id)
    try:
        deleted: UUID | None = await session.scalar(statement, execution_options={"synchronize_session": "evaluate"})
    except ForeignKeyError as error:
        raise ForeignKeyError(
            f"the tenant {tenant_id} still has users",
            sqlstate=error.sqlstate,
            constraint=error.constraint,
            hint="stop its services; then `thea-db tenant erase` removes it with all that is held on it",
        ) from None
    return deleted


async def _name_entry(session: AsyncSession, tenant_id: UUID) -> None:
    """Set which entry this transaction may change beside its current tenant's, until it ends.

    The policy has a setting of its own for that: binding the transaction to the tenant in place of its own would
    show it that tenant's rows. SET takes no parameters, and set_config() does not reach the workers of Citus.
    """
    await session.execute(text(f"SET LOCAL app.registry_id = '{UUID(str(tenant_id))}'"))
