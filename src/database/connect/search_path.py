"""The search path of a connection: temporary tables are found last."""

from __future__ import annotations

from typing import Any, Final

import asyncpg

__all__ = ["TEMPORARY_LAST", "search_temporary_last"]

# PostgreSQL searches pg_temp before all other schemas unless the path names it. A temporary table that one tenant's SQL
# left on a pooled connection would take the statements of the next tenant that are meant for the table of that name.
# The rest of the path stays as the server, the database or the role sets it.
TEMPORARY_LAST: Final = (
    "set_config('search_path', concat_ws(', ', nullif(ltrim(regexp_replace(current_setting('search_path'),"
    """ '(^|,) *"?pg_temp"? *(?=,|$)', '', 'g'), ', '), ''), 'pg_temp'), {is_local})"""
)
"""Moves pg_temp to the end of the search path; `is_local`: ``true`` for the transaction, ``false`` for the session."""


async def search_temporary_last(connection: asyncpg.Connection[Any]) -> None:
    """Move pg_temp to the end of the connection's search path."""
    await connection.fetchval(f"SELECT {TEMPORARY_LAST.format(is_local='false')}")
