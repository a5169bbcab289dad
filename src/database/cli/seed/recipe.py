"""The recipe of a seed: what its rows depend on, how they are shared among the tenants, and the random numbers."""

from __future__ import annotations

import math
import random
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any, Final, TypeVar
from uuid import UUID

from faker import VERSION as FAKER

from src.database.base import check_aware
from src.database.errors import ConfigurationError

T = TypeVar("T")

MAX_TENANTS: Final = 1000
EARLIEST, LATEST = datetime(2000, 1, 1, tzinfo=UTC), datetime(2100, 1, 1, tzinfo=UTC)
EDITION: Final = 2
"""Raised whenever the same recipe gives other rows than before: rows of two editions do not fit together."""
_EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)

_NAMES: Final = (
    "Panadería Núñez",
    "Blue Harbour",
    "Clínica del Mar",
    "Northwind Books",
    "Taller Ibarra",
    "Green & Sons",
)


class Dice(random.Random):
    """A random number generator that gives the same values for the same seed on every machine."""

    def id(self, at: datetime) -> UUID:
        """Return a version 7 UUID of an instant: the ids have the order of the rows' times."""
        milliseconds = (at - _EPOCH) // timedelta(milliseconds=1) << 80
        return UUID(int=milliseconds | 0x7 << 76 | self.getrandbits(12) << 64 | 0b10 << 62 | self.getrandbits(62))

    def happens(self, probability: float) -> bool:
        """Return True with this probability."""
        return self.random() < probability

    def pick(self, items: Sequence[T]) -> T:
        """Return one of the items."""
        return items[int(self.random() * len(items))]

    def amount(self, median: float, spread: float, most: float) -> float:
        """Return a log-normal number, as lengths and pauses are distributed: mostly small, rarely very large."""
        return min(median * math.exp(self.normalvariate(0.0, spread)), most)

    def between(self, start: datetime, end: datetime) -> datetime:
        """Return an instant in an interval."""
        return start + (end - start) * self.random()


@dataclass(frozen=True, slots=True)
class Share:
    """The users and messages of one tenant; the first tenant gets most."""

    number: int
    tenant_id: UUID
    slug: str
    name: str
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
        until: The present of the seed: conversations are before it, events before and after.

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
        """Return the share of each tenant."""
        weights = [1 / (place + 1) for place in range(self.tenants)]
        users = allot(self.users - self.tenants, weights)
        messages = allot(self.messages, weights)
        return [self._share(place, 1 + users[place], messages[place]) for place in range(self.tenants)]

    def record(self) -> dict[str, Any]:
        """Return the recipe as it is stored with each tenant; texts depend on the version of Faker too."""
        return {
            "edition": EDITION,
            "tenants": self.tenants,
            "users": self.users,
            "messages": self.messages,
            "until": self.until.astimezone(UTC).isoformat(),
            "faker": FAKER,
        }

    def _share(self, place: int, users: int, messages: int) -> Share:
        dice = Dice(f"{self.number}/{place}")
        name = _NAMES[place % len(_NAMES)]
        return Share(
            number=place + 1,
            tenant_id=dice.id(self.until),
            slug=slug_of(self.number, place + 1),
            name=name if place < len(_NAMES) else f"{name} {place // len(_NAMES) + 1}",
            users=users,
            messages=messages,
        )


def slug_of(seed: int, number: int) -> str:
    """Return the slug of a tenant of a seed."""
    return f"seed-{seed}-{number}"


def allot(total: int, weights: Sequence[float]) -> list[int]:
    """Divide a whole number by weights; the remainder of rounding goes to those that lost most by it."""
    whole = sum(weights)
    exact = [total * weight / whole for weight in weights]
    shares = [int(share) for share in exact]
    losers = sorted(range(len(exact)), key=lambda place: shares[place] - exact[place])
    for place in losers[: total - sum(shares)]:
        shares[place] += 1
    return shares
