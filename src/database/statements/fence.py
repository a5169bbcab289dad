"""The form in which a select binds its own transaction to the tenant, so that no connection has to remember one."""

from __future__ import annotations

from typing import Any, Final, TypeVar
from uuid import UUID

from sqlalchemy import BindParameter, ColumnClause, Uuid, bindparam, literal_column
from sqlalchemy.sql.visitors import replacement_traverse

SelectT = TypeVar("SelectT")

TENANT: Final = "acting_tenant"
"""The name of the parameter that stands for the tenant in a select."""
_BOUND_TENANT: Final[ColumnClause[Any]] = literal_column("bound.tenant_id")


def tenant_parameter(tenant_id: UUID | BindParameter[UUID]) -> BindParameter[UUID]:
    """Return a tenant as the parameter that a fence replaces; a parameter stays as it is."""
    return tenant_id if isinstance(tenant_id, BindParameter) else bindparam(TENANT, tenant_id, type_=Uuid())


def in_fence(select: SelectT) -> SelectT:
    """Return a select in which the tenant is the one that the fence around it binds."""
    inside: SelectT = replacement_traverse(select, {}, _bound_tenant)  # type: ignore[call-overload] # of any element
    return inside


def fenced(sql: str, *, tenant: int) -> str:
    """Return the text of a select of `in_fence` with the fence around it.

    The select stands in a LATERAL that depends on the row in which `set_config` binds the transaction: the policies of
    the tables are evaluated after the binding. Both OFFSET 0 keep the planner from flattening the subqueries and
    choosing another order; with another order the select would find nothing, and never another tenant's row.
    `set_config` is local to the transaction: outside of one, the binding ends with the statement.

    Args:
        sql: The compiled select, without an OFFSET.
        tenant: The number of the text's parameter for the tenant.
    """
    return (
        f"SELECT q.* FROM (SELECT pg_catalog.set_config('app.tenant_id', ${tenant}, true)::uuid"  # noqa: S608
        f" AS tenant_id OFFSET 0) AS bound CROSS JOIN LATERAL ({sql} OFFSET 0) AS q"
    )


def _bound_tenant(element: Any, **_options: Any) -> Any:
    return _BOUND_TENANT if isinstance(element, BindParameter) and element.key == TENANT else None
