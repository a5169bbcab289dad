"""Notes: a user's search through them, with snippets, tags, the pinned ones and the archive."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from itertools import islice
from typing import Any, Final, Literal
from uuid import UUID

from sqlalchemy import (
    ARRAY,
    CTE,
    BindParameter,
    Boolean,
    ColumnElement,
    Executable,
    Float,
    Integer,
    Select,
    Text,
    bindparam,
    func,
    literal_column,
    select,
    text,
)
from sqlalchemy.dialects.postgresql import TSQUERY

from src.database.base import check_aware, clean_text, utc_now
from src.database.models import ACCENTED, BARE, SEPARATORS, Note, clean_tags
from src.database.repositories.base import Condition, Repository, Upserted
from src.database.statements import Page, check_limit

MAX_QUERY: Final = 1000
MAX_WORDS: Final = 32
"""That many different words of a note are marked in its snippet."""

HIGHLIGHT: Final = ("«", "»")
"""The marks around the words found in a snippet. Such marks of the note itself become single ones."""

FRAGMENTS: Final = 2
FRAGMENT_LENGTH: Final = 160
MAX_PLACES: Final = 500

_OWN: Final = str.maketrans("".join(HIGHLIGHT), "\u2039\u203a")

_SPACES: Final = " \n\t\r\u00a0"
_SPACE: Final = re.compile(r"\s")
_JOINING: Final = "-@./_'\u2019"

_Place = tuple[int, int]

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
_MATCHED_WORDS: Final[ColumnElement[Sequence[str]]] = literal_column(
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
class NoteHit:
    """A note that a search found: `rank`, the higher the better; `words` of it that are wanted, as they are indexed."""

    note: Note
    rank: float
    words: Sequence[str] = field(repr=False)

    @property
    def snippet(self) -> str:
        """Plain text with the words in HIGHLIGHT, made when it is asked for."""
        return snippet(self.note.content, self.words)


@dataclass(frozen=True, slots=True)
class TagCount:
    """A tag, and how many notes have it."""

    tag: str = field(repr=False)
    count: int


class NoteRepository(Repository[Note]):
    """The notes of the current tenant."""

    model = Note

    async def search(
        self,
        user_id: UUID,
        query: str,
        *,
        tags: Collection[str] | None = None,
        match: Literal["all", "any"] = "all",
        prefix: bool = True,
        include_archived: bool = False,
        limit: int = 20,
    ) -> list[NoteHit]:
        """Search one user's notes, in Spanish and in English at once and whatever the accents, the best first.

        Args:
            user_id: Whose.
            query: As people type it into a search box: words, "a phrase", or, -not; at most 1000 characters.
            tags: Only notes with these.
            match: Whether with all of them or with any.
            prefix: Whether the last word is still being typed, so that words that begin with it are found too.
            include_archived: Whether in the archive too.
            limit: At most so many.

        Returns:
            The hits; none where the query has no word in it.

        Raises:
            ValueError: The query is too long, `match` is another, all tags are empty, or the limit is not 1 to 1000.
        """
        check_limit(limit)
        values: dict[str, Any] = _parameters_of(query, prefix=prefix) | {"limit": limit}
        if tags is None and match == "all" and not include_archived:
            found = await self._built(NoteRepository._search).tuples(self.session, user_id=user_id, **values)
        else:
            where = _of(user_id, tags, match=match, include_archived=include_archived)
            found = list(await self.session.execute(self._best(*where), values))
        return [NoteHit(*one) for one in found]

    def _search(self) -> Select[Any]:
        return self._best(*_of(bindparam("user_id"), None, include_archived=False))

    def _best(self, *where: Condition) -> Select[Any]:
        row = _wanted()
        rank = _rank_of(row)
        found = self._select(*where).join(row, Note.search.op("@@")(row.c.query)).add_columns(rank, _MATCHED_WORDS)
        return found.order_by(rank.desc(), Note.id.desc()).limit(bindparam("limit"))

    async def page_for_user(
        self,
        user_id: UUID,
        *,
        tags: Collection[str] | None = None,
        match: Literal["all", "any"] = "all",
        pinned: bool | None = None,
        include_archived: bool = False,
        after: str | None = None,
        limit: int = 50,
    ) -> Page[Note]:
        """Return one page of a user's notes, the newest first.

        Args:
            user_id: Whose.
            tags: Only notes with these.
            match: Whether with all of them or with any.
            pinned: Only those that are pinned, or only those that are not.
            include_archived: Whether the archive's too.
            after: The cursor of the page before.
            limit: Notes a page, 1 to 1000.

        Raises:
            InvalidCursorError: The cursor is not one of this query's.
            ValueError: The limit, `match` or a tag cannot serve.
        """
        if after is None and tags is None and pinned is None and match == "all" and not include_archived:
            return await self._newest_page(NoteRepository._first_page, limit, user_id=user_id)
        where = _of(user_id, tags, match=match, include_archived=include_archived)
        if pinned is not None:
            where.append(Note.pinned if pinned else ~Note.pinned)
        return await self.page(*where, after=after, limit=limit, descending=True)

    async def tags(self, user_id: UUID, *, include_archived: bool = False, limit: int = 1000) -> list[TagCount]:
        """Return a user's tags with the number of notes that have each, the most used first.

        Raises:
            ValueError: The limit is not from 1 to 1000.
        """
        check_limit(limit)
        of_user = self._select(*_of(user_id, None, include_archived=include_archived))
        each = of_user.with_only_columns(func.unnest(Note.tags).label("tag")).subquery()
        tag, count = each.c.tag, func.count()
        statement = select(tag, count).group_by(tag).order_by(count.desc(), tag).limit(limit)
        return [TagCount(tag=tag, count=count) for tag, count in await self.session.execute(statement)]

    async def pin(self, note_id: UUID, *, pinned: bool = True) -> Note:
        """Pin or unpin a note; it may be so already.

        Raises:
            NotFoundError: This tenant has none.
        """
        return await self._set(note_id, pinned=pinned)

    async def archive(self, note_id: UUID, *, now: datetime | None = None) -> Note:
        """Archive a note: search and lists leave it out unless asked. An archived note keeps its time.

        Args:
            note_id: The note's id.
            now: The time of archiving; by default the present.

        Raises:
            NotFoundError: This tenant has none.
            ValueError: `now` is naive.
        """
        now = now or utc_now()
        check_aware("now", now)
        return await self._set(note_id, archived_at=func.coalesce(Note.archived_at, now))

    async def unarchive(self, note_id: UUID) -> Note:
        """Restore a note from the archive; it may not be in there.

        Raises:
            NotFoundError: This tenant has none.
        """
        return await self._set(note_id, archived_at=None)

    async def archived(self, user_id: UUID, *, limit: int = 50) -> list[Note]:
        """Return what a user put away last, the latest first.

        Raises:
            ValueError: The limit is not from 1 to 1000.
        """
        check_limit(limit)
        statement = self._select(Note.user_id == user_id, Note.archived_at.is_not(None))
        return list(
            await self.session.scalars(statement.order_by(Note.archived_at.desc(), Note.id.desc()).limit(limit))
        )

    async def upsert(self, values: Mapping[str, Any], *, key: Collection[str]) -> Upserted[Note]:
        """Insert or bring up to date, as every repository does; tags are cleaned as they are elsewhere."""
        if "tags" in values:
            values = {**values, "tags": clean_tags(values["tags"])}
        return await super().upsert(values, key=key)

    def _first_page(self) -> Executable:
        of_user = self._select(*_of(bindparam("user_id"), None, include_archived=False))
        return of_user.order_by(Note.id.desc()).limit(bindparam("limit"))


def _of(
    user_id: UUID | BindParameter[UUID],
    tags: Collection[str] | None,
    *,
    match: Literal["all", "any"] = "all",
    include_archived: bool,
) -> list[Condition]:
    where: list[Condition] = [Note.user_id == user_id]
    if not include_archived:
        where.append(Note.archived_at.is_(None))
    if match not in ("all", "any"):
        raise ValueError(f"match must be 'all' or 'any', got {match!r}")
    if tags:
        if not (wanted_tags := clean_tags(tags)):
            raise ValueError("tags must have a tag that is not empty, got none; leave them out for notes with any")
        where.append(Note.tags.contains(wanted_tags) if match == "all" else Note.tags.overlap(wanted_tags))
    return where


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


def _wanted() -> CTE:
    """Return the row of what is wanted: `query`, `exact` (without the prefix) and the words to mark."""
    types: dict[str, Any] = dict.fromkeys(("words", "heads", "tails"), Text) | {"alternatives": Integer}
    types |= dict.fromkeys(("excluded", "bare"), Boolean)
    parameters = [bindparam(name, type_=ARRAY(kind)) for name, kind in types.items()]
    statement = text(_WANTED).bindparams(*parameters).columns(query=TSQUERY, exact=TSQUERY)
    return statement.cte("wanted").prefix_with("MATERIALIZED")  # once, and not for each note


def _parameters_of(query: str, *, prefix: bool) -> dict[str, list[Any]]:
    """Return the parameters of `_wanted` for a query.

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


def _rank_of(row: CTE) -> ColumnElement[float]:
    """Rank a note, by how often the words stand there and where; a whole word counts twice what its beginning does."""
    ranks = [func.ts_rank(Note.search, query, type_=Float) for query in (row.c.query, row.c.exact)]
    return ranks[0] + ranks[1]


def _composed(value: str) -> str:
    """Return a text in NFC: a letter and its accent are one character."""
    return value if value.isascii() else unicodedata.normalize("NFC", value)


def plain(value: str) -> str:
    """Return a text as the server indexes it, unaccented words among spaces: as long as in NFC, so that places stay."""
    text = _SEPARATOR.sub(" ", _composed(value))
    return text if text.isascii() else _ACCENT.sub(lambda accent: _UNACCENTED[accent[0]], text)


def _checked(query: str) -> str:
    """Return a query in the form of what is indexed, with its signs."""
    if not isinstance(query, str):
        raise ValueError(f"query must be text, got {type(query).__name__}")  # noqa: TRY004 - bad input
    length = len(query)
    if length <= MAX_QUERY:
        query = _composed(clean_text(query).translate(_QUOTES))
        length = len(query)  # a few characters grow when they are composed
    if length > MAX_QUERY:
        raise ValueError(f"query must be at most {MAX_QUERY} characters, got {length}; search for a few words of it")
    return query


def _parse(query: str) -> list[_Leaf]:
    """Parse words, "phrases", -exclusions and `or`; `or` is an operator between two others, else a word."""
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


def snippet(content: str, words: Collection[str]) -> str:
    """Return the parts of a note that have these words, in one line of plain text: at most two of some 160 characters.

    Args:
        content: The note's.
        words: As they are indexed: unaccented, in lower case.

    Returns:
        The parts with the words marked; where none stands there, as when the title has it, how the content begins.
    """
    text = _composed(content)
    places = _joined(text, _places(plain(text), words))
    if any(mark in text for mark in HIGHLIGHT):
        text = text.translate(_OWN)
    parts = sorted(_fragments(text, places)) or [(0, min(FRAGMENT_LENGTH, len(text)))]
    shown = " … ".join(" ".join(_marked(text, part, places).split()) for part in parts)
    return ("… " if parts[0][0] > 0 else "") + shown + (" …" if parts[-1][1] < len(text) else "")


def _places(unmarked: str, words: Collection[str]) -> list[_Place]:
    """Return the places of whole words; of those that overlap, the longer one."""
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
    """Join the places of the parts of one address, or of one compound."""
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
    """Return the parts that show the most different words; a further part has to show others."""
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
    """Return the first and the last of the best part, and the words that it alone shows."""
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
