"""thea-db pool: a suggested size for the pools, and whether the configured size can exhaust the server."""

from __future__ import annotations

import os
from dataclasses import asdict
from typing import Any

import typer

from src.config import Settings
from src.database.cli.output import EXIT_ERROR, EXIT_FAILED, print_json, print_lines, print_warning
from src.database.cli.running import run_coroutine
from src.database.doctor.connection import reach
from src.database.doctor.demand import Demand, demand_of, suggest, useful_connections
from src.database.engine import Capacity, capacity_of
from src.database.errors import DatabaseError


def run_pool(settings: Settings, *, cores: int | None, spindles: int, processes: int, as_json: bool) -> int:
    """Print a suggestion and warnings.

    Args:
        settings: The settings.
        cores: The cores of the database server; None: those of this machine.
        spindles: The disks of the database server; 1 for an SSD.
        processes: The number of processes that use the database at the same time, on all machines.
        as_json: Print one JSON document.

    Returns:
        The exit code: 0 if the configured size fits, 1 if it can exhaust the server, 2 if that is not known.
    """
    demand = demand_of(settings, processes=processes)
    useful = useful_connections(cores or os.cpu_count() or 1, spindles)
    capacity, error = run_coroutine(_read_capacity(settings))
    suggestion = suggest(useful, None if capacity is None else capacity.available, demand)
    warnings = _warnings(demand, capacity, useful=useful, settings=settings, assumes_cores=cores is None)
    if error is not None:
        warnings.insert(0, f"the server could not be queried: {error}")
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
        return EXIT_ERROR
    return EXIT_FAILED if demand.can_exhaust(capacity, settings) else 0


def _warnings(
    demand: Demand, capacity: Capacity | None, *, useful: int, settings: Settings, assumes_cores: bool
) -> list[str]:
    """Return the conflicts between the settings and the server, and the assumptions of the calculation."""
    warnings = []
    if capacity is not None and demand.can_exhaust(capacity, settings):
        warnings.append(
            f"all processes together can open {demand.most} connections, and the server accepts {capacity.available}:"
            " it refuses the others"
        )
    if capacity is not None and capacity.available < demand.engines * demand.processes:
        warnings.append(
            "the server accepts less than one connection for each pool: put PgBouncer in front of the server"
        )
    if demand.is_pooled and demand.steady > useful:
        warnings.append(
            f"the pools keep {demand.steady} connections open; the server can execute about {useful}"
            " statements at the same time"
        )
    if not demand.is_pooled:
        warnings.append(
            f"ENVIRONMENT={settings.ENVIRONMENT} has no pool: each session opens a connection, and nothing limits their"
            " number"
        )
    if settings.DATABASE_PGBOUNCER:
        warnings.append(
            "with PgBouncer, default_pool_size limits the connections to the server, and max_client_conn the"
            " connections to PgBouncer"
        )
    if assumes_cores:
        warnings.append(
            "the cores are those of this machine: for a server on another machine, set --cores and --spindles"
        )
    return warnings


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
        ("useful", f"the server can execute about {useful} statements at the same time: (cores x 2) + spindles"),
        ("server", capacity and f"{capacity.available} of max_connections {capacity.maximum}"),
        ("set", demand),
    ]
    print_lines("Based on", lines)
    for text in document["warnings"]:
        print_warning(text)
