"""The recipe of a seed: what its rows depend on, how they are divided among the tenants, and the random numbers."""

from __future__ import annotations

import math
import random
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from itertools import accumulate, pairwise
from typing import Any, Final, TypeVar
from uuid import UUID

from faker import VERSION as FAKER

from src.database.base import check_aware
from src.database.errors import ConfigurationError

T = TypeVar("T")

MAX_TENANTS: Final = 1000
EARLIEST, LATEST = datetime(2000, 1, 1, tzinfo=UTC), datetime(2100, 1, 1, tzinfo=UTC)
EDITION: Final = 3
"""Raised whenever the same recipe generates other rows than before: rows of two editions do not fit together."""
_EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)


class Dice(random.Random):
    """A random number generator with the same values for the same seed on every machine.

    Its methods use `random()` and `getrandbits()` alone: Python promises the sequence of these, and not that of
    `choice()` or `randrange()`.
    """

    def id(self, at: datetime) -> UUID:
        """Return a version 7 UUID of an instant: the ids have the order of the rows' times."""
        milliseconds = (at - _EPOCH) // timedelta(milliseconds=1) << 80
        return UUID(int=milliseconds | 0x7 << 76 | self.getrandbits(12) << 64 | 0b10 << 62 | self.getrandbits(62))

    def happens(self, probability: float) -> bool:
        """Return True with a probability from 0 to 1."""
        return self.random() < probability

    def pick(self, items: Sequence[T]) -> T:
        """Return one of the items."""
        return items[int(self.random() * len(items))]

    def amount(self, median: float, spread: float, most: float) -> float:
        """Return a log-normal number, as lengths and pauses are distributed: mostly small, rarely very large.

        Args:
            median: The median.
            spread: The standard deviation of the logarithm.
            most: The largest number; greater ones are cut to it.
        """
        return min(median * math.exp(self.normalvariate(0.0, spread)), most)

    def between(self, start: datetime, end: datetime) -> datetime:
        """Return an instant in an interval."""
        return start + (end - start) * self.random()


@dataclass(frozen=True, slots=True)
class Share:
    """The users and messages of one tenant."""

    number: int
    tenant_id: UUID
    slug: str
    users: int
    messages: int


@dataclass(frozen=True, slots=True)
class Recipe:
    """Everything that the rows of a seed depend on: the same recipe gives the same rows, including ids and times.

    Args:
        number: The seed.
        tenants: The number of tenants.
        users: The number of users in all tenants together, at least one in each.
        messages: The number of messages in all tenants together.
        until: The present of the seed: conversations are before it, events before and after it.

    Raises:
        ConfigurationError: The numbers do not fit together.
    """

    number: int
    tenants: int
    users: int
    messages: int
    until: datetime

    def __post_init__(self) -> None:
        check_aware("until", self.until)
        if not EARLIEST <= self.until <= LATEST:
            raise ConfigurationError(f"--until must be from the year 2000 to 2100, got {self.until.isoformat()}")
        if not 1 <= self.tenants <= MAX_TENANTS:
            raise ConfigurationError(f"--tenants must be from 1 to {MAX_TENANTS}, got {self.tenants}")
        if self.users < self.tenants:
            raise ConfigurationError(
                f"--users must be at least one for each tenant, got {self.users} for {self.tenants}"
            )
        if self.number < 0 or self.messages < 0:
            raise ConfigurationError("--seed and --messages must be 0 or more")

    def shares(self) -> list[Share]:
        """Return the share of each tenant; the first tenant gets most."""
        weights = [1 / number for number in range(1, self.tenants + 1)]
        users = allot(self.users - self.tenants, weights)
        messages = allot(self.messages, weights)
        return [
            Share(
                number=number,
                tenant_id=Dice(f"{self.number}/{number}").id(self.until),
                slug=slug_of(self.number, number),
                users=1 + users[number - 1],
                messages=messages[number - 1],
            )
            for number in range(1, self.tenants + 1)
        ]

    def record(self) -> dict[str, Any]:
        """Return the recipe as it is stored with each tenant. Texts depend on the version of Faker too."""
        return {
            "edition": EDITION,
            "tenants": self.tenants,
            "users": self.users,
            "messages": self.messages,
            "until": self.until.astimezone(UTC).isoformat(),
            "faker": FAKER,
        }


def slug_of(seed: int, number: int) -> str:
    """Return the slug of a tenant of a seed; tenants are numbered from 1."""
    return f"seed-{seed}-{number}"


def allot(total: int, weights: Sequence[float]) -> list[int]:
    """Divide a whole number in proportion to weights, without a remainder."""
    whole = sum(weights)
    ends = [min(total, math.ceil(total * part / whole)) for part in accumulate(weights, initial=0.0)]
    return [end - start for start, end in pairwise(ends)]
