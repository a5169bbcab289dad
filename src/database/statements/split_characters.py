"""Store a character whose surrogate halves arrive in two pieces: one character, which the sender counts as two.

A sender can cut a text between the halves of a surrogate pair. PostgreSQL cannot store half of a pair, and the offsets
of later pieces count both halves.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any, Final

from src.database.base import clean_text

SPLIT: Final = "split_characters"
"""The key of a message's split characters in its `extra`: `joined`, their positions in the stored content, and `high`,
the first half of a character whose second half has not arrived."""

_HALF: Final = re.compile("[\ud800-\udfff]")
_UNSTORABLE: Final = re.compile("[\0\ud800-\udfff]")
_PAIR: Final = re.compile("[\ud800-\udbff][\udc00-\udfff]")
_FIRST_OUTSIDE_BMP: Final = 0x10000


def has_halves(text: str) -> bool:
    """Return True if a text contains a surrogate."""
    return not text.isascii() and _HALF.search(text) is not None


def stored_form(sent: str) -> tuple[str, dict[str, Any]]:
    """Return a text as it is stored, and its split characters for `sent_form`: empty if the lengths are equal."""
    split: dict[str, Any] = {}
    if joined := [pair.start() - number for number, pair in enumerate(_PAIR.finditer(sent))]:
        split["joined"] = joined
    if "\ud800" <= sent[-1:] <= "\udbff":
        split["high"] = ord(sent[-1])
    return clean_text(sent), split


def sent_form(stored: str, split: Mapping[str, Any] | None) -> str:
    """Return a stored text as the sender counts it, with each split character as two halves."""
    if not split:
        return stored
    pieces: list[str] = []
    end = 0
    for position in split.get("joined", ()):
        pieces += (stored[end:position], _halves(stored[position]))
        end = position + 1
    rest = stored[end:]
    return "".join([*pieces, rest[:-1] + chr(split["high"]) if "high" in split else rest])


def is_the_same(piece: str, other: str) -> bool:
    """Return True if two pieces are stored as the same text: any half is stored as U+FFFD."""
    return _UNSTORABLE.sub("\N{REPLACEMENT CHARACTER}", piece) == _UNSTORABLE.sub("\N{REPLACEMENT CHARACTER}", other)


def _halves(character: str) -> str:
    offset = ord(character) - _FIRST_OUTSIDE_BMP
    return chr(0xD800 + (offset >> 10)) + chr(0xDC00 + (offset & 0x3FF))
