"""Compile a select so that it binds its own transaction to the tenant: no connection has to keep a tenant."""

from __future__ import annotations

from typing import Any, Final, TypeVar
from uuid import UUID

from sqlalchemy import BindParameter, ColumnClause, Uuid, bindparam, literal_column
from sqlalchemy.sql.visitors import replacement_traverse

SelectT = TypeVar("SelectT")

TENANT: Final = "current_tenant"
"""The name of the parameter for the tenant in a select."""
_BOUND_TENANT: Final[ColumnClause[Any]] = literal_column("bound.tenant_id")


def tenant_parameter(tenant_id: UUID | BindParameter[UUID]) -> BindParameter[UUID]:
    """Return a tenant's id as the parameter that `in_fence` replaces; a parameter is returned unchanged."""
    return tenant_id if isinstance(tenant_id, BindParameter) else bindparam(TENANT, tenant_id, type_=Uuid())


def in_fence(select: SelectT) -> SelectT:
    """Return a copy of a select that takes the tenant from the row of the fence around it."""
    inside: SelectT = replacement_traverse(select, {}, _bound_tenant)  # type: ignore[call-overload] # of any element
    return inside


def fenced(sql: str, *, tenant: int) -> str:
    """Return the text of a select of `in_fence` with a fence around it.

    The fence is a subquery in which `set_config` binds the transaction. The select is a LATERAL that depends on its
    row, so that the policies of the tables are evaluated after the binding. With any other order the select would
    return no rows, and never those of another tenant.

    Args:
        sql: The compiled select, without an OFFSET.
        tenant: The number of the parameter for the tenant in the text.
    """
    # OFFSET 0 keeps the planner from flattening either subquery and reordering them. The third argument of set_config
    # makes the setting local to the transaction; outside of a transaction, it ends with the statement.
    return (
        f"SELECT q.* FROM (SELECT pg_catalog.set_config('app.tenant_id', ${tenant}, true)::uuid"  # noqa: S608
        f" AS tenant_id OFFSET 0) AS bound CROSS JOIN LATERAL ({sql} OFFSET 0) AS q"
    )


def _bound_tenant(element: Any, **_options: Any) -> Any:
    return _BOUND_TENANT if isinstance(element, BindParameter) and element.key == TENANT else None
