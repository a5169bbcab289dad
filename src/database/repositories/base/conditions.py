"""Check the conditions and loader options of callers, and restrict the loaders of relationships to the tenant.

A condition is SQLAlchemy's own expression, so it could contain SQL text or a function that changes the tenant of the
transaction. Everything that a caller passes is checked here before it becomes part of a statement.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any, Final
from uuid import UUID

from sqlalchemy import ColumnExpressionArgument, Table, and_
from sqlalchemy.orm import Load, RelationshipProperty, with_loader_criteria
from sqlalchemy.sql import visitors
from sqlalchemy.sql.base import ExecutableOption
from sqlalchemy.sql.elements import ClauseElement, ColumnClause, Extract, TextClause
from sqlalchemy.sql.functions import FunctionElement
from sqlalchemy.sql.operators import custom_op
from sqlalchemy.sql.selectable import FromClause, SelectBase

from src.database.base import Base, TenantBase
from src.database.engine import criteria_of_option
from src.database.models import MessageHistory
from src.database.statements import windows

Condition = ColumnExpressionArgument[bool]
Option = ExecutableOption

_LOADED_WITH_THE_ROWS: Final = {
    None: "",  # `defaultload`: a step of the path to another loader
    (("lazy", "selectin"),): "selectinload",
    (("lazy", "joined"),): "joinedload",
    (("lazy", "subquery"),): "subqueryload",
    (("deferred", False), ("instrument", True)): "undefer",
}
_NOT_STREAMED: Final = {"joinedload", "subqueryload"}

_REBIND: Final = {"set_config", "app_set_tenant"}
"""Functions that can change the tenant of the transaction."""
_RUN_TEXT: Final = (
    {"query_to_xml", "query_to_xmlschema", "query_to_xml_and_xmlschema", "ts_stat", "ts_rewrite", "xpath_table"}
    | {"crosstab", "crosstab2", "crosstab3", "crosstab4", "crosstabn", "connectby"}
    | {"dblink", "dblink_exec", "dblink_open", "dblink_send_query"}
)
"""Functions that run the SQL text in an argument."""
_OPERATOR: Final = re.compile(r"(?!.*(--|/\*))[-+*/<>=~!@#%^&|`?]+")
_WORD_OPERATORS: Final = {"AT TIME ZONE", "ILIKE", "LIKE", "NOT SIMILAR TO", "OVERLAPS", "SIMILAR TO"} | {
    f"IS{negation} DISTINCT FROM" for negation in ("", " NOT")
}
_FIELD: Final = re.compile(r"\w+")


def check_conditions(model: type[TenantBase], conditions: Sequence[Any]) -> None:
    """Check that conditions are expressions over mapped attributes of the model, without SQL text or other tables.

    Raises:
        ValueError: A condition is something else.
    """
    for condition in conditions:
        element = _expression(condition)
        rejected = type(condition).__name__ if element is None else _rejected_part(element, model.__table__)
        if rejected is not None:
            name = model.__name__
            raise ValueError(
                f"a condition must be an expression over {name}'s mapped attributes, e.g. {name}.id == row_id; got"
                f" {rejected}"
            )


def check_options(model: type[TenantBase], options: Sequence[Any], *, streamed: bool = False) -> None:
    """Check that options are loaders of this model that load together with the rows, never on access.

    Args:
        model: The model that is read.
        options: The options of the caller.
        streamed: True if the rows are streamed, for which only `selectinload` can load a collection.

    Raises:
        ValueError: An option is something else.
    """
    name = model.__name__
    if isinstance(options, str) or not isinstance(options, Sequence):
        kind = type(options).__name__
        raise ValueError(f"options must be a list, e.g. [selectinload(...)], got {kind}")  # noqa: TRY004 - bad input
    for option in options:
        if not isinstance(option, Load):
            kind = type(option).__name__
            raise ValueError(f"an option must be a loader, e.g. selectinload(...), got {kind}")  # noqa: TRY004 - bad input
        if option.path[0] is not model.__mapper__:
            raise ValueError(
                f"an option must begin at {name}, e.g. selectinload({name}...), got the attribute of another model"
            )
        for element in option.context:
            loader = _LOADED_WITH_THE_ROWS.get(element.strategy)
            # `contains_eager` has the strategy of joinedload, but needs a join that a repository's statement has not.
            if loader is None or "eager_from_alias" in element.local_opts:
                raise ValueError(
                    "an option must be selectinload, joinedload, subqueryload or undefer, got another loader:"
                    " no attribute is loaded on access, and each row is read with all of its columns"
                )
            for criterion in criteria_of_option(element):
                if (forbidden := _forbidden_part(criterion)) is not None:
                    raise ValueError(
                        f"an option's criteria must be expressions over mapped attributes, got {forbidden}"
                    )
            relationships = [step for step in element.path.path if isinstance(step, RelationshipProperty)]
            if streamed and loader in _NOT_STREAMED and relationships and relationships[-1].uselist:
                raise ValueError(f"a stream loads collections by selectinload, once for each batch; got {loader}")


def check_value(model: type[Any], value: Any) -> None:
    """Check that a value to store is not an SQL expression with SQL text, or with a function that changes the tenant.

    Raises:
        ValueError: The value is such an expression.
    """
    element = _expression(value)
    if element is not None and (forbidden := _forbidden_part(element)) is not None:
        raise ValueError(
            f"a value of {model.__name__} must have no SQL text and no function that changes the tenant or runs SQL,"
            f" got {forbidden}"
        )


def within(tenant_id: UUID) -> list[Option]:
    """Return options that restrict the statements of relationship loaders to the tenant and to rows not deleted."""
    options: list[Option] = []
    for mapper in Base.registry.mappers:
        model = mapper.class_
        if issubclass(model, TenantBase):
            visible = [model.deleted_at.is_(None)] if hasattr(model, "deleted_at") else []
            if model is MessageHistory:
                visible.append(windows.conversation_is_live(tenant_id))
            options.append(with_loader_criteria(model, and_(model.tenant_id == tenant_id, *visible)))
    return options


def _expression(value: Any) -> ClauseElement | None:
    """Return a value as an SQL expression, or None if it is a plain value."""
    if hasattr(value, "__clause_element__"):  # a mapped attribute, e.g. the boolean User.is_active
        value = value.__clause_element__()
    return value if isinstance(value, ClauseElement) else None


def _rejected_part(element: ClauseElement, table: FromClause) -> str | None:
    """Return the name of a part of a condition that is not allowed, or None."""
    if (forbidden := _forbidden_part(element)) is not None:
        return forbidden
    for part in visitors.iterate(element):
        if isinstance(part, SelectBase):
            return "a subquery"
        if isinstance(part, ColumnClause) and part.table is not table:
            of = part.table.name if isinstance(part.table, Table) else "no mapped table"
            return f"a column of {of}"
    return None


def _forbidden_part(element: ClauseElement) -> str | None:
    """Return the name of a part of any expression that is SQL text or a forbidden function, or None."""
    for part in visitors.iterate(element):
        if isinstance(part, TextClause) or _is_text(part):
            return "SQL text"
        if isinstance(part, FunctionElement):
            name = str(getattr(part, "name", "")).lower()  # PostgreSQL folds an unquoted name to lower case
            if name in _REBIND | _RUN_TEXT:
                return f"the function {name}"
    return None


def _is_text(part: Any) -> bool:
    """Return True if a part writes text of the caller into the statement, as `op(...)` and `extract(...)` can."""
    if isinstance(part, Extract):
        return not _FIELD.fullmatch(part.field)
    operators = [getattr(part, name, None) for name in ("operator", "modifier")]
    return any(
        not _OPERATOR.fullmatch(operator.opstring) and operator.opstring.upper() not in _WORD_OPERATORS
        for operator in operators
        if isinstance(operator, custom_op)
    )
