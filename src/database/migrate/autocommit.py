"""Runs what no transaction can hold, in a migration that has done nothing else before."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, cast

from alembic import op
from sqlalchemy import Connection

from src.database.errors import DatabaseError

__all__ = ["outside_transactions"]


@contextmanager
def outside_transactions(what: str) -> Iterator[Connection | None]:
    """Have each statement committed by itself; gives the connection, or None where only the SQL is written.

    What came before in the revision would be committed without its row in ``alembic_version``: who is killed then
    could not begin again. What comes after is one transaction with that row.

    Raises:
        DatabaseError: Something came before.
    """
    migration = op.get_context()
    if migration.as_sql:
        with migration.autocommit_block():
            yield None
        return
    if _has_begun(op.get_bind()):
        raise DatabaseError(
            f"{what} must come first in its revision: it would commit what was done before, and a migration that is"
            " interrupted then could not be begun again",
            hint="give it a revision of its own",
        )
    failure: BaseException | None = None
    try:
        with migration.autocommit_block():
            try:
                yield cast("Connection", migration.connection)
            except BaseException as error:
                failure = error
                raise
    except BaseException:
        if failure is not None:  # of a connection that is gone, the block's own end says less
            raise failure  # noqa: B904 - it is what is being handled
        raise


def _has_begun(connection: Connection) -> bool:
    """Say whether the server is in a transaction: SQLAlchemy begins one with its first statement."""
    driver: Any = connection.connection.driver_connection
    is_in_transaction: bool = driver.is_in_transaction()
    return is_in_transaction
