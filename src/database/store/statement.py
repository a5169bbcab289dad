"""Statements of SQLAlchemy's, made into the driver's once: text, and the order of what is bound."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from operator import itemgetter
from typing import Any, Generic, TypeVar

import asyncpg
from sqlalchemy import ClauseElement

from src.database.direct import DIALECT

__all__ = ["Statement"]

RowT = TypeVar("RowT")


class Statement(Generic[RowT]):
    """One statement over the mapped tables, ready to be sent.

    Args:
        core: The statement; what varies is a `bindparam`.
        parameters: The names of those, in the order in which a call gives them.
        row: What a row is handed out as.
    """

    __slots__ = ("arrange", "row", "sql")

    def __init__(self, core: ClauseElement, parameters: Sequence[str], *, row: type[RowT] = asyncpg.Record) -> None:
        compiled: Any = core.compile(dialect=DIALECT)
        self.sql: str = str(compiled)
        self.row = row
        constants = {name: value for name, value in compiled.params.items() if name not in parameters}
        if missing := [name for name, bind in compiled.binds.items() if bind.required and name not in parameters]:
            raise ValueError(f"the statement has parameters that no call gives: {', '.join(missing)}")
        given = (*constants, *parameters)
        places = [given.index(name) for name in compiled.positiontup]
        self.arrange = _arranged(places, tuple(constants.values()))


def _arranged(places: Sequence[int], constants: tuple[Any, ...]) -> Callable[[tuple[Any, ...]], tuple[Any, ...]]:
    """Return what puts a call's values, and the statement's own, where the text has them."""
    if len(places) == 1:
        return lambda values: ((*constants, *values)[places[0]],)
    pick = itemgetter(*places)
    if not constants:
        return pick
    return lambda values: pick((*constants, *values))
