"""`python -m benchmarks`, or `make bench`: this project's two paths beside the drivers and the ORMs, in one run."""

from __future__ import annotations

import asyncio
import os
import platform
from importlib.metadata import version
from pathlib import Path
from typing import Annotated, Final

import typer
from rich.console import Console
from rich.progress import Progress, track
from rich.table import Table

from benchmarks.contenders import CONTENDERS
from benchmarks.contenders.base import POOL_SIZE
from benchmarks.data import load
from benchmarks.operations import OPERATIONS
from benchmarks.report import Sheet, sheets
from benchmarks.results import Results
from benchmarks.run import GROWING, Runner, measure_all, profile
from benchmarks.sample import Sample
from benchmarks.server import BenchmarkServer, running_server

OUT: Final = Path("docs/benchmarks")
SMALLEST_GROWING: Final = 400_000
"""With fewer messages, a hundredth of them would not make conversations."""
SHORTER: Final = 2
"""The rounds of growth are shorter by this: it has many cases."""

console: Final = Console(width=None if Console().is_terminal else 220)


def main(  # noqa: PLR0917 - the options of a command
    rounds: Annotated[int, typer.Option(min=1, help="How often each is measured.")] = 7,
    seconds: Annotated[float, typer.Option(min=0.01, help="How long each time.")] = 0.5,
    messages: Annotated[int, typer.Option(min=2_000, help="How many there are.")] = 1_000_000,
    everybody: Annotated[
        bool, typer.Option("--all", help="Also the contenders that are asked for less often.")
    ] = False,
    only: Annotated[list[str] | None, typer.Option(help="Only this operation; may be repeated.")] = None,
    among: Annotated[list[str] | None, typer.Option("--with", help="Only this contender; may be repeated.")] = None,
    out: Annotated[Path, typer.Option(help="Where the plots and results.md go.")] = OUT,
    profiled: Annotated[
        list[str] | None,
        typer.Option("--profile", help="Only say where the client's time goes: the store's, or the first of --with."),
    ] = None,
    growth: Annotated[bool, typer.Option(help="Also at a tenth and a hundredth of the messages.")] = True,
) -> None:
    """Load the data, measure in turns, print the tables, draw the plots."""
    chosen = _chosen("operation", list(OPERATIONS), only)
    contenders = _chosen(
        "contender", [one.name for one in CONTENDERS.values() if everybody or among or not one.is_extra], among
    )
    with running_server() as server:
        sizes = [messages]
        if growth and not profiled and messages >= SMALLEST_GROWING:
            sizes = [messages // 100, messages // 10, messages]
        samples = {size: _load(server, size) for size in track(sizes, "Loading", console=console)}
        if profiled:
            for name in profiled:
                console.print(_profile(_runner(server, contenders[0], samples[messages]), name, seconds))
            return
        runners = [_runner(server, name, samples[messages]) for name in contenders]
        operations = [OPERATIONS[name] for name in chosen]
        with Progress(console=console) as progress:
            task = progress.add_task("Measuring", total=rounds * (1 + (len(sizes) > 1)))
            results = asyncio.run(
                measure_all(runners, operations, rounds=rounds, seconds=seconds, advance=lambda: progress.advance(task))
            )
            grown = None
            if len(sizes) > 1:
                at_sizes = [
                    _runner(server, name, sample, f"{name}@{size}")
                    for size, sample in samples.items()
                    for name in ("store", "asyncpg")
                ]
                growing = [one for one in operations if one.name in GROWING]
                grown = asyncio.run(
                    measure_all(
                        at_sizes,
                        growing,
                        rounds=rounds,
                        seconds=seconds / SHORTER,
                        callers=[1],
                        advance=lambda: progress.advance(task),
                    )
                )
    _publish(out, results, grown, sizes)


def _chosen(kind: str, there_are: list[str], only: list[str] | None) -> list[str]:
    if unknown := set(only or ()) - set(there_are):
        raise typer.BadParameter(f"there is no {kind} {', '.join(sorted(unknown))}; there are {', '.join(there_are)}")
    return [name for name in there_are if not only or name in only]


def _load(server: BenchmarkServer, size: int) -> Sample:
    with server.create(f"messages_{size}") as connection:
        return load(connection, messages=size)


def _runner(server: BenchmarkServer, name: str, sample: Sample, label: str | None = None) -> Runner:
    return Runner(label or name, CONTENDERS[name], sample, server.environment(sample.database, sample.tenant_id))


def _profile(runner: Runner, operation: str, seconds: float) -> Table:
    table = Table("function", "calls a call", "own share", title=f"Where the client's time goes: {operation}")
    for place, calls, share in asyncio.run(profile(runner, operation, seconds=max(seconds, 2.0))):
        table.add_row(place, f"{calls:.1f}", f"{share:.1%}")
    return table


def _publish(out: Path, results: Results, grown: Results | None, sizes: list[int]) -> None:
    made: list[Sheet] = sheets(results, grown, sizes)
    for sheet in made:
        console.print(sheet.as_rich())
    out.mkdir(parents=True, exist_ok=True)
    for title, reason in results.skipped.items():
        console.print(f"left out: {title}: {reason}", markup=False)
    text = [_HEAD.format(**_machine(), messages=f"{sizes[-1]:,}", pool=POOL_SIZE)]
    text += [sheet.as_markdown() for sheet in made]
    text += [f"Left out: {title}: {reason}\n" for title, reason in results.skipped.items()]
    try:
        from benchmarks.plots import draw  # noqa: PLC0415 - the only thing that needs matplotlib
    except ImportError:
        console.print("matplotlib is not installed: no plots")
    else:
        text += [f"![{path.stem}]({path.name})\n" for path in draw(out, results, grown, sizes)]
    (out / "results.md").write_text("\n".join(text))
    console.print(f"{out}/results.md")


def _machine() -> dict[str, str]:
    return {
        "cores": str(os.cpu_count()),
        "python": platform.python_version(),
        "asyncpg": version("asyncpg"),
        "sqlalchemy": version("sqlalchemy"),
    }


_HEAD: Final = """# Results

Made by `make bench`: {messages} messages of 20 tenants in PostgreSQL 18 on a Unix socket, {cores} cores shared by the
server and the clients, Python {python}, asyncpg {asyncpg}, SQLAlchemy {sqlalchemy}, pools of {pool}. One process a
contender; in each round each is measured at each operation in random order, ratios are taken inside a round, and the
median of the rounds is given. What a process has imported is frozen (`gc.freeze`), and heap settings are the same.
This project's paths act under row-level security, idempotently and without gaps; the others' role bypasses it, and they
insert plainly under a counter.
"""

if __name__ == "__main__":
    typer.run(main)
