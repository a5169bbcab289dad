"""What may stand in a query's WHERE, and what the loaders of relationships add to theirs."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any
from uuid import UUID

from sqlalchemy import ColumnExpressionArgument, Table, and_
from sqlalchemy.orm import with_loader_criteria
from sqlalchemy.sql import visitors
from sqlalchemy.sql.base import ExecutableOption
from sqlalchemy.sql.elements import ClauseElement, ColumnClause, TextClause
from sqlalchemy.sql.selectable import FromClause, SelectBase

from src.database.base import Base, TenantBase
from src.database.models import MessageHistory
from src.database.repositories.deleted import conversation_is_there

__all__ = ["Condition", "Option", "check_conditions", "within"]

Condition = ColumnExpressionArgument[bool]
Option = ExecutableOption


def check_conditions(model: type[TenantBase], conditions: Sequence[Any]) -> None:
    """Refuse what is not an expression over mapped attributes of the model: text, and other tables' columns.

    Raises:
        ValueError: One of them is something else.
    """
    for condition in conditions:
        element = _expression(condition)
        foreign = type(condition).__name__ if element is None else _foreign_part(element, model.__table__)
        if foreign is not None:
            name = model.__name__
            raise ValueError(
                f"a condition must be an expression over {name}'s mapped attributes, e.g. {name}.id == row_id; got"
                f" {foreign}"
            )


def within(tenant_id: UUID) -> list[Option]:
    """Have the loaders of relationships name the tenant as every query does, and pass over what is deleted."""
    options: list[Option] = []
    for mapper in Base.registry.mappers:
        model = mapper.class_
        if issubclass(model, TenantBase):
            visible = [model.deleted_at.is_(None)] if hasattr(model, "deleted_at") else []
            if model is MessageHistory:
                visible.append(conversation_is_there(tenant_id))
            options.append(with_loader_criteria(model, and_(model.tenant_id == tenant_id, *visible)))
    return options


def _expression(condition: Any) -> ClauseElement | None:
    if hasattr(condition, "__clause_element__"):  # a mapped attribute that is a condition by itself
        condition = condition.__clause_element__()
    return condition if isinstance(condition, ClauseElement) else None


def _foreign_part(element: ClauseElement, table: FromClause) -> str | None:
    """Name what in an expression is neither a column of this table nor a value."""
    for part in visitors.iterate(element):
        if isinstance(part, TextClause):
            return "SQL text"
        if isinstance(part, SelectBase):
            return "a subquery"
        if isinstance(part, ColumnClause) and part.table is not table:
            of = part.table.name if isinstance(part.table, Table) else "no mapped table"
            return f"a column of {of}"
    return None
