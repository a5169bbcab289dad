"""Reads with a fence: they bind their own transaction to the tenant, and need no connection of a tenant."""

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
    """A select of tenants' rows with a fence, compiled at its first use.

    Args:
        build: Returns the select. Its values are `bindparam`s, of which `TENANT` is the tenant.
        parameters: The names of the other `bindparam`s in the order of the values of a call.
        row: The class of a row.
    """

    may_write: Final = False

    def __init__(
        self, build: Callable[[], Select[Any]], parameters: Sequence[str], *, row: type[RowT] = asyncpg.Record
    ) -> None:
        self._build = build
        self.parameters = tuple(parameters)
        self.row = row

    @property
    def sql(self) -> str:
        """The statement's text."""
        return self._compiled[0]

    def arguments(self, tenant_id: Any, values: Sequence[Any]) -> tuple[Any, ...]:
        """Return the arguments of the statement in the order of its text.

        Args:
            tenant_id: The tenant.
            values: The values of the other parameters in the order of `parameters`.
        """
        return (*self._compiled[1](tuple(values)), str(tenant_id))

    @cached_property
    def _compiled(self) -> tuple[str, Callable[[tuple[Any, ...]], tuple[Any, ...]]]:
        compiled: Any = in_fence(self._build()).compile(dialect=DIALECT)
        constants = {name: value for name, value in compiled.params.items() if name not in self.parameters}
        missing = [name for name, bind in compiled.binds.items() if bind.required and name not in self.parameters]
        if missing:
            raise ValueError(f"parameters must name each bindparam of the select, got none for {', '.join(missing)}")
        names = (*constants, *self.parameters)
        positions = [names.index(name) for name in compiled.positiontup]
        return fenced(str(compiled), tenant=len(positions) + 1), _arrange(positions, tuple(constants.values()))


def _arrange(positions: Sequence[int], constants: tuple[Any, ...]) -> Callable[[tuple[Any, ...]], tuple[Any, ...]]:
    """Return a function that returns the constants of the select and the values of a call in the order of the text.

    itemgetter() of one position returns a value and not a tuple, and one of several runs in C.
    """
    if len(positions) == 1:
        return lambda values: ((*constants, *values)[positions[0]],)
    pick = itemgetter(*positions)
    return (lambda values: pick((*constants, *values))) if constants else pick
