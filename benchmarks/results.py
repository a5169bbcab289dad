"""What was measured, and what follows from it: ratios inside a round, their medians, percentiles over all rounds."""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass, field
from statistics import median
from typing import NamedTuple

from benchmarks.contenders import CONTENDERS
from benchmarks.measuring import Measured

__all__ = ["Case", "Results"]


class Case(NamedTuple):
    """An operation, and how many callers there were at once."""

    operation: str
    callers: int


@dataclass(slots=True)
class Results:
    """Of a run."""

    rounds: defaultdict[Case, defaultdict[str, dict[int, Measured]]] = field(
        default_factory=lambda: defaultdict(lambda: defaultdict(dict))
    )
    """For each case, contender and round."""
    skipped: dict[str, str] = field(default_factory=dict)
    """Why a contender took no part, or not in an operation."""
    mebibytes: dict[str, float] = field(default_factory=dict)
    """By how much a contender's process grew in the export."""

    def ratio(self, case: Case, contender: str, to: str) -> float | None:
        """Return the median of the rounds' ratios, or None where one of the two took no part."""
        ours, theirs = self.rounds[case].get(contender, {}), self.rounds[case].get(to, {})
        ratios = [
            one.calls_a_second / theirs[number].calls_a_second for number, one in ours.items() if number in theirs
        ]
        return median(ratios) if ratios else None

    def calls_a_second(self, case: Case, contender: str) -> float | None:
        """Return the median of the rounds."""
        rounds = self.rounds[case].get(contender, {})
        return median(one.calls_a_second for one in rounds.values()) if rounds else None

    def milliseconds(self, case: Case, contender: str, share: float) -> float | None:
        """Return the time within which this share of all calls was answered."""
        times = sorted(time for one in self.rounds[case].get(contender, {}).values() for time in one.microseconds)
        return times[min(len(times) - 1, int(len(times) * share))] / 1000 if times else None

    def cpu_microseconds(self, case: Case, contender: str) -> float | None:
        """Return what the contender's process worked for a call, the median of the rounds."""
        rounds = self.rounds[case].get(contender, {})
        return median(one.cpu_microseconds for one in rounds.values()) if rounds else None

    def contenders(self) -> list[str]:
        """List who took part in anything, in the order of the list of all."""
        taken = {name for case in self.rounds.values() for name in case}
        return [name for name in CONTENDERS if name in taken]
