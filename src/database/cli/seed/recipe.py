"""What the rows of a seed are made of, and whether those that are there were made of the same."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, Final
from uuid import UUID

from src.database.base import check_aware
from src.database.cli.seed.dice import Dice
from src.database.errors import ConfigurationError

__all__ = ["MAX_TENANTS", "Recipe", "Share", "allot"]

MAX_TENANTS: Final = 1000
EARLIEST, LATEST = datetime(2000, 1, 1, tzinfo=UTC), datetime(2100, 1, 1, tzinfo=UTC)
EDITION: Final = 1
"""To be raised when the same recipe gives other rows than before: old and new ones do not go together."""

_NAMES: Final = (
    "Panadería Núñez",
    "Blue Harbour",
    "Clínica del Mar",
    "Northwind Books",
    "Taller Ibarra",
    "Green & Sons",
)


@dataclass(frozen=True, slots=True)
class Share:
    """What one tenant gets; the first tenant gets most."""

    number: int
    tenant_id: UUID
    slug: str
    name: str
    users: int
    messages: int


@dataclass(frozen=True, slots=True)
class Recipe:
    """All that the rows of a seed depend on: the same recipe gives the same rows, ids and times included.

    Args:
        number: The seed.
        tenants: How many.
        users: In all tenants together, at least one in each.
        messages: In all tenants together.
        until: The present of the made-up world: conversations come before it, events before and after.

    Raises:
        ConfigurationError: The numbers do not go together.
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
        """Share users and messages out over the tenants."""
        weights = [1 / (place + 1) for place in range(self.tenants)]
        users = allot(self.users - self.tenants, weights)
        messages = allot(self.messages, weights)
        return [self._share(place, 1 + users[place], messages[place]) for place in range(self.tenants)]

    def record(self) -> dict[str, Any]:
        """Return what is kept with each tenant, to know the recipe again."""
        return {
            "edition": EDITION,
            "tenants": self.tenants,
            "users": self.users,
            "messages": self.messages,
            "until": self.until.astimezone(UTC).isoformat(),
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
    """Return what a tenant of a seed is called."""
    return f"seed-{seed}-{number}"


def allot(total: int, weights: Sequence[float]) -> list[int]:
    """Share a whole number out by weights; what rounding leaves goes to those that lost most by it."""
    whole = sum(weights)
    exact = [total * weight / whole for weight in weights]
    shares = [int(share) for share in exact]
    losers = sorted(range(len(exact)), key=lambda place: shares[place] - exact[place])
    for place in losers[: total - sum(shares)]:
        shares[place] += 1
    return shares
