"""The sessions of a test, in place of those of get_db, get_read_db and run_transaction."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Iterator
from contextlib import contextmanager
from typing import Protocol

from src.database.errors import DatabaseError
from src.database.session.reading import ReadSession
from src.database.session.session import AsyncSession


class SessionSource(Protocol):
    """Three asynchronous generator functions. Each yields the session of one block, like the function it replaces."""

    def session(self) -> AsyncGenerator[AsyncSession, None]:
        """Yield a session in place of get_db."""

    def read_session(self) -> AsyncGenerator[ReadSession, None]:
        """Yield a session in place of get_read_db."""

    def unit(self) -> AsyncGenerator[AsyncSession, None]:
        """Yield the session of an attempt of run_transaction."""


_source: SessionSource | None = None
"""Not a context variable: a test's code may run in tasks that were started before the test."""


def replaced_sessions() -> SessionSource | None:
    """Return the source of the sessions of the running test, or None."""
    return _source


@contextmanager
def replace_sessions(source: SessionSource) -> Iterator[None]:
    """Replace the sessions of this process in this block. The engines and the store cannot be used meanwhile."""
    global _source  # noqa: PLW0603 - docs/process-state.md lists it
    _source = source
    try:
        yield
    finally:
        _source = None


def check_not_replaced(pool: str) -> None:
    """Check that a pool may be used.

    Raises:
        DatabaseError: A test has replaced the sessions: connections of a pool would not see what its session writes,
            and what they commit would stay.
    """
    if _source is not None:
        raise DatabaseError(
            f"the pool {pool!r} must not be used in a test with db_session: its connections do not see the rows of the"
            " session, and their commits are not rolled back",
            hint="use the fixture committed_database: there get_store(), get_engine() and several sessions work",
        )
