"""The tables of a run: the bars, the ratios of all contenders, times, processor time, memory and growth."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Final

from rich.table import Table

from benchmarks.contenders import CONTENDERS
from benchmarks.data import TENANTS
from benchmarks.measuring import Measured
from benchmarks.operations import OPERATIONS, PEERS
from benchmarks.results import MET, NOT_MET, Case, Results, Spread

__all__ = ["Sheet", "cases", "peer", "sheets"]

MIXED_TO_ONE_BAR: Final = 0.95
P99_BAR: Final = 1.0
"""The peer's p99 divided by the path's."""
MEBIBYTES_BAR: Final = 5.0
NOTHING: Final = "-"


@dataclass(slots=True)
class Sheet:
    """A table, for the screen and for a page."""

    title: str
    columns: Sequence[str]
    rows: list[list[str]] = field(default_factory=list)

    def as_rich(self) -> Table:
        """Return the table for the screen."""
        table = Table(title=self.title, title_justify="left")
        for number, column in enumerate(self.columns):
            table.add_column(column, justify="right" if number else "left", overflow="fold")
        for row in self.rows:
            table.add_row(*row)
        return table

    def as_markdown(self) -> str:
        """Return the table for a page."""
        rows = [self.columns, ["---", *("---:" for _ in self.columns[1:])], *self.rows]
        return "\n".join([f"## {self.title}", "", *(f"| {' | '.join(row)} |" for row in rows), ""])


def sheets(results: Results, growth: Results | None = None, sizes: Sequence[int] = ()) -> list[Sheet]:
    """Return all tables that have a row."""
    made = [
        _bars(results),
        _mixed_to_one(results),
        _ratios(results, "mixed", f"Throughput, {TENANTS} tenants mixed"),
        _ratios(results, "one", "Throughput, one tenant"),
        _metric(results, "Milliseconds a call, p50", lambda one: one.milliseconds(0.5)),
        _metric(results, "Milliseconds a call, p99", _p99),
        _metric(results, "Client: microseconds of processor time a call", lambda one: one.cpu_microseconds),
        _metric(
            results, "Server: microseconds of its backends' processor time a call", lambda one: one.server_microseconds
        ),
        _memory(results),
    ]
    if growth is not None:
        made.append(_growth(growth, sizes))
    return [sheet for sheet in made if sheet.rows]


def cases(results: Results, tenants: str = "mixed") -> list[Case]:
    """Return the measured cases in the order of the operations."""
    every = (Case(one.name, callers, tenants) for one in OPERATIONS.values() for callers in one.callers)
    return [case for case in every if results.rounds.get(case)]


def peer(results: Results, case: Case) -> str:
    """Return the contender whose throughput is 1: the first one of the peers that took part."""
    return next((name for name in PEERS.values() if name in results.rounds[case]), "sqlalchemy")


def _bars(results: Results) -> Sheet:
    columns = ["operation", "c", "path", "compared with", "ratio", "spread", "bar", "met", "one tenant",
               "to the floor", "p99 ms", "p99 at most its peer's"]  # fmt: skip
    sheet = Sheet(f"The bars: {TENANTS} tenants mixed call by call, and one tenant", columns)
    for path, against in PEERS.items():
        for case in cases(results):
            operation = OPERATIONS[case.operation]
            bar, ratio = operation.bar(path, case.callers), results.ratio(case, path, against)
            if bar is None or ratio is None:
                continue
            p99 = results.ratio(case, against, path, metric=_p99)
            both = (results.spread(case, name, _p99) for name in (path, against))
            sheet.rows.append(
                [
                    operation.title,
                    str(case.callers),
                    path,
                    CONTENDERS[against].title,
                    _middle(ratio),
                    _range(ratio),
                    f"{bar:g}",
                    ratio.verdict(bar),
                    _middle(results.ratio(case._replace(tenants="one"), path, against)),
                    _middle(results.ratio(case, path, "floor")),
                    " / ".join(map(_middle, both)),
                    p99.verdict(P99_BAR) if p99 else NOTHING,
                ]
            )
    return sheet


def _mixed_to_one(results: Results) -> Sheet:
    sheet = Sheet(
        f"The store's one-statement calls: throughput with {TENANTS} tenants, as a ratio to one tenant",
        ["operation", "c", "ratio", "spread", "bar", "met"],
    )
    for case in cases(results):
        ratio = results.ratio(case, "store", "store", to_case=case._replace(tenants="one"))
        if OPERATIONS[case.operation].is_one_statement and ratio:
            verdict = ratio.verdict(MIXED_TO_ONE_BAR)
            row = [_middle(ratio), _range(ratio), f"{MIXED_TO_ONE_BAR:g}", verdict]
            sheet.rows.append([OPERATIONS[case.operation].title, str(case.callers), *row])
    return sheet


def _ratios(results: Results, tenants: str, title: str) -> Sheet:
    names = [
        name for name in results.contenders() if any(name in results.rounds[case] for case in cases(results, tenants))
    ]
    about = "ratio inside each round, its spread, and in brackets calls a second"
    sheet = Sheet(f"{title}: {about}", ["operation", "c", *(CONTENDERS[name].title for name in names)])
    for case in cases(results, tenants):
        row = [OPERATIONS[case.operation].title, str(case.callers)]
        for name in names:
            ratio, speed = results.ratio(case, name, peer(results, case)), results.spread(case, name)
            times = "1" if name == peer(results, case) else f"{_middle(ratio)} {_range(ratio)}"
            row.append(NOTHING if speed is None else f"{times} ({_middle(speed)})")
        sheet.rows.append(row)
    return sheet


def _metric(results: Results, title: str, metric: Callable[[Measured], float]) -> Sheet:
    names = results.contenders()
    sheet = Sheet(title, ["operation", "c", *(CONTENDERS[name].title for name in names)])
    for case in cases(results):
        values = [_middle(results.spread(case, name, metric)) for name in names]
        sheet.rows.append([OPERATIONS[case.operation].title, str(case.callers), *values])
    return sheet


def _memory(results: Results) -> Sheet:
    sheet = Sheet("Memory: MiB by which the process grew in the export", ["contender", "MiB", "bar", "met"])
    for name, grown in sorted(results.mebibytes.items(), key=lambda item: item[1]):
        bar = [f"{MEBIBYTES_BAR:g}", MET if grown <= MEBIBYTES_BAR else NOT_MET] if name == "store" else ["", ""]
        sheet.rows.append([CONTENDERS[name].title, f"{grown:.1f}", *bar])
    return sheet


def _growth(growth: Results, sizes: Sequence[int]) -> Sheet:
    sheet = Sheet(
        "Growth: milliseconds a call (median) by the number of messages, one caller",
        ["operation", "contender", *(f"{size:,}" for size in sizes), "throughput, first to last", "spread"],
    )
    for case in cases(growth):
        for name in ("store", "asyncpg"):
            times = [growth.spread(case, f"{name}@{size}", lambda one: one.milliseconds(0.5)) for size in sizes]
            ratio = growth.ratio(case, f"{name}@{sizes[0]}", f"{name}@{sizes[-1]}")
            row = [*map(_middle, times), _middle(ratio), _range(ratio)]
            sheet.rows.append([OPERATIONS[case.operation].title, CONTENDERS[name].title, *row])
    return sheet


def _p99(measured: Measured) -> float:
    return measured.milliseconds(0.99)


def _middle(spread: Spread | None) -> str:
    return NOTHING if spread is None else _number(spread.middle)


def _range(spread: Spread | None) -> str:
    return NOTHING if spread is None else f"{_number(spread.low)}..{_number(spread.high)}"


def _number(value: float) -> str:
    """Return a number with three digits or so."""
    if math.isnan(value):
        return NOTHING
    return f"{value:,.0f}" if value >= 100 else f"{value:.1f}" if value >= 20 else f"{value:.2f}"
