"""Reads that bind their own transaction to the tenant, so that they can be sent on a connection without a tenant."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import cached_property
from operator import itemgetter
from typing import Any, Final, Generic, TypeVar

import asyncpg
from sqlalchemy import Select

from src.database.statements.entities import DIALECT
from src.database.statements.fence import fenced, in_fence

RowT = TypeVar("RowT")


class Read(Generic[RowT]):
    """A select over tenants' rows, compiled at its first use.

    Args:
        build: Returns the select. What varies is a `bindparam`; the one called `TENANT` is the tenant's.
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
        compiled: Any = in_fence(self._build()).compile(dialect=DIALECT)
        constants = {name: value for name, value in compiled.params.items() if name not in self._parameters}
        missing = [name for name, bind in compiled.binds.items() if bind.required and name not in self._parameters]
        if missing:
            raise ValueError(f"parameters must name all of the select's, got none for {', '.join(missing)}")
        names = (*constants, *self._parameters)
        places = [names.index(name) for name in compiled.positiontup]
        return fenced(str(compiled), tenant=len(places) + 1), _arrange(places, tuple(constants.values()))


def _arrange(places: Sequence[int], constants: tuple[Any, ...]) -> Callable[[tuple[Any, ...]], tuple[Any, ...]]:
    """Return a function that puts a call's values, and the select's constants, in the order of the text."""
    if len(places) == 1:
        return lambda values: ((*constants, *values)[places[0]],)
    pick = itemgetter(*places)
    return (lambda values: pick((*constants, *values))) if constants else pick
