"""The part of a note that shows the words found, marked, as it was written."""

from __future__ import annotations

import re
from collections.abc import Collection, Iterator
from itertools import islice
from typing import Final

from src.database.repositories.note_search import composed, plain

__all__ = ["HIGHLIGHT", "snippet"]

HIGHLIGHT: Final = ("«", "»")
"""What stands around the words found in a snippet, and nowhere else: a note's own become single ones."""

FRAGMENTS: Final = 2
FRAGMENT_LENGTH: Final = 160
MAX_PLACES: Final = 500

_OWN: Final = str.maketrans("".join(HIGHLIGHT), "\u2039\u203a")

_SPACES: Final = " \n\t\r\u00a0"
_SPACE: Final = re.compile(r"\s")
_JOINING: Final = "-@./_'\u2019"

_Place = tuple[int, int]


def snippet(content: str, words: Collection[str]) -> str:
    """Show where these words stand, in one line of plain text: at most two parts of some 160 characters.

    Args:
        content: The note's.
        words: As they are indexed: unaccented, in lower case.

    Returns:
        The parts with the words marked; where none stands there, as when the title has it, how the content begins.
    """
    text = composed(content)
    places = _joined(text, _places(plain(text), words))
    if any(mark in text for mark in HIGHLIGHT):
        text = text.translate(_OWN)
    parts = sorted(_fragments(text, places)) or [(0, min(FRAGMENT_LENGTH, len(text)))]
    shown = " … ".join(" ".join(_marked(text, part, places).split()) for part in parts)
    return ("… " if parts[0][0] > 0 else "") + shown + (" …" if parts[-1][1] < len(text) else "")


def _places(unmarked: str, words: Collection[str]) -> list[_Place]:
    """Find whole words; of those that overlap, the longer one."""
    lowered = unmarked.replace("İ", "I").lower()  # the one letter that grows when it is lowered
    found = sorted(
        (place for word in words for place in islice(_occurrences(lowered, word), MAX_PLACES)),
        key=lambda place: (place[0], -place[1]),
    )
    places: list[_Place] = []
    for place in found:
        if not places or place[0] >= places[-1][1]:
            places.append(place)
    return places


def _joined(text: str, places: list[_Place]) -> list[_Place]:
    """Take the parts of one address, of one compound, together."""
    joined: list[_Place] = []
    for start, end in places:
        if joined and start == joined[-1][1] + 1 and text[start - 1] in _JOINING:
            joined[-1] = joined[-1][0], end
        else:
            joined.append((start, end))
    return joined


def _occurrences(lowered: str, word: str) -> Iterator[_Place]:
    start = lowered.find(word)
    while start >= 0:
        end = start + len(word)
        if not lowered[max(start - 1, 0) : start].isalnum() and not lowered[end : end + 1].isalnum():
            yield start, end
        start = lowered.find(word, end)


def _fragments(text: str, places: list[_Place]) -> list[_Place]:
    """Choose the parts that show the most different words; a further one has to show others."""
    if places and places[-1][1] - places[0][0] <= FRAGMENT_LENGTH:  # one shows them all
        return [_around(text, places[0][0], places[-1][1])]
    names = [text[start:end].lower() for start, end in places]
    shown: set[str] = set()
    parts: list[_Place] = []
    for _ in range(FRAGMENTS):
        first, last, new = _densest(places, names, shown)
        if not new:
            break
        shown |= new
        parts.append(_around(text, places[first][0], places[last][1]))
    if len(parts) == FRAGMENTS and max(part[0] for part in parts) < min(part[1] for part in parts):
        return [(min(part[0] for part in parts), max(part[1] for part in parts))]
    return parts


def _densest(places: list[_Place], names: list[str], shown: set[str]) -> tuple[int, int, set[str]]:
    """Slide over the places; return the first and the last of the best part, and the words that it alone shows."""
    best: tuple[int, int, set[str]] = (0, 0, set())
    inside: dict[str, int] = {}
    first = 0
    for last, (_, end) in enumerate(places):
        inside[names[last]] = inside.get(names[last], 0) + 1
        while first < last and end - places[first][0] > FRAGMENT_LENGTH:
            inside[names[first]] -= 1
            if not inside[names[first]]:
                del inside[names[first]]
            first += 1
        if len(inside) > len(best[2]) and len(new := inside.keys() - shown) > len(best[2]):
            best = first, last, new
    return best


def _around(text: str, start: int, end: int) -> _Place:
    """Widen a part to its length, at spaces where there are any near by."""
    end = min(end, start + FRAGMENT_LENGTH)
    spare = FRAGMENT_LENGTH - (end - start)
    left = max(start - spare // 2, 0)
    right = min(end + spare - (start - left), len(text))
    if left > 0 and (space := _SPACE.search(text, left, start)):
        left = space.end()
    if right < len(text):
        last = max(text.rfind(space, end, right + 1) for space in _SPACES)
        right = last if last >= 0 else right
    return left, right


def _marked(text: str, part: _Place, places: list[_Place]) -> str:
    pieces: list[str] = []
    at, stop = part
    for start, end in places:
        if part[0] <= start < stop:
            cut = min(end, stop)
            pieces += [text[at:start], HIGHLIGHT[0], text[start:cut], HIGHLIGHT[1]]
            at = cut
    return "".join([*pieces, text[at:stop]])
