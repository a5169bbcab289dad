"""How many connections the server can give, how many the processes can take, and how many are of use."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Final

import asyncpg
from sqlalchemy.pool import NullPool

from src.config import Settings
from src.database.engine import create_engine
from src.database.resolve import pool_limits, resolve_target

__all__ = ["Capacity", "Demand", "Suggestion", "capacity_of", "demand_of", "suggest", "useful_connections"]

KEPT_FREE: Final = 5
"""Connections for migrations, a console and monitoring."""

# What a superuser alone may take is not ours; -1 is without a limit.
_CAPACITY: Final = """
SELECT current_setting('max_connections')::int AS maximum,
       current_setting('superuser_reserved_connections')::int
         + coalesce(current_setting('reserved_connections', true)::int, 0) AS reserved,
       (SELECT nullif(rolconnlimit, -1) FROM pg_catalog.pg_roles WHERE rolname = current_user) AS of_role,
       (SELECT nullif(datconnlimit, -1) FROM pg_catalog.pg_database WHERE datname = current_database()) AS of_database
"""


@dataclass(frozen=True, slots=True, kw_only=True)
class Capacity:
    """What the server can give."""

    maximum: int
    reserved: int
    of_role: int | None
    of_database: int | None

    @property
    def available(self) -> int:
        """How many connections the application can have at most."""
        limits = (self.maximum - self.reserved, self.of_role, self.of_database)
        return min(limit for limit in limits if limit is not None)


@dataclass(frozen=True, slots=True, kw_only=True)
class Demand:
    """What the settings let the processes take from the server together."""

    size: int
    overflow: int
    engines: int
    processes: int
    is_pooled: bool
    """Whether anything bounds it: without a pool, each use opens a connection."""

    @property
    def steady(self) -> int:
        """How many connections all pools keep open."""
        return self.size * self.engines * self.processes

    @property
    def most(self) -> int:
        """How many connections all pools can open."""
        return (self.size + self.overflow) * self.engines * self.processes

    def __str__(self) -> str:
        return f"({self.size} + {self.overflow}) x {self.engines} engines x {self.processes} process(es) = {self.most}"


@dataclass(frozen=True, slots=True)
class Suggestion:
    """A size for each pool."""

    size: int
    overflow: int


async def capacity_of(connection: asyncpg.Connection[Any]) -> Capacity:
    """Ask the server."""
    return Capacity(**await connection.fetchrow(_CAPACITY))


def demand_of(settings: Settings, *, processes: int) -> Demand:
    """Read what is set. `get_db` and `get_read_db` have an engine each; with a replica the latter's is elsewhere."""
    limits = pool_limits(resolve_target(settings), settings)
    return Demand(
        size=limits.size,
        overflow=limits.overflow,
        engines=2 if settings.DATABASE_REPLICA_URL is None else 1,
        processes=processes,
        is_pooled=not isinstance(create_engine(settings).pool, NullPool),
    )


def useful_connections(cores: int, spindles: int) -> int:
    """Return how many connections can do work at the same time: more of them wait inside the server."""
    return cores * 2 + spindles


def suggest(useful: int, available: int | None, demand: Demand) -> Suggestion:
    """Share out among the pools what is of use, and as much again for bursts, as far as the server has it."""
    pools = demand.engines * demand.processes
    most = useful * 2 if available is None else max(0, available - KEPT_FREE)
    size = max(1, min(useful, most) // pools)
    return Suggestion(size, max(0, min(size, most // pools - size)))
