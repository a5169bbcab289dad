"""thea-db pool: the size that the database's machine and server suggest, what is set, and what that can lead to."""

from __future__ import annotations

import asyncio
import os
from dataclasses import asdict
from typing import Any, Final

import typer

from src.config import Settings
from src.database.cli.diagnose.demand import Demand, demand_of, suggest, useful_connections
from src.database.cli.diagnose.output import print_json, print_lines, print_warning
from src.database.cli.diagnose.reach import reach
from src.database.engine.capacity import Capacity, capacity_of
from src.database.errors import DatabaseError

__all__ = ["run_pool"]

EXIT_FITS: Final = 0
EXIT_EXHAUSTS: Final = 1
EXIT_NOT_ASKED: Final = 2


def run_pool(settings: Settings, *, cores: int | None, spindles: int, processes: int, as_json: bool) -> int:
    """Suggest, compare and warn; 0 where what is set fits, 1 where it can exhaust the server, 2 where that is unknown.

    Args:
        settings: Where to, and what is set.
        cores: Of the database's machine; None: as many as this one has.
        spindles: Disks that seek, of the same machine; one for an SSD.
        processes: How many processes use the database at once, on all machines.
        as_json: Print one JSON document.
    """
    demand = demand_of(settings, processes=processes)
    useful = useful_connections(cores or os.cpu_count() or 1, spindles)
    capacity, error = asyncio.run(_ask(settings))
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
    """Say what of the settings and the server does not go together, and what the sum does not know."""
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


async def _ask(settings: Settings) -> tuple[Capacity | None, DatabaseError | None]:
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
