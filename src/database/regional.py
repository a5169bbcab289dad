"""What a person's zone and locale may be called."""

from __future__ import annotations

import re
from typing import Final
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

__all__ = ["check_timezone", "is_locale", "is_timezone"]

# RFC 5646, section 2.1, `langtag`: language, script, region, variants, extensions, private use.
_LOCALE: Final = re.compile(
    r"(?:[a-z]{2,3}(?:-[a-z]{3}){0,3}|[a-z]{4,8})"
    r"(?:-[a-z]{4})?"
    r"(?:-(?:[a-z]{2}|[0-9]{3}))?"
    r"(?:-(?:[a-z0-9]{5,8}|[0-9][a-z0-9]{3}))*"
    r"(?:-[a-wyz0-9](?:-[a-z0-9]{2,8})+)*"
    r"(?:-x(?:-[a-z0-9]{1,8})+)?",
    re.ASCII | re.IGNORECASE,
)
# Files that lie beside the zones on some systems, and are none of IANA's names.
_NO_ZONES: Final = ("posix/", "right/", "posixrules", "localtime")


def is_timezone(name: str) -> bool:
    """Say whether a name is in the zone database."""
    if name.startswith(_NO_ZONES):
        return False
    try:
        ZoneInfo(name)
    except (ZoneInfoNotFoundError, ValueError, OSError):
        return False
    return True


def check_timezone(name: str) -> None:
    """Refuse what is no IANA zone.

    Raises:
        ValueError: It is not in the zone database.
    """
    if not is_timezone(name):
        raise ValueError(f"timezone must be an IANA name like Europe/Madrid, got {name!r}")


def is_locale(tag: str) -> bool:
    """Say whether a tag has the shape of BCP 47: es, es-MX, zh-Hant-TW."""
    return _LOCALE.fullmatch(tag) is not None
