"""The number of connections that the server accepts, and how many are in use."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Final

import asyncpg

KEPT_FREE: Final = 5
"""Connections to leave for migrations, a console and monitoring."""

# A limit of -1 means no limit. Every role may read these columns of pg_stat_activity, also of other roles' sessions.
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
    """The limits of a server on connections, and how many connections are in use.

    Attributes:
        maximum: The server's `max_connections`.
        reserved: Connections for superusers and for members of `pg_use_reserved_connections`.
        of_role: The limit of the current role; None means no limit.
        of_database: The limit of the current database; None means no limit.
        in_use: Connections to all databases.
        in_use_by_role: Connections of the current role.
        in_use_in_database: Connections to the current database.
    """

    maximum: int
    reserved: int
    of_role: int | None
    of_database: int | None
    in_use: int = 0
    in_use_by_role: int = 0
    in_use_in_database: int = 0

    @property
    def available(self) -> int:
        """The most connections that the current role can have in the current database."""
        limits = (self.maximum - self.reserved, self.of_role, self.of_database)
        return min(limit for limit in limits if limit is not None)

    @property
    def free(self) -> int:
        """The number of further connections that the current role can open now."""
        free = [self.maximum - self.reserved - self.in_use]
        free += [] if self.of_role is None else [self.of_role - self.in_use_by_role]
        free += [] if self.of_database is None else [self.of_database - self.in_use_in_database]
        return max(0, min(free))


async def capacity_of(connection: asyncpg.Connection[Any]) -> Capacity:
    """Query the server's limits on connections and how many are in use."""
    return Capacity(**await connection.fetchrow(_CAPACITY))
