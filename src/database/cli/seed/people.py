"""Made-up users: where they live, what they speak, who has left."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any, Final
from uuid import UUID
from zoneinfo import ZoneInfo

from src.database.calendar import get_zone
from src.database.cli.seed.dice import Dice
from src.database.cli.seed.phrases import LANGUAGES, Language
from src.database.cli.seed.recipe import Share

__all__ = ["Person", "make_person"]

HISTORY: Final = timedelta(days=730)
FIRST_TELEGRAM_ID: Final = 6_000_000_000
MOST_USERS: Final = 10_000_000

_LIVES: Final[tuple[tuple[str | None, str, str, float], ...]] = (  # locale, zone, language, how many
    ("es", "Europe/Madrid", "es", 0.34),
    ("es-MX", "America/Mexico_City", "es", 0.12),
    ("es-AR", "America/Argentina/Buenos_Aires", "es", 0.07),
    ("es", "Atlantic/Canary", "es", 0.04),
    ("ca", "Europe/Madrid", "es", 0.04),
    ("en-GB", "Europe/London", "en", 0.13),
    ("en-US", "America/New_York", "en", 0.10),
    ("en-US", "America/Los_Angeles", "en", 0.05),
    ("en-IN", "Asia/Kolkata", "en", 0.04),
    (None, "UTC", "en", 0.07),
)
_WEIGHTS: Final = [life[3] for life in _LIVES]
_NAMES: Final = {
    "es": (
        ("Álvaro", "Lucía", "Íñigo", "Begoña", "María José", "Ángel", "Nuria", "Ximena"),
        ("Núñez", "Peña", "Ibarra", "Muñoz", "García", "Ríos", "Ferrer"),
    ),
    "en": (
        ("Ada", "Ben", "Chloe", "Dev", "Ed", "Fay", "Zoë", "Grace"),
        ("Green", "O'Neill", "Li", "Patel", "Müller", "Ng", "Smith"),
    ),
}
_PLAIN: Final = str.maketrans("áéíóúñëü", "aeiouneu", " '")


@dataclass(frozen=True, slots=True)
class Person:
    """A user, and what the rows of that user depend on."""

    id: UUID
    number: int
    """From 1, within the tenant."""
    telegram_id: int | None
    language: Language
    zone: ZoneInfo
    joined: datetime
    last_seen: datetime
    left: datetime | None
    row: dict[str, Any]


def make_person(share: Share, number: int, dice: Dice, until: datetime) -> Person:
    """Make a user of a tenant; one in thirty has left, and one in twenty-five is not active."""
    locale, zone, speaks, _ = dice.choices(_LIVES, _WEIGHTS)[0]
    names, surnames = _NAMES[speaks]
    name = f"{dice.pick(names)} {dice.pick(surnames)}"
    joined = until - HISTORY * dice.random() - timedelta(days=1)
    left = dice.between(joined, until) if dice.happens(1 / 30) else None
    telegram_id = FIRST_TELEGRAM_ID + share.number * MOST_USERS + number if dice.happens(0.9) else None
    last_seen = joined + ((left or until) - joined) * (1 - dice.random() ** 3)  # most of them were here lately
    row: dict[str, Any] = {
        "id": dice.id(joined),
        "telegram_id": telegram_id,
        "username": f"{name.lower().translate(_PLAIN)}_{number}" if dice.happens(0.8) else None,
        "display_name": name,
        "locale": locale,
        "timezone": zone,
        "is_active": not dice.happens(1 / 25),
        "preferences": {"tone": dice.pick(("brief", "friendly", "formal"))} if dice.happens(0.6) else {},
        "retention_days": 365 if dice.happens(0.03) else None,
        "last_seen_at": last_seen,
        "created_at": joined,
        "updated_at": left or last_seen,
        "deleted_at": left,
    }
    return Person(
        id=row["id"],
        number=number,
        telegram_id=telegram_id,
        language=LANGUAGES[speaks],
        zone=get_zone(zone),
        joined=joined,
        last_seen=last_seen,
        left=left,
        row=row,
    )
