"""The results of a run: ratios inside each round, their median and their spread."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from statistics import median
from typing import Final, NamedTuple

from benchmarks.contenders import CONTENDERS
from benchmarks.measuring import Measured

__all__ = ["MET", "NOISE", "NOT_MET", "Case", "Results", "Spread", "speed"]

MET: Final = "met"
NOT_MET: Final = "NOT MET"
NOISE: Final = "within noise"
TRIMMED_FROM: Final = 5
"""With so many rounds, the spread leaves out the lowest and the highest."""

Metric = Callable[[Measured], float]


class Case(NamedTuple):
    """An operation, the number of concurrent callers, and "mixed" tenants or "one"."""

    operation: str
    callers: int
    tenants: str = "mixed"


class Spread(NamedTuple):
    """The median of the rounds, and the range that they lie in without the lowest and the highest round.

    With seven rounds, the range holds the true median in 88 % of runs.
    """

    low: float
    middle: float
    high: float

    @classmethod
    def of(cls, values: Iterable[float]) -> Spread | None:
        """Return the spread of the rounds, or None if there are no rounds or no numbers."""
        known = sorted(value for value in values if not math.isnan(value))
        if not known:
            return None
        trimmed = 1 if len(known) >= TRIMMED_FROM else 0
        return cls(known[trimmed], median(known), known[-1 - trimmed])

    def verdict(self, bar: float) -> str:
        """Return "met" or "NOT MET", or "within noise" if the bar lies inside the spread."""
        if self.low >= bar:
            return MET
        return NOT_MET if self.high < bar else NOISE


def speed(measured: Measured) -> float:
    """Return the calls a second: what ratios are of, unless another metric is named."""
    return measured.calls_a_second


@dataclass(slots=True)
class Results:
    """The results of a run."""

    rounds: defaultdict[Case, defaultdict[str, dict[int, Measured]]] = field(
        default_factory=lambda: defaultdict(lambda: defaultdict(dict))
    )
    """By case, contender and round."""
    skipped: dict[str, str] = field(default_factory=dict)
    """The reasons why a contender took no part, or not in an operation."""
    mebibytes: dict[str, float] = field(default_factory=dict)
    """The growth of each contender's process in the export."""

    def spread(self, case: Case, contender: str, metric: Metric = speed) -> Spread | None:
        """Return a metric of a contender, or None if it took no part."""
        return Spread.of(metric(one) for one in self._of(case, contender).values())

    def ratio(
        self, case: Case, contender: str, to: str, *, metric: Metric = speed, to_case: Case | None = None
    ) -> Spread | None:
        """Return the ratio to another contender, or case, in the same round; None if one of them took no part."""
        ours, theirs = self._of(case, contender), self._of(to_case or case, to)
        return Spread.of(metric(ours[number]) / metric(theirs[number]) for number in ours.keys() & theirs.keys())

    def contenders(self) -> list[str]:
        """Return the contenders that took part, in the order of `CONTENDERS`."""
        taken = {name for case in self.rounds.values() for name in case}
        return [name for name in CONTENDERS if name in taken]

    def _of(self, case: Case, contender: str) -> dict[int, Measured]:
        return self.rounds[case].get(contender, {}) if case in self.rounds else {}
