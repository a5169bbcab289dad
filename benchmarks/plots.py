"""The plots of a run, as SVG: the same numbers result in the same files."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from textwrap import fill
from typing import Any, Final

import matplotlib as mpl
import matplotlib.pyplot as plt

from benchmarks.contenders import CONTENDERS
from benchmarks.data import TENANTS
from benchmarks.measuring import Measured
from benchmarks.operations import OPERATIONS
from benchmarks.report import cases
from benchmarks.results import Case, Results, Spread

__all__ = ["draw"]

COLOURS: Final = ("#0b6e4f", "#6bbf8a", "#1f4e9c", "#8fb3e8", "#b4472e", "#e08a6f", "#8a5aa8", "#c9a227", "#777777",
                  "#b8b8b8", "#444444", "#d46a9f")  # fmt: skip
STYLE: Final = {"svg.hashsalt": "thea-database", "svg.fonttype": "none", "font.size": 9, "axes.spines.top": False,
                "axes.spines.right": False, "axes.axisbelow": True, "font.family": "sans-serif"}  # fmt: skip


def draw(folder: Path, results: Results, growth: Results | None = None, sizes: Sequence[int] = ()) -> list[Path]:
    """Draw the plots that there are results for, and return the files."""
    folder.mkdir(parents=True, exist_ok=True)
    mpl.use("svg")
    mpl.rcParams.update(STYLE)
    compared = [case for case in cases(results) if "asyncpg" in results.rounds[case]]
    by_callers = {count: [case for case in compared if case.callers == count] for count in (1, 16)}
    drawn = [
        _throughput(folder / f"throughput-{count}.svg", results, chosen)
        for count, chosen in by_callers.items()
        if chosen
    ]
    if chosen := by_callers[16]:
        drawn.append(_latency(folder / "latency.svg", results, chosen))
    if results.mebibytes:
        drawn.append(_memory(folder / "memory.svg", results))
    if growth is not None and growth.rounds:
        drawn.append(_growth(folder / "growth.svg", growth, sizes))
    return drawn


def _throughput(path: Path, results: Results, chosen: Sequence[Case]) -> Path:
    figure, axes = plt.subplots(figsize=(10, 4.2))
    _bars(axes, results, chosen, lambda case, name: results.ratio(case, name, "asyncpg"))
    axes.axhline(1, color="#1f4e9c", linewidth=0.8)
    callers = "one caller" if chosen[0].callers == 1 else f"{chosen[0].callers} concurrent callers"
    axes.set_ylabel("throughput; asyncpg with its pool is 1")
    axes.set_title(f"Higher is better: {callers}, {TENANTS} tenants mixed call by call", loc="left")
    return _save(figure, path)


def _latency(path: Path, results: Results, chosen: Sequence[Case]) -> Path:
    figure, (upper, lower) = plt.subplots(2, 1, figsize=(10, 7), sharex=True)
    for axes, share in ((upper, 0.5), (lower, 0.99)):
        _bars(
            axes,
            results,
            chosen,
            lambda case, name, share=share: results.spread(case, name, lambda one: one.milliseconds(share)),
        )
        axes.set_yscale("log")
        axes.set_ylabel("milliseconds")
        axes.set_title(f"p{share * 100:.0f}, {chosen[0].callers} concurrent callers: lower is better", loc="left")
    lower.legend_.remove()
    return _save(figure, path)


def _memory(path: Path, results: Results) -> Path:
    figure, axes = plt.subplots(figsize=(8, 3.2))
    grown = sorted(results.mebibytes.items(), key=lambda item: -item[1])
    axes.barh([CONTENDERS[name].title for name, _ in grown], [value for _, value in grown], color="#0b6e4f")
    axes.set_xlabel("MiB by which the process grew while it streamed one user's messages: less is better")
    return _save(figure, path)


def _growth(path: Path, growth: Results, sizes: Sequence[int]) -> Path:
    figure, axes = plt.subplots(figsize=(8, 4))
    for number, case in enumerate(cases(growth)):
        for name, line in (("store", "-"), ("asyncpg", "--")):
            times = [_middle(growth.spread(case, f"{name}@{size}", _p50)) for size in sizes]
            label = f"{_short(case)}, {CONTENDERS[name].title}"
            axes.plot(sizes, times, line, marker="o", color=COLOURS[number * 2], label=label, markersize=3)
    axes.set_xscale("log")
    axes.set_ylim(bottom=0)
    axes.set_xlabel("messages in the table")
    axes.set_ylabel("milliseconds a call (median)")
    axes.legend(frameon=False, fontsize=7, loc="center left", bbox_to_anchor=(1, 0.5))
    return _save(figure, path)


def _bars(axes: Any, results: Results, chosen: Sequence[Case], value_of: Any) -> None:
    names = [name for name in results.contenders() if any(value_of(case, name) for case in chosen)]
    names.sort(key=list(CONTENDERS).index)
    width = 0.85 / max(1, len(names))
    for number, name in enumerate(names):
        places = [place + (number - (len(names) - 1) / 2) * width for place in range(len(chosen))]
        axes.bar(
            places,
            [_middle(value_of(case, name)) for case in chosen],
            width,
            label=CONTENDERS[name].title,
            color=COLOURS[list(CONTENDERS).index(name) % len(COLOURS)],
        )
    labels = [fill(_short(case), 14) for case in chosen]
    axes.set_xticks(range(len(chosen)), labels, fontsize=7)
    axes.legend(frameon=False, fontsize=7, ncols=6, loc="lower center", bbox_to_anchor=(0.5, 1.08))


def _p50(measured: Measured) -> float:
    return measured.milliseconds(0.5)


def _middle(spread: Spread | None) -> float:
    return spread.middle if spread else 0


def _short(case: Case) -> str:
    return OPERATIONS[case.operation].title.split(", ")[0].split(":")[0]


def _save(figure: Any, path: Path) -> Path:
    figure.tight_layout()
    figure.savefig(path, metadata={"Date": None, "Creator": None})
    plt.close(figure)
    return path
