"""What a person's zone and locale may be called."""

from __future__ import annotations

import re
from typing import Final

from src.database.calendar.zones import zone_names

__all__ = ["check_locale", "check_timezone", "is_locale", "is_timezone"]

LONGEST_LOCALE: Final = 35
# RFC 5646, section 2.1: language, script, region, variants, extensions, private use; or private use alone.
_LOCALE: Final = re.compile(
    r"(?:[a-z]{2,3}(?:-[a-z]{3}){0,3}|[a-z]{4,8})"
    r"(?:-[a-z]{4})?"
    r"(?:-(?:[a-z]{2}|[0-9]{3}))?"
    r"(?:-(?:[a-z0-9]{5,8}|[0-9][a-z0-9]{3}))*"
    r"(?:-[a-wyz0-9](?:-[a-z0-9]{2,8})+)*"
    r"(?:-x(?:-[a-z0-9]{1,8})+)?"
    r"|x(?:-[a-z0-9]{1,8})+",
    re.ASCII | re.IGNORECASE,
)


def is_timezone(name: object) -> bool:
    """Return True if this is the name of a zone in the packaged zone data."""
    return isinstance(name, str) and name in zone_names()


def check_timezone(name: str) -> None:
    """Refuse what is no IANA zone.

    Raises:
        ValueError: It is not in the zone database.
    """
    if not is_timezone(name):
        raise ValueError(f"timezone must be an IANA name like Europe/Madrid, got {name!r}")


def is_locale(tag: object) -> bool:
    """Say whether this is a text of the shape of a language tag (BCP 47) of at most 35 characters: es, es-MX."""
    return isinstance(tag, str) and len(tag) <= LONGEST_LOCALE and _LOCALE.fullmatch(tag) is not None


def check_locale(tag: str) -> None:
    """Refuse what has not the shape of a language tag (BCP 47), or is longer than 35 characters.

    Raises:
        ValueError: It has not.
    """
    if not is_locale(tag):
        raise ValueError(
            f"locale must be a language tag like es or pt-BR, at most {LONGEST_LOCALE} characters, got {tag!r}"
        )
