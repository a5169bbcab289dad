"""The report of the soak: a table by minute, the counts at the end, and the result."""

from __future__ import annotations

import platform
from collections import Counter
from dataclasses import dataclass, field
from statistics import median

MOST_GROWTH = 0.05


@dataclass
class Minute:
    """The counts of one minute, and the medians of memory and backends."""

    calls: int = 0
    cancelled: int = 0
    faults: Counter[str] = field(default_factory=Counter)
    errors: Counter[str] = field(default_factory=Counter)
    rss: list[int] = field(default_factory=list)
    backends: list[int] = field(default_factory=list)

    @property
    def megabytes(self) -> float:
        return median(self.rss) / 2**20 if self.rss else 0.0


@dataclass
class Report:
    """The report.

    Attributes:
        warm_up: The number of minutes before memory is compared.
        acknowledged: The number of acknowledged messages.
        stored: The number of messages that an independent reader found.
        found: The number of faulty rows by check.
        left: The number of backends before the load, at its end, and after `dispose`.
        unexpected: Errors that no fault explains.
    """

    minutes: list[Minute]
    warm_up: int
    acknowledged: int
    stored: int
    found: dict[str, int]
    left: tuple[int, int, int]
    in_use: int
    wrongly_bound: list[str]
    unexpected: list[str]

    @property
    def growth(self) -> float:
        """The growth of memory, as a share: the last third compared with the first one after the warm-up."""
        figures = [one.megabytes for one in self.minutes[self.warm_up :] if one.rss]
        third = max(1, len(figures) // 3)
        return median(figures[-third:]) / median(figures[:third]) - 1 if figures else 0.0

    @property
    def complaints(self) -> list[str]:
        """Return the broken guarantees; an empty list if the soak passed."""
        _, after, baseline = self.left
        wrong = [f"{number} {check}" for check, number in self.found.items() if number]
        wrong += [f"{self.in_use} connections are checked out"] if self.in_use else []
        wrong += self.wrongly_bound + self.unexpected
        wrong += [f"{after} backends after dispose, {baseline} before"] if after != baseline else []
        wrong += [f"memory grew by {self.growth:.1%}"] if self.growth >= MOST_GROWTH else []
        wrong += [] if self.acknowledged else ["nothing was acknowledged"]
        return wrong

    def as_markdown(self) -> str:
        under_load, after, baseline = self.left
        errors = sum((one.errors for one in self.minutes), Counter[str]())
        faults = sum((one.faults for one in self.minutes), Counter[str]())
        calls, cancelled = sum(one.calls for one in self.minutes), sum(one.cancelled for one in self.minutes)
        lines = [
            "# Soak test",
            "",
            "`make soak` writes this report. Three tenants use sessions and the store while backends are terminated,",
            "the server is killed and restarted, and calls are cancelled. A writer repeats its message, on either",
            "path and with the same key, until it is acknowledged. At the end an independent reader checks all rows.",
            "",
            f"- Result: {'; '.join(self.complaints) or 'passed'}",
            f"- {len(self.minutes)} minutes, Python {platform.python_version()} on {platform.machine()}",
            f"- Calls: {calls}, of which {cancelled} cancelled; errors: {_listed(errors)}",
            f"- Faults: {_listed(faults)}",
            f"- Messages acknowledged: {self.acknowledged}; stored: {self.stored}",
            *(f"- {check[0].upper()}{check[1:]}: {number}" for check, number in self.found.items()),
            f"- Connections checked out at the end: {self.in_use}; bound to a tenant: {len(self.wrongly_bound)}",
            f"- Backends: {baseline} before, {under_load} at the end of the load, {after} after dispose",
            f"- Memory after the first {self.warm_up} min: {self.growth:+.1%}",
            "",
            "| minute | calls | cancelled | faults | errors | RSS, MB | backends |",
            "| ---: | ---: | ---: | --- | --- | ---: | ---: |",
        ]
        lines += [
            f"| {number} | {one.calls} | {one.cancelled} | {_listed(one.faults)} | {_listed(one.errors)}"
            f" | {one.megabytes:.1f} | {median(one.backends or [0]):.0f} |"
            for number, one in enumerate(self.minutes, start=1)
        ]
        return "\n".join(lines) + "\n"


def _listed(counted: Counter[str]) -> str:
    return ", ".join(f"{number} {name}" for name, number in sorted(counted.items())) or "none"
