"""Reads that bind their own transaction to the tenant, so that they can be sent on a connection without a tenant."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import cached_property
from operator import itemgetter
from typing import Any, Final, Generic, TypeVar

import asyncpg
from sqlalchemy import BindParameter, ColumnClause, Select, literal_column
from sqlalchemy.sql.visitors import replacement_traverse

from src.database.statements.entities import DIALECT

__all__ = ["TENANT", "Read"]

RowT = TypeVar("RowT")

TENANT: Final = "tenant_id"
"""The name of the parameter that stands for the tenant in a select."""
_BOUND_TENANT: Final[ColumnClause[Any]] = literal_column("bound.tenant_id")


class Read(Generic[RowT]):
    """A select over tenants' rows, compiled at its first use.

    The select stands in a LATERAL that depends on the row in which `set_config` binds the transaction: the policies of
    the tables are evaluated after the binding. Both OFFSET 0 keep the planner from flattening the subqueries and
    choosing another order; with another order the select would find nothing, and never another tenant's row.
    `set_config` is local to the transaction: outside of one, the binding ends with the statement.

    Args:
        build: Returns the select. What varies is a `bindparam`; `tenant_id` is the tenant's.
        parameters: The names of the others, in the order in which a call gives their values.
        row: What the driver makes of a row.
    """

    may_write: Final = False

    def __init__(
        self, build: Callable[[], Select[Any]], parameters: Sequence[str], *, row: type[RowT] = asyncpg.Record
    ) -> None:
        self._build = build
        self._parameters = tuple(parameters)
        self.row = row

    @property
    def sql(self) -> str:
        """The statement's text."""
        return self._compiled[0]

    def arguments(self, tenant_id: Any, values: Sequence[Any]) -> tuple[Any, ...]:
        """Return the statement's arguments in the order of its text."""
        return (*self._compiled[1](tuple(values)), str(tenant_id))

    @cached_property
    def _compiled(self) -> tuple[str, Callable[[tuple[Any, ...]], tuple[Any, ...]]]:
        select: Any = replacement_traverse(self._build(), {}, _bound_tenant)
        compiled: Any = select.compile(dialect=DIALECT)
        constants = {name: value for name, value in compiled.params.items() if name not in self._parameters}
        missing = [name for name, bind in compiled.binds.items() if bind.required and name not in self._parameters]
        if missing:
            raise ValueError(f"parameters must name all of the select's, got none for {', '.join(missing)}")
        names = (*constants, *self._parameters)
        places = [names.index(name) for name in compiled.positiontup]
        sql = (
            f"SELECT q.* FROM (SELECT pg_catalog.set_config('app.tenant_id', ${len(places) + 1}, true)::uuid"  # noqa: S608
            f" AS tenant_id OFFSET 0) AS bound CROSS JOIN LATERAL ({compiled} OFFSET 0) AS q"
        )
        return sql, _arrange(places, tuple(constants.values()))


def _bound_tenant(element: Any, **_options: Any) -> Any:
    return _BOUND_TENANT if isinstance(element, BindParameter) and element.key == TENANT else None


def _arrange(places: Sequence[int], constants: tuple[Any, ...]) -> Callable[[tuple[Any, ...]], tuple[Any, ...]]:
    """Return a function that puts a call's values, and the select's constants, in the order of the text."""
    if len(places) == 1:
        return lambda values: ((*constants, *values)[places[0]],)
    pick = itemgetter(*places)
    return (lambda values: pick((*constants, *values))) if constants else pick
