"""`python -m benchmarks`, or `make bench`: this project's two paths beside drivers and ORMs, in one run."""

from __future__ import annotations

import asyncio
import os
import platform
from importlib.metadata import version
from pathlib import Path
from typing import Annotated, Final, NamedTuple

import typer
from rich.console import Console
from rich.progress import Progress, track
from rich.table import Table

from benchmarks.contenders import CONTENDERS
from benchmarks.contenders.base import POOL_SIZE, Place
from benchmarks.data import PEER_ROLE, TENANTS, load
from benchmarks.operations import OPERATIONS
from benchmarks.report import Sheet, sheets
from benchmarks.results import Results
from benchmarks.run import GROWING, Runner, measure_all, profile
from benchmarks.sample import Sample
from benchmarks.server import BenchmarkServer, running_server
from src.database.embedded import APP_ROLE

OUT: Final = Path(".cache/benchmarks")
PUBLISHED: Final = Path("docs/benchmarks")
SMALLEST_GROWING: Final = 400_000
"""With fewer messages, a hundredth of them would be too few conversations."""
_LONG: Final = {"stream", "pages"}
"""The operations that need long conversations."""
SHORTER: Final = 2
"""The measurements of growth are shorter by this factor: they have many cases."""


class Scale(NamedTuple):
    """The size of a run."""

    rounds: int
    seconds: float
    messages: int
    exported: int

    def growing(self) -> list[int]:
        """Return the sizes at which growth is measured."""
        return [self.messages // 100, self.messages // 10, self.messages]


FULL: Final = Scale(rounds=7, seconds=0.4, messages=1_000_000, exported=100_000)
QUICK: Final = Scale(rounds=5, seconds=0.15, messages=100_000, exported=20_000)

console: Final = Console(width=None if Console().is_terminal else 220)


def main(  # noqa: PLR0917 - the options of a command
    quick: Annotated[bool, typer.Option("--quick", help="About 5 minutes: fewer rounds and messages.")] = False,
    rounds: Annotated[int | None, typer.Option(min=1, help="The number of rounds; 7, or 5 with --quick.")] = None,
    seconds: Annotated[float | None, typer.Option(min=0.01, help="The duration of each measurement.")] = None,
    messages: Annotated[int | None, typer.Option(min=4_000, help="The number of messages.")] = None,
    everybody: Annotated[bool, typer.Option("--all", help="Also psycopg and Django.")] = False,
    only: Annotated[list[str] | None, typer.Option(help="Only this operation; may be repeated.")] = None,
    among: Annotated[list[str] | None, typer.Option("--with", help="Only this contender; may be repeated.")] = None,
    publish: Annotated[
        bool, typer.Option("--publish", help=f"Write to {PUBLISHED}, not to {OUT}; takes a complete run.")
    ] = False,
    profiled: Annotated[
        list[str] | None,
        typer.Option("--profile", help="Only print the client's time of this operation by function."),
    ] = None,
) -> None:
    """Load the data, measure all contenders in turn, print the tables, and draw the plots."""
    if publish and (quick or rounds or seconds or messages or only or among or profiled):
        raise typer.BadParameter("--publish must be the only option beside --all: it publishes a complete run")
    chosen = _chosen("operation", list(OPERATIONS), only)
    contenders = _chosen(
        "contender", [one.name for one in CONTENDERS.values() if everybody or among or not one.is_extra], among
    )
    size = QUICK if quick else FULL
    size = Scale(rounds or size.rounds, seconds or size.seconds, messages or size.messages, size.exported)
    is_growing = size.messages >= SMALLEST_GROWING and not (profiled or only or among)
    with running_server() as server:
        samples = {
            count: _load(server, count, size.exported if count == size.messages and _LONG & set(chosen) else 0)
            for count in track(size.growing() if is_growing else [size.messages], "Loading", console=console)
        }
        if profiled:
            for name in profiled:
                runner = _runner(server, contenders[0], samples[size.messages])
                console.print(_profile(runner, name, size.seconds))
            return
        operations = [OPERATIONS[name] for name in chosen]
        with Progress(console=console) as progress:
            task = progress.add_task("Measuring", total=size.rounds * (1 + is_growing))
            results = asyncio.run(
                measure_all(
                    [_runner(server, name, samples[size.messages]) for name in contenders],
                    operations,
                    rounds=size.rounds,
                    seconds=size.seconds,
                    advance=lambda: progress.advance(task),
                    backend_times=server.backend_times,
                )
            )
            grown = None
            if is_growing:
                grown = asyncio.run(
                    measure_all(
                        [
                            _runner(server, name, at_size, f"{name}@{count}")
                            for count, at_size in samples.items()
                            for name in ("store", "asyncpg")
                        ],
                        [one for one in operations if one.name in GROWING],
                        rounds=size.rounds,
                        seconds=size.seconds / SHORTER,
                        advance=lambda: progress.advance(task),
                        only_mixed_at=1,
                    )
                )
        settings = server.settings_in_force()
    write(results, grown, size, settings, publish=publish)


def _chosen(kind: str, known: list[str], only: list[str] | None) -> list[str]:
    if unknown := set(only or ()) - set(known):
        raise typer.BadParameter(f"{kind} must be one of {', '.join(known)}, got {', '.join(sorted(unknown))}")
    return [name for name in known if not only or name in only]


def _load(server: BenchmarkServer, count: int, exported: int) -> dict[bool, Sample]:
    """Return the samples for this project's schema (False) and for the plain one (True); long chats if exported."""
    names = {False: f"messages_{count}", True: f"plain_{count}"}
    with server.create(names[False]) as ours, server.create_empty(names[True]) as plain:
        loaded = load(ours, plain, messages=count, exported=exported, long=5_000 if exported else 100)
        roles = {False: APP_ROLE, True: PEER_ROLE}
        host = ours.info.host
        return {
            is_plain: Sample(Place(host, name, roles[is_plain]), loaded.mixed, loaded.one)
            for is_plain, name in names.items()
        }


def _runner(server: BenchmarkServer, name: str, samples: dict[bool, Sample], label: str | None = None) -> Runner:
    entry = CONTENDERS[name]
    sample = samples[entry.is_plain]
    return Runner(label or name, entry, sample, server.environment(sample.place.database))


def _profile(runner: Runner, operation: str, seconds: float) -> Table:
    table = Table("function", "calls a call", "own share", title=f"The client's time by function: {operation}")
    for place, calls, share in asyncio.run(profile(runner, operation, seconds=max(seconds, 2.0))):
        table.add_row(place, f"{calls:.1f}", f"{share:.1%}")
    return table


def write(
    results: Results, grown: Results | None, size: Scale, settings: dict[str, str], *, publish: bool = False
) -> None:
    """Print the tables; write them and the plots to the cache, or to the documentation."""
    out = PUBLISHED if publish else OUT
    sizes = size.growing()
    made: list[Sheet] = sheets(results, grown, sizes)
    text = [_head(size, settings)]
    text += [sheet.as_markdown() for sheet in made]
    text += [f"Left out: {title}: {reason}\n" for title, reason in results.skipped.items()]
    console.print(text[0], markup=False)
    for sheet in made:
        console.print(sheet.as_rich())
    for title, reason in results.skipped.items():
        console.print(f"left out: {title}: {reason}", markup=False)
    out.mkdir(parents=True, exist_ok=True)
    try:
        from benchmarks.plots import draw  # noqa: PLC0415 - only the plots need matplotlib
    except ImportError:
        console.print("matplotlib is not installed: no plots")
    else:
        text += [f"![{path.stem}]({path.name})\n" for path in draw(out, results, grown, sizes)]
    (out / "results.md").write_text("\n".join(text))
    console.print(f"{out}/results.md")


def _head(size: Scale, settings: dict[str, str]) -> str:
    return _HEAD.format(
        messages=size.messages,
        rounds=size.rounds,
        seconds=size.seconds,
        tenants=TENANTS,
        pool=POOL_SIZE,
        cores=os.cpu_count(),
        python=platform.python_version(),
        asyncpg=version("asyncpg"),
        sqlalchemy=version("sqlalchemy"),
        settings=", ".join(f"{name} = {value}" for name, value in settings.items()),
    )


_HEAD: Final = """# Results

`make bench`: {messages:,} messages of {tenants} tenants, {cores} cores shared by the server and the clients, a Unix
socket, Python {python}, asyncpg {asyncpg}, SQLAlchemy {sqlalchemy}, pools of {pool}.

Server settings, as read from pg_settings: {settings}.

- **This project's paths** (store, repositories) connect as the application's role to the migrated schema. It enforces
  row-level security (FORCE), keys and foreign keys that start with the tenant, CHECK constraints, an idempotency key
  for each message, numbers without gaps, and keeps all indexes of its other queries. Each call runs in the context of
  its own tenant.
- **The floor** is asyncpg without a pool on the same schema as the same role, with the tenant in the statement: one
  round trip an operation, no check, no deduplication, no retry.
- **All others** use a plain schema in a database of their own on the same server (`benchmarks/plain.sql`): the same
  columns and rows, one-column keys and foreign keys, an index for each operation, no CHECK constraints, no row-level
  security. They filter by tenant in the query, and append without deduplication.
- **Tenants.** Each call takes a random tenant of the {tenants}; "one tenant" takes all rows from one tenant. Both
  choose from the same number of rows.
- **Rounds.** {rounds} rounds of {seconds:g} s each. One process a contender; in each round each contender performs each
  operation, in random order. Ratios are taken inside a round. A table shows the median of the rounds; the spread leaves
  out the lowest and the highest round (from 5 rounds on). A bar inside the spread is "within noise".
- What a process has imported is frozen (`gc.freeze`), and all processes have the same heap settings.
"""

if __name__ == "__main__":
    typer.run(main)
