"""Chance that can be had again: the same seed throws the same, on every machine."""

from __future__ import annotations

import math
import random
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from typing import Final, TypeVar
from uuid import UUID

__all__ = ["Dice"]

T = TypeVar("T")

_EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)
_MILLISECOND: Final = timedelta(milliseconds=1)


class Dice(random.Random):
    """Random numbers of one seed, and what is made of them."""

    def id(self, at: datetime) -> UUID:
        """Make a version 7 UUID of an instant: the ids come in the order of the rows' times."""
        time = (at - _EPOCH) // _MILLISECOND << 80
        return UUID(int=time | 0x7 << 76 | self.getrandbits(12) << 64 | 0b10 << 62 | self.getrandbits(62))

    def happens(self, probability: float) -> bool:
        """Say yes so often."""
        return self.random() < probability

    def pick(self, items: Sequence[T]) -> T:
        """Return one of these."""
        return items[int(self.random() * len(items))]

    def amount(self, median: float, spread: float, most: float) -> float:
        """Return a number as lengths and gaps are spread: log-normally, most of them short, a few very long."""
        return min(median * math.exp(self.normalvariate(0.0, spread)), most)

    def between(self, start: datetime, end: datetime) -> datetime:
        """Return an instant in an interval."""
        return start + (end - start) * self.random()
