"""Update and delete tenants of the registry."""

from __future__ import annotations

from typing import Any
from uuid import UUID

from sqlalchemy import delete, text, update

from src.database.errors import ForeignKeyError
from src.database.models import Tenant
from src.database.session import AsyncSession


async def update_tenant(session: AsyncSession, tenant_id: UUID, **values: Any) -> Tenant | None:
    """Update attributes of a tenant and return it; return None if it is not registered."""
    await _allow_entry(session, tenant_id)
    statement = update(Tenant).where(Tenant.id == tenant_id).values(**values).returning(Tenant)
    options = {"populate_existing": True, "synchronize_session": False}
    tenant: Tenant | None = await session.scalar(statement, execution_options=options)
    return tenant


async def delete_tenant(session: AsyncSession, tenant_id: UUID) -> UUID | None:
    """Delete a tenant from the registry and return its id; return None if it is not registered.

    Raises:
        ForeignKeyError: The tenant has rows in other tables.
    """
    await _allow_entry(session, tenant_id)
    statement = delete(Tenant).where(Tenant.id == tenant_id).returning(Tenant.id)
    try:
        deleted: UUID | None = await session.scalar(statement, execution_options={"synchronize_session": "evaluate"})
    except ForeignKeyError as error:
        raise ForeignKeyError(
            f"the tenant {tenant_id} still has rows in other tables",
            sqlstate=error.sqlstate,
            constraint=error.constraint,
            hint="stop its services; then `thea-db tenant erase` deletes the tenant with all of its rows",
        ) from None
    return deleted


async def _allow_entry(session: AsyncSession, tenant_id: UUID) -> None:
    """Allow this transaction to change the registry's row of a tenant other than the current one.

    The policy of the registry reads a setting of its own for this. Binding the transaction to the other tenant instead
    would give it that tenant's rows. SET takes no parameters, and Citus does not send set_config() to its workers; the
    value is formatted as a UUID, so that it cannot contain SQL.
    """
    await session.execute(text(f"SET LOCAL app.registry_id = '{UUID(str(tenant_id))}'"))
