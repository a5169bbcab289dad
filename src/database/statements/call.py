"""Calls of SQL functions, and the protocol of what sends them: a session, or a connection of the store."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from functools import cached_property
from typing import Any, Final, Generic, Protocol, TypeVar
from uuid import UUID

import asyncpg

from src.database.errors import DatabaseError, SchemaDriftError

RowT = TypeVar("RowT")

_UNDEFINED_FUNCTION: Final = "42883"


class Call(Generic[RowT]):
    """A call of an SQL function of this package, in one statement and one round trip.

    The function takes the tenant as its first argument and binds its own transaction to it.

    Args:
        function: The name of the function.
        arguments: The number of arguments that are sent, with the tenant; the function has defaults for the others.
        columns: Returns the names of the result's columns to read; by default all. A function, because the columns of
            an entity are known only after the mappers are configured.
        row: The class of a row.
    """

    may_write: Final = True

    def __init__(
        self,
        function: str,
        arguments: int,
        *,
        columns: Callable[[], Iterable[str]] = lambda: ("*",),
        row: type[RowT] = asyncpg.Record,
    ) -> None:
        self.function = function
        self.row = row
        self._arguments = arguments
        self._columns = columns

    @cached_property
    def sql(self) -> str:
        """The statement's text."""
        placeholders = ", ".join(f"${number}" for number in range(1, self._arguments + 1))
        return f"SELECT {', '.join(self._columns())} FROM {self.function}({placeholders})"  # noqa: S608 - names of our own


class Sender(Protocol):
    """Sends a call for the current tenant, in a session's transaction or on a connection of the store."""

    @property
    def tenant_id(self) -> UUID:
        """The current tenant."""

    async def call(self, call: Call[Any], *arguments: Any) -> list[Any]:
        """Send a call with the tenant and these arguments, and return its rows.

        Raises:
            CommitOutcomeUnknown: The connection was lost before the server answered, outside of a transaction.
            ConnectionFailed: The connection was lost, and nothing was written.
            SchemaDriftError: The function is missing in the database, or has other parameters.
        """


def raise_if_missing(call: Call[Any], error: DatabaseError) -> None:
    """Raise an error that names the called function if the server does not know it, or knows other parameters only.

    The server reports a function that is called inside of the called function with the same SQLSTATE. Such an error has
    an internal position, and names that function itself.

    Raises:
        SchemaDriftError: The called function is missing.
    """
    cause: BaseException | None = error
    while cause is not None and not hasattr(cause, "internal_position"):
        cause = cause.__cause__
    if error.sqlstate != _UNDEFINED_FUNCTION or getattr(cause, "internal_position", None) is not None:
        return
    raise SchemaDriftError(
        f"the function {call.function} is missing in the database, or has other parameters than this release calls",
        sqlstate=_UNDEFINED_FUNCTION,
        hint="`thea-db verify` lists the differences; `thea-db upgrade` applies missing migrations",
    ) from error.__cause__  # from `error`, a traceback would print two hints
