"""Goes through the tenants in a migration, and binds its connection to one of them, as row-level security wants."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final
from uuid import UUID

from sqlalchemy import Connection, Uuid, bindparam, text

__all__ = ["TENANT", "bind", "tenants"]

PAGE: Final = 1000
TENANT: Final = bindparam("tenant_id", type_=Uuid())
_BIND: Final = text("SELECT app_set_tenant(:tenant_id)").bindparams(TENANT)
_AFTER: Final = text("SELECT id FROM tenants WHERE id > :after ORDER BY id LIMIT :page").bindparams(
    bindparam("after", type_=Uuid())
)
_BEFORE_ALL: Final = UUID(int=0)


def tenants(connection: Connection) -> Iterator[UUID]:
    """Yield the ids of all tenants, which every role may read; one registered meanwhile has a later id."""
    after = _BEFORE_ALL
    while page := connection.scalars(_AFTER, {"after": after, "page": PAGE}).all():
        yield from page
        after = page[-1]


def bind(connection: Connection, tenant_id: UUID | None) -> None:
    """Have the rest of the transaction see and write this tenant's rows; of None, nobody's."""
    connection.execute(_BIND, {"tenant_id": tenant_id})
