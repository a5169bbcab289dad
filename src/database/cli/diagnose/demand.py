"""How many connections the processes can take, and how many are of use."""

from __future__ import annotations

from dataclasses import dataclass

from sqlalchemy.pool import NullPool

from src.config import Settings
from src.database.engine import create_engine
from src.database.engine.capacity import KEPT_FREE
from src.database.resolve import pool_limits, resolve_target

__all__ = ["Demand", "Suggestion", "demand_of", "suggest", "useful_connections"]


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
        return f"({self.size} + {self.overflow}) x {self.engines} pools x {self.processes} process(es) = {self.most}"


@dataclass(frozen=True, slots=True)
class Suggestion:
    """A size for each pool."""

    size: int
    overflow: int


def demand_of(settings: Settings, *, processes: int) -> Demand:
    """Return what the settings allow. `get_db`, `get_read_db` and `get_store` have a pool each, of the same limits.

    With a replica, the pool of `get_read_db` is on another server.
    """
    limits = pool_limits(resolve_target(settings), settings)
    return Demand(
        size=limits.size,
        overflow=limits.overflow,
        engines=3 if settings.DATABASE_REPLICA_URL is None else 2,
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
