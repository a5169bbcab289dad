"""Check the conditions and options of a query; restrict the loaders of relationships to the tenant."""

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
from src.database.engine.sqlalchemy_internals import criteria_of_option
from src.database.models import MessageHistory
from src.database.statements import windows

Condition = ColumnExpressionArgument[bool]
Option = ExecutableOption

_WITH_ITS_STATEMENT: Final = {
    None: "",  # `defaultload`: on the way to another
    (("lazy", "selectin"),): "selectinload",
    (("lazy", "joined"),): "joinedload",
    (("lazy", "subquery"),): "subqueryload",
    (("deferred", False), ("instrument", True)): "undefer",
}
_NOT_STREAMED: Final = {"joinedload", "subqueryload"}

_REBIND: Final = {"set_config", "app_set_tenant"}
"""Functions that change the tenant of the transaction."""
_RUN_TEXT: Final = (
    {"query_to_xml", "query_to_xmlschema", "query_to_xml_and_xmlschema", "ts_stat", "ts_rewrite", "xpath_table"}
    | {"crosstab", "crosstab2", "crosstab3", "crosstab4", "crosstabn", "connectby"}
    | {"dblink", "dblink_exec", "dblink_open", "dblink_send_query"}
)
"""Functions that run the SQL in a text."""
_OPERATOR: Final = re.compile(r"(?!.*(--|/\*))[-+*/<>=~!@#%^&|`?]+")
_OPERATORS_OF_WORDS: Final = {"AT TIME ZONE", "ILIKE", "LIKE", "NOT SIMILAR TO", "OVERLAPS", "SIMILAR TO"} | {
    f"IS{negation} DISTINCT FROM" for negation in ("", " NOT")
}
_FIELD: Final = re.compile(r"\w+")


def check_conditions(model: type[TenantBase], conditions: Sequence[Any]) -> None:
    """Check that conditions are expressions over mapped attributes of the model, without text and foreign columns.

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


def check_options(model: type[TenantBase], options: Sequence[Any], *, streamed: bool = False) -> None:
    """Check that options are loaders of this model that load with the read, and leave nothing to be loaded on access.

    Raises:
        ValueError: One of them is something else than a loader that loads with the read.
    """
    name = model.__name__
    if isinstance(options, str) or not isinstance(options, Sequence):
        given = type(options).__name__
        raise ValueError(f"options must be a list, e.g. [selectinload(...)], got {given}")  # noqa: TRY004 - bad input
    for option in options:
        if not isinstance(option, Load):
            given = type(option).__name__
            raise ValueError(f"an option must be a loader, e.g. selectinload(...), got {given}")  # noqa: TRY004 - bad input
        if option.path[0] is not model.__mapper__:
            raise ValueError(f"an option must begin at {name}, e.g. selectinload({name}...), got another model's")
        for element in option.context:
            loader = _WITH_ITS_STATEMENT.get(element.strategy)
            if loader is None or "eager_from_alias" in element.local_opts:  # `contains_eager`: the join is not here
                raise ValueError(
                    "an option must be selectinload, joinedload, subqueryload or undefer, got another loader:"
                    " nothing is loaded on access, and a row comes with all its columns"
                )
            for criterion in criteria_of_option(element):
                if (forbidden := _forbidden_part(criterion)) is not None:
                    raise ValueError(
                        f"an option's criteria must be expressions over mapped attributes, got {forbidden}"
                    )
            if streamed and loader in _NOT_STREAMED and _is_of_a_collection(element.path.path):
                raise ValueError(f"a stream loads collections by selectinload, once for each batch; got {loader}")


def check_value(model: type[Any], value: Any) -> None:
    """Check that a value is no SQL expression that changes the session's tenant or that runs SQL in a text.

    Raises:
        ValueError: It is.
    """
    element = _expression(value)
    if element is not None and (forbidden := _forbidden_part(element)) is not None:
        raise ValueError(f"a value of {model.__name__} must be free of SQL text and session functions, got {forbidden}")


def within(tenant_id: UUID) -> list[Option]:
    """Return the options by which the loaders of relationships name the tenant and leave out deleted rows."""
    options: list[Option] = []
    for mapper in Base.registry.mappers:
        model = mapper.class_
        if issubclass(model, TenantBase):
            visible = [model.deleted_at.is_(None)] if hasattr(model, "deleted_at") else []
            if model is MessageHistory:
                visible.append(windows.conversation_is_live(tenant_id))
            options.append(with_loader_criteria(model, and_(model.tenant_id == tenant_id, *visible)))
    return options


def _is_of_a_collection(path: Sequence[Any]) -> bool:
    relationships = [step for step in path if isinstance(step, RelationshipProperty)]
    return bool(relationships and relationships[-1].uselist)


def _expression(condition: Any) -> ClauseElement | None:
    if hasattr(condition, "__clause_element__"):  # a mapped attribute that is a condition by itself
        condition = condition.__clause_element__()
    return condition if isinstance(condition, ClauseElement) else None


def _foreign_part(element: ClauseElement, table: FromClause) -> str | None:
    """Name what in an expression is neither a column of this table nor a value."""
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
    """Return what in an expression is SQL text, or a function that can change the session's tenant."""
    for part in visitors.iterate(element):
        if isinstance(part, TextClause) or _is_text(part):
            return "SQL text"
        if isinstance(part, FunctionElement):
            name = str(getattr(part, "name", "")).lower()  # the server folds a name that is not quoted
            if name in _REBIND | _RUN_TEXT:
                return f"the function {name}"
    return None


def _is_text(part: Any) -> bool:
    """Return True if a part writes a text of the caller into the statement: `op(...)` and `extract(...)` do."""
    if isinstance(part, Extract):
        return not _FIELD.fullmatch(part.field)
    operators = [getattr(part, name, None) for name in ("operator", "modifier")]
    return any(
        not _OPERATOR.fullmatch(one.opstring) and one.opstring.upper() not in _OPERATORS_OF_WORDS
        for one in operators
        if isinstance(one, custom_op)
    )
