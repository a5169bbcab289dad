"""The tables of a run: the bar and what was reached, everybody's ratios, times, and memory."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field

from rich.table import Table

from benchmarks.contenders import CONTENDERS
from benchmarks.operations import OPERATIONS
from benchmarks.results import Case, Results

__all__ = ["Sheet", "sheets"]

FLOOR_BAR = 0.85
MEBIBYTES_BAR = 5.0
NOTHING = "-"


@dataclass(slots=True)
class Sheet:
    """A table, for the screen and for a page."""

    title: str
    columns: Sequence[str]
    rows: list[list[str]] = field(default_factory=list)

    def as_rich(self) -> Table:
        """Return it for the screen."""
        table = Table(title=self.title, title_justify="left")
        for number, column in enumerate(self.columns):
            table.add_column(column, justify="right" if number else "left", overflow="fold")
        for row in self.rows:
            table.add_row(*row)
        return table

    def as_markdown(self) -> str:
        """Return it for a page."""
        rows = [self.columns, ["---", *("---:" for _ in self.columns[1:])], *self.rows]
        return "\n".join([f"## {self.title}", "", *(f"| {' | '.join(row)} |" for row in rows), ""])


def sheets(results: Results, growth: Results | None = None, sizes: Sequence[int] = ()) -> list[Sheet]:
    """Return all of them, those that have a row."""
    made = [
        _bars(results),
        _ratios(results),
        _times(results, 0.5),
        _times(results, 0.99),
        _work(results),
        _memory(results),
    ]
    if growth is not None:
        made.append(_growth(growth, sizes))
    return [sheet for sheet in made if sheet.rows]


def cases(results: Results) -> list[Case]:
    """List the cases in the order of the operations."""
    return [
        case
        for operation in OPERATIONS.values()
        for case in (Case(operation.name, callers) for callers in operation.bars)
        if results.rounds.get(case)
    ]


def _bars(results: Results) -> Sheet:
    columns = ["operation", "c", "path", "compared with", "ratio", "bar", "met", "to the floor", ">= 0.85", "p99 ms"]
    sheet = Sheet("The bar", columns)
    for case in cases(results):
        operation = OPERATIONS[case.operation]
        bar = operation.bars[case.callers]
        ratio = results.ratio(case, operation.path, operation.against)
        if ratio is None:
            continue
        floor = results.ratio(case, operation.path, "floor") if operation.path == "store" else None
        p99 = " / ".join(number(results.milliseconds(case, name, 0.99)) for name in (operation.path, operation.against))
        sheet.rows.append(
            [
                operation.title,
                str(case.callers),
                operation.path,
                CONTENDERS[operation.against].title,
                number(ratio),
                NOTHING if bar is None else f"{bar:.1f}",
                _met(ratio, bar),
                number(floor),
                _met(floor, FLOOR_BAR),
                p99,
            ]
        )
    return sheet


def _ratios(results: Results) -> Sheet:
    names = results.contenders()
    sheet = Sheet(
        "Throughput, as a ratio inside each round (its peer is 1; in brackets calls a second)",
        ["operation", "c", *(CONTENDERS[name].title for name in names)],
    )
    for case in cases(results):
        operation = OPERATIONS[case.operation]
        row = [operation.title, str(case.callers)]
        for name in names:
            ratio, speed = results.ratio(case, name, operation.against), results.calls_a_second(case, name)
            row.append(NOTHING if speed is None else f"{number(ratio)} ({number(speed)})")
        sheet.rows.append(row)
    return sheet


def _times(results: Results, share: float) -> Sheet:
    names = results.contenders()
    sheet = Sheet(
        f"Milliseconds a call, p{share * 100:.0f}", ["operation", "c", *(CONTENDERS[name].title for name in names)]
    )
    for case in cases(results):
        times = [number(results.milliseconds(case, name, share)) for name in names]
        sheet.rows.append([OPERATIONS[case.operation].title, str(case.callers), *times])
    return sheet


def _work(results: Results) -> Sheet:
    names = results.contenders()
    sheet = Sheet(
        "The client's work: microseconds of processor time a call",
        ["operation", "c", *(CONTENDERS[name].title for name in names)],
    )
    for case in cases(results):
        work = [number(results.cpu_microseconds(case, name)) for name in names]
        sheet.rows.append([OPERATIONS[case.operation].title, str(case.callers), *work])
    return sheet


def _memory(results: Results) -> Sheet:
    sheet = Sheet("Memory: by how many MiB the process grew in the export", ["contender", "MiB", "bar", "met"])
    for name, grown in sorted(results.mebibytes.items(), key=lambda item: item[1]):
        bar = [f"{MEBIBYTES_BAR:.0f}", "met" if grown <= MEBIBYTES_BAR else "NOT MET"] if name == "store" else ["", ""]
        sheet.rows.append([CONTENDERS[name].title, f"{grown:.1f}", *bar])
    return sheet


def _growth(growth: Results, sizes: Sequence[int]) -> Sheet:
    sheet = Sheet(
        "Growth: milliseconds a call (median) by the number of messages, one caller",
        ["operation", "contender", *(f"{size:,}" for size in sizes), "last to first"],
    )
    for case in cases(growth):
        for name in ("store", "asyncpg"):
            times = [growth.milliseconds(case, f"{name}@{size}", 0.5) for size in sizes]
            ratio = growth.ratio(case, f"{name}@{sizes[0]}", f"{name}@{sizes[-1]}")
            sheet.rows.append(
                [OPERATIONS[case.operation].title, CONTENDERS[name].title, *map(number, times), number(ratio)]
            )
    return sheet


def number(value: float | None) -> str:
    """Write a number with as many digits as it is worth."""
    if value is None or math.isnan(value):
        return NOTHING
    return f"{value:,.0f}" if value >= 100 else f"{value:.1f}" if value >= 20 else f"{value:.2f}"


def _met(value: float | None, bar: float | None) -> str:
    if value is None or bar is None:
        return NOTHING
    return "met" if value >= bar else "NOT MET"
