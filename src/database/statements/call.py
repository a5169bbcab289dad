"""The form in which the operations of this package are sent: a call of an SQL function, and who sends it."""

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
        function: The function's name.
        arguments: How many arguments are sent, the tenant included; the function has defaults for the others.
        columns: Returns the columns of the result that are read; by default all.
        row: What the driver makes of a row.
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
        places = ", ".join(f"${number}" for number in range(1, self._arguments + 1))
        return f"SELECT {', '.join(self._columns())} FROM {self.function}({places})"  # noqa: S608 - names of our own


class Sender(Protocol):
    """Sends a call for the current tenant: in a session's transaction, or on a connection of the store's."""

    @property
    def tenant_id(self) -> UUID:
        """The current tenant."""

    async def call(self, call: Call[Any], *arguments: Any) -> list[Any]:
        """Send a call with the tenant and these arguments, and return its rows.

        Raises:
            CommitOutcomeUnknown: The connection was lost before the server answered, outside of a transaction.
            ConnectionFailed: The connection was lost; nothing was written.
            SchemaDriftError: The database does not have the function.
        """


def is_missing(error: DatabaseError) -> bool:
    """Return True if the server does not know the called function, or knows it with other parameters.

    False for a function that the called function calls: the error names that one.
    """
    cause: BaseException | None = error
    while cause is not None and not hasattr(cause, "internal_position"):
        cause = cause.__cause__
    return error.sqlstate == _UNDEFINED_FUNCTION and getattr(cause, "internal_position", None) is None


def drifted(call: Call[Any]) -> SchemaDriftError:
    """Return the error of a call whose function the database does not have as this release calls it."""
    return SchemaDriftError(
        f"the function {call.function} is missing in the database, or has other parameters than this release calls",
        sqlstate=_UNDEFINED_FUNCTION,
        hint="`thea-db verify` lists what differs; `thea-db upgrade` applies migrations that are missing",
    )
