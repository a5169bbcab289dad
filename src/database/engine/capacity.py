"""How many connections the server can give, and how many it has given."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Final

import asyncpg

KEPT_FREE: Final = 5
"""Connections for migrations, a console and monitoring."""

# What a superuser alone may take is not ours; -1 is without a limit. Everybody may see who is connected, and as whom.
_CAPACITY: Final = """
SELECT current_setting('max_connections')::int AS maximum,
       current_setting('superuser_reserved_connections')::int
         + coalesce(current_setting('reserved_connections', true)::int, 0) AS reserved,
       (SELECT nullif(rolconnlimit, -1) FROM pg_catalog.pg_roles WHERE rolname = current_user) AS of_role,
       (SELECT nullif(datconnlimit, -1) FROM pg_catalog.pg_database WHERE datname = current_database()) AS of_database,
       (SELECT sum(numbackends)::int FROM pg_catalog.pg_stat_database) AS in_use,
       (SELECT count(*)::int FROM pg_catalog.pg_stat_activity WHERE usename = current_user) AS in_use_by_role,
       (SELECT numbackends FROM pg_catalog.pg_stat_database WHERE datname = current_database()) AS in_use_in_database
"""


@dataclass(frozen=True, slots=True, kw_only=True)
class Capacity:
    """The number of connections that the server accepts, and how many are in use."""

    maximum: int
    reserved: int
    of_role: int | None
    of_database: int | None
    in_use: int = 0
    in_use_by_role: int = 0
    in_use_in_database: int = 0

    @property
    def available(self) -> int:
        """How many connections the application can have at most."""
        limits = (self.maximum - self.reserved, self.of_role, self.of_database)
        return min(limit for limit in limits if limit is not None)

    @property
    def free(self) -> int:
        """How many more it can have now."""
        free = [self.maximum - self.reserved - self.in_use]
        free += [] if self.of_role is None else [self.of_role - self.in_use_by_role]
        free += [] if self.of_database is None else [self.of_database - self.in_use_in_database]
        return max(0, min(free))


async def capacity_of(connection: asyncpg.Connection[Any]) -> Capacity:
    """Ask the server."""
    return Capacity(**await connection.fetchrow(_CAPACITY))
