"""What people type into a search box, as the server's full-text search wants it."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final

from sqlalchemy import ARRAY, CTE, Boolean, ColumnElement, Float, Integer, Text, bindparam, func, literal_column, text
from sqlalchemy.dialects.postgresql import TSQUERY

from src.database.base import clean_text
from src.database.models.note import ACCENTED, BARE, SEPARATORS, Note

__all__ = ["MATCHED_WORDS", "composed", "parameters_of", "plain", "rank_of", "wanted"]

MAX_QUERY: Final = 1000
MAX_WORDS: Final = 32
"""That many different words of a note are marked in its snippet."""

_UNACCENTED: Final = dict(zip(ACCENTED, BARE, strict=True))
_ACCENT: Final = re.compile(f"[{ACCENTED}]")  # few are in a text, and `translate` looks at each letter
_SEPARATOR: Final = re.compile(f"[{SEPARATORS}]")
_QUOTES: Final = str.maketrans("“”", '""')  # what phones type for them
_LEAF: Final = re.compile(r'(-?)(?:"([^"]*)"|([^\s"]+))')

# Each leaf, a word or a phrase, may match as it is or by its Spanish or its English stem: taken leaf by leaf, so that
# words of both languages stand in one query and an exclusion excludes in both. A stop word of either language is
# passed over beside other words; a phrase with one in it is wanted as it is. The parts are put together as the text
# that the server itself wrote, quoted by it.
_WANTED: Final = r"""
    WITH leaf AS (
        SELECT alternative, excluded, word, tail,
               NOT is_bare OR excluded OR (numnode(spanish) > 0 AND numnode(english) > 0) AS is_telling,
               CASE WHEN excluded THEN '!' ELSE '' END AS sign,
               simple || CASE WHEN numnode(spanish) = numnode(simple) THEN spanish ELSE simple END
                      || CASE WHEN numnode(english) = numnode(simple) THEN english ELSE simple END AS exact,
               CASE WHEN tail <> '' THEN phraseto_tsquery('simple', head) <-> to_tsquery('simple', tail || ':*')
                    ELSE simple END AS begun
          FROM unnest(:words, :heads, :tails, :alternatives, :excluded, :bare)
                   AS given (word, head, tail, alternative, excluded, is_bare),
               phraseto_tsquery('simple', word) AS simple,
               phraseto_tsquery('spanish', word) AS spanish,
               phraseto_tsquery('english', word) AS english
         WHERE numnode(simple) > 0
    ), graded AS (
        SELECT *, bool_or(is_telling AND NOT excluded) OVER (PARTITION BY alternative) AS stands_beside_words FROM leaf
    ), alternatives AS (
        SELECT string_agg(sign || '(' || (exact || begun)::text || ')', ' & ') AS query,
               string_agg(sign || '(' || exact::text || ')', ' & ') AS exact,
               string_agg(word, ' ') FILTER (WHERE NOT excluded) AS words,
               string_agg(tail, ' ') AS begun
          FROM graded WHERE is_telling OR NOT stands_beside_words GROUP BY alternative
    ), asked AS (
        SELECT string_agg(query, ' | ')::tsquery AS query, string_agg(exact, ' | ')::tsquery AS exact,
               coalesce(string_agg(words, ' '), '') AS words, coalesce(string_agg(begun, ' '), '') AS begun
          FROM alternatives
    )
    SELECT query, exact, lexemes, tsvector_to_array(to_tsvector('simple', begun)) AS prefixes,
           ARRAY(SELECT DISTINCT left(lexeme, 1) FROM unnest(lexemes) AS lexeme) AS initials
      FROM asked, tsvector_to_array(to_tsvector('simple', words) || to_tsvector('spanish', words)
                                    || to_tsvector('english', words)) AS lexemes
"""
MATCHED_WORDS: Final[ColumnElement[Sequence[str]]] = literal_column(
    f"""ARRAY(
        SELECT word FROM unnest(tsvector_to_array(notes.search)) AS word
         WHERE left(word, 1) = ANY (wanted.initials)
           AND (word = ANY (wanted.lexemes)
                OR ts_lexize('spanish_stem', word) && wanted.lexemes
                OR ts_lexize('english_stem', word) && wanted.lexemes
                OR EXISTS (SELECT FROM unnest(wanted.prefixes) AS begun WHERE starts_with(word, begun)))
         ORDER BY length(word), word LIMIT {MAX_WORDS})""",  # noqa: S608 - a constant
    ARRAY(Text),
)
"""The words of a note that are wanted, unaccented, beside the row that `wanted` makes.

By themselves or by a stem; no stemmer changes a word's first letter. The short ones come first, which are the nearest
to what was begun.
"""


@dataclass(frozen=True, slots=True)
class _Leaf:
    words: str
    alternative: int
    excluded: bool
    is_bare: bool

    @property
    def tail(self) -> str:
        """The last word, where it may be the beginning of one."""
        return self.words.rsplit(" ", 1)[-1] if self.is_bare and not self.excluded else ""


def wanted() -> CTE:
    """Make the one row that says what is wanted: `query`, `exact` (without the prefix) and what words to mark."""
    types: dict[str, Any] = dict.fromkeys(("words", "heads", "tails"), Text) | {"alternatives": Integer}
    types |= dict.fromkeys(("excluded", "bare"), Boolean)
    parameters = [bindparam(name, type_=ARRAY(kind)) for name, kind in types.items()]
    statement = text(_WANTED).bindparams(*parameters).columns(query=TSQUERY, exact=TSQUERY)
    return statement.cte("wanted").prefix_with("MATERIALIZED")  # once, and not for each note


def parameters_of(query: str, *, prefix: bool) -> dict[str, list[Any]]:
    """Return what a query's `wanted` is given.

    Raises:
        ValueError: The query is longer than 1000 characters.
    """
    leaves = _parse(_checked(query))
    last = leaves[-1] if leaves else None
    tails = [leaf.tail if prefix and leaf is last else "" for leaf in leaves]
    return {
        "words": [leaf.words for leaf in leaves],
        "heads": [leaf.words.removesuffix(tail) for leaf, tail in zip(leaves, tails, strict=True)],
        "tails": tails,
        "alternatives": [leaf.alternative for leaf in leaves],
        "excluded": [leaf.excluded for leaf in leaves],
        "bare": [leaf.is_bare for leaf in leaves],
    }


def rank_of(row: CTE) -> ColumnElement[float]:
    """Rank a note, by how often the words stand there and where; a whole word counts twice what its beginning does."""
    ranks = [func.ts_rank(Note.search, query, type_=Float) for query in (row.c.query, row.c.exact)]
    return ranks[0] + ranks[1]


def composed(value: str) -> str:
    """Return a text in NFC: a letter and its accent are one character."""
    return value if value.isascii() else unicodedata.normalize("NFC", value)


def plain(value: str) -> str:
    """Return a text as the server indexes it, unaccented words among spaces: as long as in NFC, so that places stay."""
    text = _SEPARATOR.sub(" ", composed(value))
    return text if text.isascii() else _ACCENT.sub(lambda accent: _UNACCENTED[accent[0]], text)


def _checked(query: str) -> str:
    """Bring a query to the form of what is indexed, but for the signs in it."""
    if not isinstance(query, str):
        raise ValueError(f"query must be text, got {type(query).__name__}")  # noqa: TRY004 - bad input
    length = len(query)
    if length <= MAX_QUERY:
        query = composed(clean_text(query).translate(_QUOTES))
        length = len(query)  # a few characters grow when they are composed
    if length > MAX_QUERY:
        raise ValueError(f"query must be at most {MAX_QUERY} characters, got {length}; search for a few words of it")
    return query


def _parse(query: str) -> list[_Leaf]:
    """Take words, "phrases", -exclusions and `or` apart; `or` is an operator between two others, else a word."""
    leaves: list[_Leaf] = []
    alternative = 0
    matches = list(_LEAF.finditer(query))
    for place, match in enumerate(matches):
        minus, phrase, word = match.groups()
        if not minus and word is not None and word.lower() == "or" and 0 < place < len(matches) - 1:
            alternative += 1
            continue
        words = " ".join(plain(word or phrase or "").split())
        leaves.append(_Leaf(words, alternative, excluded=bool(minus), is_bare=word is not None))
    return leaves
