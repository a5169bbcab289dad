"""What is sent on the driver's connection without SQLAlchemy, and fails, fails as a statement of SQLAlchemy's does."""

from __future__ import annotations

from typing import Any

from sqlalchemy import Connection

__all__ = ["raise_as_always"]


def raise_as_always(connection: Connection, sql: str, error: BaseException) -> None:
    """Have SQLAlchemy do with an error what it does with those of its own statements; in a greenlet.

    What was lost is given up with its connection, and who listens to errors hears of it.

    Raises:
        BaseException: In our own words where it was the server's or the driver's, else the error itself.
    """
    adapter: Any = connection.connection.dbapi_connection
    handle: Any = connection._handle_dbapi_exception
    try:  # it asks what is being handled
        if isinstance(error, Exception):
            adapter._handle_exception(error)
        raise error  # noqa: TRY301 - the same
    except adapter.dbapi.Error as translated:
        handle(translated, sql, None, None, None)
    except BaseException as raised:  # noqa: BLE001 - it is raised again
        handle(raised, None, None, None, None)
