"""thea-db pool: the size that the server suggests for the pools, and whether the set size can exhaust the server."""

from __future__ import annotations

import asyncio
import os
from dataclasses import asdict, dataclass
from typing import Any, Final

import typer
from sqlalchemy.pool import NullPool

from src.config import Settings
from src.database.cli.connection import reach
from src.database.cli.output import print_json, print_lines, print_warning
from src.database.engine.capacity import KEPT_FREE, Capacity, capacity_of
from src.database.errors import DatabaseError
from src.database.session import create_engine, pool_limits, resolve_target

EXIT_FITS: Final = 0
EXIT_EXHAUSTS: Final = 1
EXIT_NOT_ASKED: Final = 2


@dataclass(frozen=True, slots=True, kw_only=True)
class Demand:
    """The connections that the settings let all processes open together.

    Args:
        size: The connections that each pool keeps open.
        overflow: The connections that each pool opens beyond them.
        engines: The pools of a process.
        processes: The number of processes.
        is_pooled: Whether there is a limit: without a pool, each use opens a connection.
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
        """The number of connections that all pools can open."""
        return (self.size + self.overflow) * self.engines * self.processes

    def __str__(self) -> str:
        return f"({self.size} + {self.overflow}) x {self.engines} pools x {self.processes} process(es) = {self.most}"


@dataclass(frozen=True, slots=True)
class Suggestion:
    """A size for each pool."""

    size: int
    overflow: int


def demand_of(settings: Settings, *, processes: int) -> Demand:
    """Return the demand of the settings. `get_db`, `get_read_db` and `get_store` have a pool each, of the same limits.

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
    """Return the number of connections that the server can work on at the same time; others wait inside the server."""
    return cores * 2 + spindles


def suggest(useful: int, available: int | None, demand: Demand) -> Suggestion:
    """Return pool sizes that share out the useful connections, and as many again for bursts, within the limit."""
    pools = demand.engines * demand.processes
    most = useful * 2 if available is None else max(0, available - KEPT_FREE)
    size = max(1, min(useful, most) // pools)
    return Suggestion(size, max(0, min(size, most // pools - size)))


def run_pool(settings: Settings, *, cores: int | None, spindles: int, processes: int, as_json: bool) -> int:
    """Print a suggestion and warnings; return the exit code: 0 it fits, 1 it can exhaust the server, 2 unknown.

    Args:
        settings: The settings.
        cores: The cores of the database's machine; None: as many as this machine has.
        spindles: The disks of that machine; one for an SSD.
        processes: The number of processes that use the database at the same time, on all machines.
        as_json: Print one JSON document.
    """
    demand = demand_of(settings, processes=processes)
    useful = useful_connections(cores or os.cpu_count() or 1, spindles)
    capacity, error = asyncio.run(_read_capacity(settings))
    suggestion = suggest(useful, None if capacity is None else capacity.available, demand)
    warnings = _warnings(demand, capacity, useful=useful, settings=settings, cores_are_ours=cores is None)
    if error is not None:
        warnings.insert(0, f"the server was not asked: {error}")
    suggested = {"DATABASE_POOL_SIZE": suggestion.size, "DATABASE_MAX_OVERFLOW": suggestion.overflow}
    document: dict[str, Any] = {
        "suggested": suggested,
        "set": {"DATABASE_POOL_SIZE": demand.size, "DATABASE_MAX_OVERFLOW": demand.overflow},
        "useful": useful,
        "server": capacity and {**asdict(capacity), "available": capacity.available},
        "demand": {**asdict(demand), "steady": demand.steady, "most": demand.most},
        "warnings": warnings,
    }
    if as_json:
        print_json(document)
    else:
        _print(document, demand, capacity, useful)
    if capacity is None:
        return EXIT_NOT_ASKED
    return EXIT_EXHAUSTS if _exhausts(demand, capacity, settings) else EXIT_FITS


def _warnings(
    demand: Demand, capacity: Capacity | None, *, useful: int, settings: Settings, cores_are_ours: bool
) -> list[str]:
    """Return what does not fit together in the settings and the server, and what the calculation assumes."""
    warnings = []
    if capacity is not None and _exhausts(demand, capacity, settings):
        warnings.append(
            f"all processes together can open {demand.most} connections, and the server has {capacity.available} for"
            " them: the rest are refused"
        )
    if capacity is not None and capacity.available < demand.engines * demand.processes:
        warnings.append("the server has not even one connection for each pool: put PgBouncer before it")
    if demand.is_pooled and demand.steady > useful:
        warnings.append(
            f"the pools keep {demand.steady} connections open; the server can work on about {useful} at the same time"
        )
    if not demand.is_pooled:
        warnings.append(
            f"ENVIRONMENT={settings.ENVIRONMENT} has no pool, and each use opens a connection: nothing bounds their"
            " number"
        )
    if settings.DATABASE_PGBOUNCER:
        warnings.append(
            "PgBouncer stands between: its default_pool_size bounds what the server sees, its max_client_conn what we"
            " may open"
        )
    if cores_are_ours:
        warnings.append("the cores are this machine's: where the server runs on another, say --cores and --spindles")
    return warnings


def _exhausts(demand: Demand, capacity: Capacity, settings: Settings) -> bool:
    return demand.is_pooled and not settings.DATABASE_PGBOUNCER and demand.most > capacity.available


async def _read_capacity(settings: Settings) -> tuple[Capacity | None, DatabaseError | None]:
    try:
        async with reach(settings) as reached:
            return await capacity_of(reached.connection), None
    except DatabaseError as error:
        return None, error


def _print(document: dict[str, Any], demand: Demand, capacity: Capacity | None, useful: int) -> None:
    for name, value in document["suggested"].items():
        typer.echo(f"{name}={value}")
    lines: list[tuple[str, object]] = [
        ("at work", f"the server can work on about {useful} connections at the same time: (cores x 2) + spindles"),
        ("server", capacity and f"{capacity.available} of max_connections {capacity.maximum}"),
        ("set", demand),
    ]
    print_lines("From", lines)
    for text in document["warnings"]:
        print_warning(text)
