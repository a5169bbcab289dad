"""The number of connections that the pools can open and that the server accepts, and the pool size that fits."""

from __future__ import annotations

from dataclasses import dataclass

from sqlalchemy.pool import NullPool

from src.config import Settings
from src.database.check_result import CheckResult, failed, ok, skipped
from src.database.doctor.server import CheckContext
from src.database.engine import KEPT_FREE, Capacity, capacity_of
from src.database.session import create_engine, pool_limits, resolve_target


@dataclass(frozen=True, slots=True, kw_only=True)
class Demand:
    """The connections that all processes together can open with these settings.

    Args:
        size: The number of connections that each pool keeps open (DATABASE_POOL_SIZE).
        overflow: The number of connections that each pool opens beyond `size` (DATABASE_MAX_OVERFLOW).
        engines: The number of pools in a process.
        processes: The number of processes.
        is_pooled: False if the settings use no pool: each session opens a connection, and nothing limits their number.
    """

    size: int
    overflow: int
    engines: int
    processes: int
    is_pooled: bool

    @property
    def steady(self) -> int:
        """The number of connections that all pools keep open."""
        return self.size * self.engines * self.processes

    @property
    def most(self) -> int:
        """The largest number of connections that all pools can open."""
        return (self.size + self.overflow) * self.engines * self.processes

    def __str__(self) -> str:
        return f"({self.size} + {self.overflow}) x {self.engines} pools x {self.processes} process(es) = {self.most}"

    def can_exhaust(self, capacity: Capacity, settings: Settings) -> bool:
        """Return True if the pools can open more connections than the server accepts.

        Behind PgBouncer they cannot: its `default_pool_size` limits the connections to the server.
        """
        return self.is_pooled and not settings.DATABASE_PGBOUNCER and self.most > capacity.available


@dataclass(frozen=True, slots=True)
class Suggestion:
    """A size and an overflow for each pool."""

    size: int
    overflow: int


def demand_of(settings: Settings, *, processes: int) -> Demand:
    """Return the demand of the settings.

    `get_db`, `get_read_db` and `get_store` have a pool each, with the same limits. With a replica, the pool of
    `get_read_db` connects to another server and is not counted.
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
    """Return the number of connections that can execute at the same time; further ones wait inside the server.

    The formula is https://wiki.postgresql.org/wiki/Number_Of_Database_Connections.
    """
    return cores * 2 + spindles


def suggest(useful: int, available: int | None, demand: Demand) -> Suggestion:
    """Divide the useful connections among the pools, with the same number again as overflow for bursts.

    Args:
        useful: The number of connections that can execute at the same time.
        available: The number of connections that the server accepts; None if it is not known.
        demand: The number of pools and processes to divide them among.
    """
    pools = demand.engines * demand.processes
    most = useful * 2 if available is None else max(0, available - KEPT_FREE)
    size = max(1, min(useful, most) // pools)
    return Suggestion(size, max(0, min(size, most // pools - size)))


async def check_connections(context: CheckContext) -> CheckResult:
    """Compare the number of connections that the pools can open with the number that the server accepts."""
    demand = demand_of(context.settings, processes=context.processes)
    return judge_connections(demand, await capacity_of(context.connection), context.settings)


def judge_connections(demand: Demand, capacity: Capacity, settings: Settings) -> CheckResult:
    """Return the result by the rule that `thea-db pool` applies."""
    accepts = f"the server accepts {capacity.available} (max_connections {capacity.maximum})"
    if settings.DATABASE_PGBOUNCER:
        return skipped(f"PgBouncer limits the connections to the server; {accepts}")
    if not demand.is_pooled:
        return ok(f"{accepts}; without a pool each session opens a connection")
    if demand.can_exhaust(capacity, settings):
        return failed(f"the pools can open {demand} connections, and {accepts}", "`thea-db pool` suggests a size")
    return ok(f"the pools can open {demand} connections; {accepts}")
