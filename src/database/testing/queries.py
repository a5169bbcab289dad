"""assert_queries: count the statements of a block."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from typing import Final, Protocol

from src.database.observability import Call, Observer

NAME: Final = "assert_queries"
# Savepoints replace the transactions of production in a test, and a binding travels with BEGIN there.
_NOT_COUNTED: Final = re.compile(r"(SAVEPOINT|RELEASE|ROLLBACK|SET TRANSACTION)\b|SELECT app_set_tenant\(")
_LONGEST: Final = 300


class AssertQueries(Protocol):
    """The type of the fixture `assert_queries`."""

    def __call__(self, *, max: int) -> AbstractContextManager[list[str]]:  # noqa: A002 - reads well in a test
        """Check that a block sends at most this many statements."""


class Queries(Observer):
    """Counts the statements that sessions and the store send, on all engines that it observes."""

    def __init__(self) -> None:
        self._counting: list[list[str]] = []

    def sent(self, call: Call) -> None:
        """Record a statement."""
        if not _NOT_COUNTED.match(call.sql):
            for sent in self._counting:
                sent.append(call.sql)

    @contextmanager
    def assert_at_most(self, *, max: int) -> Iterator[list[str]]:  # noqa: A002 - reads well in a test
        """Check that a block sends at most this many statements; yield the list of those that are sent.

        BEGIN, COMMIT, savepoints and the tenant binding do not count.

        Raises:
            AssertionError: There were more. The message lists their texts, without the values of parameters.
        """
        sent: list[str] = []
        self._counting.append(sent)
        try:
            yield sent
        finally:
            self._counting = [each for each in self._counting if each is not sent]
        if len(sent) > max:
            listed = "\n".join(f"{number}. {_shortened(sql)}" for number, sql in enumerate(sent, start=1))
            raise AssertionError(f"at most {max} statements must be sent, got {len(sent)}:\n{listed}")


def _shortened(sql: str) -> str:
    text = " ".join(sql.split())
    return text if len(text) <= _LONGEST else f"{text[:_LONGEST]} ..."
