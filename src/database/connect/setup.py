"""The setup of a new connection: its name, its search path, and the codec of jsonb."""

from __future__ import annotations

import os
from typing import Any, Final

import asyncpg

from src.database.json_values import decode_json

LONGEST_NAME_BYTES: Final = 63
"""The server truncates a longer application_name."""

# PostgreSQL searches pg_temp before all other schemas unless the path names it. A temporary table that one tenant's SQL
# left on a pooled connection would shadow the real table of that name in the statements of the next tenant.
# The rest of the path stays as the server, the database or the role sets it.
TEMPORARY_LAST: Final = (
    "set_config('search_path', concat_ws(', ', nullif(ltrim(regexp_replace(current_setting('search_path'),"
    """ '(^|,) *"?pg_temp"? *(?=,|$)', '', 'g'), ', '), ''), 'pg_temp'), {is_local})"""
)
"""SQL that moves pg_temp to the end of the search path; `is_local`: ``true`` for the transaction, ``false`` for the
session."""


def connection_name(service: str, environment: str, pool: str) -> str:
    """Return ``<service>/<environment>/<pool>/<process id>`` in ASCII: the name in pg_stat_activity and server logs.

    The name is built for each connection, since a forked process has another id. If it is too long, the service is
    truncated: a pool has at most 32 characters, and the process id is what an operator needs.
    """
    rest = f"/{environment}/{pool}/{os.getpid()}"
    plain = service.encode("ascii", "replace").decode()  # the server escapes each other byte as \xNN, which is longer
    return f"{plain[: LONGEST_NAME_BYTES - len(rest)]}{rest}"


async def search_temporary_last(connection: asyncpg.Connection[Any]) -> None:
    """Move pg_temp to the end of the connection's search path."""
    await connection.fetchval(f"SELECT {TEMPORARY_LAST.format(is_local='false')}")


async def decode_jsonb(connection: Any) -> None:
    """Register a codec that decodes jsonb in the driver, without parsing an empty value.

    Args:
        connection: SQLAlchemy's adapter of the driver's connection.
    """
    await connection.driver_connection.set_type_codec(
        "jsonb", encoder=str, decoder=_loads, schema="pg_catalog", format="text"
    )


def _loads(text: str) -> Any:
    if text == "{}":
        return {}
    return [] if text == "[]" else decode_json(text)
