"""The setup of a new connection: its name, its search path, and the codec of jsonb."""

from __future__ import annotations

import json
import os
from typing import Any, Final

import asyncpg

LONGEST_NAME_BYTES: Final = 63
"""The server cuts off the rest of a longer application_name."""

# PostgreSQL searches pg_temp before all other schemas unless the path names it. A temporary table that one tenant's SQL
# left on a pooled connection would take the statements of the next tenant that are meant for the table of that name.
# The rest of the path stays as the server, the database or the role sets it.
TEMPORARY_LAST: Final = (
    "set_config('search_path', concat_ws(', ', nullif(ltrim(regexp_replace(current_setting('search_path'),"
    """ '(^|,) *"?pg_temp"? *(?=,|$)', '', 'g'), ', '), ''), 'pg_temp'), {is_local})"""
)
"""Moves pg_temp to the end of the search path; `is_local`: ``true`` for the transaction, ``false`` for the session."""


def connection_name(service: str, environment: str, pool: str) -> str:
    """Return ``<service>/<environment>/<pool>/<process>`` in ASCII, the name in pg_stat_activity and the server's log.

    It is built for each connection, since a forked process has another number. If it is too long, the service's name
    is cut: a pool's name has at most 32 characters, and the process is what an operator looks for.
    """
    rest = f"/{environment}/{pool}/{os.getpid()}"
    plain = service.encode("ascii", "replace").decode()  # the server would replace a character by an escape sequence
    return f"{plain[: LONGEST_NAME_BYTES - len(rest)]}{rest}"


async def search_temporary_last(connection: asyncpg.Connection[Any]) -> None:
    """Move pg_temp to the end of the connection's search path."""
    await connection.fetchval(f"SELECT {TEMPORARY_LAST.format(is_local='false')}")


async def decode_jsonb(connection: Any) -> None:
    """Decode jsonb in the driver, which is faster than in SQLAlchemy: most values are empty.

    Args:
        connection: SQLAlchemy's adapter of the driver's connection.
    """
    await connection.driver_connection.set_type_codec(
        "jsonb", encoder=str, decoder=_loads, schema="pg_catalog", format="text"
    )


def _loads(text: str) -> Any:
    if text == "{}":
        return {}
    return [] if text == "[]" else json.loads(text)
