"""Notes: full-text search with snippets, tags, pinned notes and the archive."""

from __future__ import annotations

import re
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from itertools import islice
from typing import TYPE_CHECKING, Any, Final, Literal, Unpack
from unicodedata import normalize
from uuid import UUID

from sqlalchemy import (
    ARRAY,
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

if TYPE_CHECKING:
    from src.database.models import attributes

MAX_QUERY: Final = 1000
"""In characters."""
MAX_WORDS: Final = 32
"""The largest number of different words that a snippet marks."""

HIGHLIGHT: Final = ("«", "»")
"""The marks around a matched word in a snippet. In the text of the note, single marks replace them."""

FRAGMENTS: Final = 2
FRAGMENT_LENGTH: Final = 160
"""In characters."""
MAX_PLACES: Final = 500
"""The largest number of places of one word that a snippet considers."""

_SINGLE_MARKS: Final = str.maketrans("".join(HIGHLIGHT), "\u2039\u203a")

_SPACES: Final = " \n\t\r\u00a0"
_SPACE: Final = re.compile(r"\s")
_JOINING: Final = "-@./_'\u2019"
"""Characters between the parts of an address or a compound, which are marked as one."""

_Place = tuple[int, int]
"""The start and the end of a part of a text."""

_UNACCENTED: Final = dict(zip(ACCENTED, BARE, strict=True))
_ACCENT: Final = re.compile(f"[{ACCENTED}]")  # faster than str.translate, because accents are rare
_SEPARATOR: Final = re.compile(f"[{SEPARATORS}]")
_QUOTES: Final = str.maketrans("“”", '""')  # phones type these quotes
_LEAF: Final = re.compile(r'(-?)(?:"([^"]*)"|([^\s"]+))')

# A leaf is a word or a phrase of the query. Each leaf matches in its own form, or by its Spanish or English stem. That
# is decided leaf by leaf, so that a query can mix the languages, and an exclusion applies in both. A stop word of
# either language is ignored if the query has other words; a phrase with a stop word matches in its own form only. The
# tsquery is assembled from the text that PostgreSQL renders for the leaves, so PostgreSQL has done the quoting.
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
"""The unaccented words of a note that the row of `wanted` matches, by their own form or by a stem.

The comparison of first letters comes before that of stems because it is cheap: no stemmer changes the first letter.
Short words come first, because they are the closest to a prefix.
"""
_PARAMETERS: Final[Mapping[str, Any]] = {
    "words": Text,
    "heads": Text,
    "tails": Text,
    "alternatives": Integer,
    "excluded": Boolean,
    "bare": Boolean,
}
"""The parameters of `_WANTED`: arrays with one item for each leaf, which `_parse` returns in this order."""


@dataclass(frozen=True, slots=True)
class NoteHit:
    """A note that matches a search. A higher `rank` is a better match."""

    note: Note
    rank: float
    words: Sequence[str] = field(repr=False)
    """The matching words of the note in the form of the index: unaccented, in lower case."""

    @property
    def snippet(self) -> str:
        """The best parts of the note as plain text, with the words between marks (HIGHLIGHT); computed on access."""
        return snippet(self.note.content, self.words)


@dataclass(frozen=True, slots=True)
class TagCount:
    """A tag, and the number of notes that have it."""

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
        """Search the notes of a user, in Spanish and English and without regard to accents, the best match first.

        Args:
            user_id: The user's id.
            query: A query as in a search box: words, "a phrase", or, -not; at most 1000 characters.
            tags: Only notes with these tags.
            match: Whether a note must have all of the tags or any of them.
            prefix: Also match words that begin with the last word of the query, which may be incomplete.
            include_archived: Also search archived notes.
            limit: The largest number of notes, 1 to 1000.

        Returns:
            The matches. The list is empty if the query has no words.

        Raises:
            ValueError: The query is too long, `match` is not "all" or "any", all tags are empty, or the limit is out of
                range.

        Example:
            for hit in await NoteRepository(session).search(user.id, "milk -bread"):
                print(hit.rank, hit.snippet)
        """
        check_limit(limit)
        leaves = _parse(_checked(query), prefix=prefix)
        values: dict[str, Any] = {name: [leaf[place] for leaf in leaves] for place, name in enumerate(_PARAMETERS)}
        values["limit"] = limit
        if tags is None and match == "all" and not include_archived:
            rows = await self._built(NoteRepository._search).tuples(self.session, user_id=user_id, **values)
        else:
            where = _conditions(user_id, tags, match=match, include_archived=include_archived)
            rows = list(await self.session.execute(self._best(*where), values))
        return [NoteHit(*row) for row in rows]

    def _search(self) -> Select[Any]:
        return self._best(*_conditions(bindparam("user_id"), None, include_archived=False))

    def _best(self, *where: Condition) -> Select[Any]:
        """Return the best matches among the notes that satisfy the conditions."""
        parameters = [bindparam(name, type_=ARRAY(kind)) for name, kind in _PARAMETERS.items()]
        statement = text(_WANTED).bindparams(*parameters).columns(query=TSQUERY, exact=TSQUERY)
        wanted = statement.cte("wanted").prefix_with("MATERIALIZED")  # evaluated once, not for each note
        # A whole word counts twice: `query` matches it, and so does `exact`, which has no prefixes.
        ranks = [func.ts_rank(Note.search, query, type_=Float) for query in (wanted.c.query, wanted.c.exact)]
        rank = ranks[0] + ranks[1]
        notes = self._select(*where).join(wanted, Note.search.op("@@")(wanted.c.query))
        matches = notes.add_columns(rank, _MATCHED_WORDS)
        return matches.order_by(rank.desc(), Note.id.desc()).limit(bindparam("limit"))

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
            user_id: The user's id.
            tags: Only notes with these tags.
            match: Whether a note must have all of the tags or any of them.
            pinned: Only pinned notes, or only notes that are not pinned.
            include_archived: Include archived notes.
            after: The `next_cursor` of the previous page.
            limit: The largest number of notes in the page, 1 to 1000.

        Raises:
            InvalidCursorError: The cursor is not from this query.
            ValueError: The limit, `match` or a tag is invalid.
        """
        if after is None and tags is None and pinned is None and match == "all" and not include_archived:
            return await self._newest_page(NoteRepository._first_page, limit, user_id=user_id)
        where = _conditions(user_id, tags, match=match, include_archived=include_archived)
        if pinned is not None:
            where.append(Note.pinned if pinned else ~Note.pinned)
        return await self.page(*where, after=after, limit=limit, descending=True)

    async def tags(self, user_id: UUID, *, include_archived: bool = False, limit: int = 1000) -> list[TagCount]:
        """Return a user's tags and how many notes have each, the most used first.

        Args:
            user_id: The user's id.
            include_archived: Count archived notes too.
            limit: The largest number of tags, 1 to 1000.

        Raises:
            ValueError: The limit is out of range.
        """
        check_limit(limit)
        of_user = self._select(*_conditions(user_id, None, include_archived=include_archived))
        each = of_user.with_only_columns(func.unnest(Note.tags).label("tag")).subquery()
        tag, count = each.c.tag, func.count()
        statement = select(tag, count).group_by(tag).order_by(count.desc(), tag).limit(limit)
        return [TagCount(tag=tag, count=count) for tag, count in await self.session.execute(statement)]

    async def pin(self, note_id: UUID, *, pinned: bool = True) -> Note:
        """Pin or unpin a note.

        Raises:
            NotFoundError: The tenant has no such note.
        """
        return await self._set(note_id, pinned=pinned)

    async def archive(self, note_id: UUID, *, now: datetime | None = None) -> Note:
        """Archive a note: searches and pages leave it out by default. An archived note keeps its `archived_at`.

        Args:
            note_id: The note's id.
            now: The value of `archived_at`; by default the current time.

        Raises:
            NotFoundError: The tenant has no such note.
            ValueError: `now` is naive.
        """
        now = now or utc_now()
        check_aware("now", now)
        return await self._set(note_id, archived_at=func.coalesce(Note.archived_at, now))

    async def unarchive(self, note_id: UUID) -> Note:
        """Restore a note from the archive.

        Calling it for a note that is not archived is not an error; only `updated_at` changes.

        Raises:
            NotFoundError: The tenant has no such note.
        """
        return await self._set(note_id, archived_at=None)

    async def archived(self, user_id: UUID, *, limit: int = 50) -> list[Note]:
        """Return a user's archived notes, the most recently archived first.

        Raises:
            ValueError: The limit is not from 1 to 1000.
        """
        check_limit(limit)
        archived = self._select(Note.user_id == user_id, Note.archived_at.is_not(None))
        latest = archived.order_by(Note.archived_at.desc(), Note.id.desc()).limit(limit)
        return list(await self.session.scalars(latest))

    if TYPE_CHECKING:

        async def update(  # type: ignore[override] # only its attributes
            self,
            row_id: UUID,
            /,
            *,
            expected: attributes.NoteAttributes | None = None,
            **values: Unpack[attributes.NoteChanges],
        ) -> Note:
            """Update attributes of a note; see `Repository.update`."""

    async def upsert(self, values: attributes.NoteUpsert, *, key: Collection[str]) -> Upserted[Note]:  # type: ignore[override] # only its attributes
        """Insert or update a note; see `Repository.upsert`. Tags are cleaned as on assignment."""
        if "tags" in values:
            values = {**values, "tags": clean_tags(values["tags"])}
        return await super().upsert(values, key=key)

    def _first_page(self) -> Executable:
        of_user = self._select(*_conditions(bindparam("user_id"), None, include_archived=False))
        return of_user.order_by(Note.id.desc()).limit(bindparam("limit"))


def _conditions(
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
            raise ValueError(
                "tags must have a tag that is not empty, got only empty ones; pass no tags to search all notes"
            )
        where.append(Note.tags.contains(wanted_tags) if match == "all" else Note.tags.overlap(wanted_tags))
    return where


def plain(value: str) -> str:
    """Return a text as the index has it: unaccented words and spaces. Positions are those of the text in NFC."""
    text = _SEPARATOR.sub(" ", normalize("NFC", value))
    return text if text.isascii() else _ACCENT.sub(lambda accent: _UNACCENTED[accent[0]], text)


def _checked(query: str) -> str:
    """Return a query in NFC, with plain quotes.

    Raises:
        ValueError: The query is not a string, or is longer than 1000 characters.
    """
    if not isinstance(query, str):
        raise ValueError(f"query must be a string, got {type(query).__name__}")  # noqa: TRY004 - bad input
    if len(query) <= MAX_QUERY:
        query = normalize("NFC", clean_text(query).translate(_QUOTES))
    if len(query) > MAX_QUERY:  # NFC makes a few characters longer
        raise ValueError(
            f"query must be at most {MAX_QUERY} characters, got {len(query)}; search for a few of its words"
        )
    return query


def _parse(query: str, *, prefix: bool) -> list[tuple[str, str, str, int, bool, bool]]:
    """Return the leaves of a query, with the values of `_PARAMETERS`.

    `or` between two leaves is an operator, elsewhere a word. The last word is split into head and tail: the tail, its
    last part, is matched as a prefix.
    """
    leaves = []
    alternative = 0
    matches = list(_LEAF.finditer(query))
    for number, match in enumerate(matches, start=1):
        minus, phrase, word = match.groups()
        is_bare = word is not None
        if is_bare and not minus and word.lower() == "or" and 1 < number < len(matches):
            alternative += 1
            continue
        words = " ".join(plain(word or phrase or "").split())
        is_begun = prefix and number == len(matches) and is_bare and not minus
        tail = words.rsplit(" ", 1)[-1] if is_begun else ""
        leaves.append((words, words.removesuffix(tail), tail, alternative, bool(minus), is_bare))
    return leaves


def snippet(content: str, words: Collection[str]) -> str:
    """Return the parts of a note that have these words, as one line of plain text: at most two of 160 characters.

    Args:
        content: The content of the note.
        words: The words in the form of the index: unaccented, in lower case.

    Returns:
        The parts, with the words marked. If the content has none of the words, because the title matched, the beginning
        of the content.
    """
    text = normalize("NFC", content)
    places = _places(text, words)
    if any(mark in text for mark in HIGHLIGHT):
        text = text.translate(_SINGLE_MARKS)
    parts = sorted(_fragments(text, places)) or [(0, min(FRAGMENT_LENGTH, len(text)))]
    shown = " … ".join(" ".join(_marked(text, part, places).split()) for part in parts)
    return ("… " if parts[0][0] > 0 else "") + shown + (" …" if parts[-1][1] < len(text) else "")


def _places(text: str, words: Collection[str]) -> list[_Place]:
    """Return the places of whole words. Of overlapping words the longer is taken; parts of a compound are joined."""
    lowered = plain(text).replace("İ", "I").lower()  # İ is the only letter that becomes longer in lower case
    occurrences = (place for word in words for place in islice(_occurrences(lowered, word), MAX_PLACES))
    places: list[_Place] = []
    for start, end in sorted(occurrences, key=lambda place: (place[0], -place[1])):
        if places and start < places[-1][1]:
            continue
        if places and start == places[-1][1] + 1 and text[start - 1] in _JOINING:
            places[-1] = places[-1][0], end
        else:
            places.append((start, end))
    return places


def _occurrences(lowered: str, word: str) -> Iterator[_Place]:
    """Yield the places of a word that are not parts of a longer word."""
    start = lowered.find(word)
    while start >= 0:
        end = start + len(word)
        if not lowered[max(start - 1, 0) : start].isalnum() and not lowered[end : end + 1].isalnum():
            yield start, end
        start = lowered.find(word, end)


def _fragments(text: str, places: list[_Place]) -> list[_Place]:
    """Return the parts with the most different words. A second part must have words that the first has not."""
    if places and places[-1][1] - places[0][0] <= FRAGMENT_LENGTH:  # one part has all of them
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
    """Return the first and the last place of the part with the most words that are not shown yet, and these words."""
    best: tuple[int, int, set[str]] = (0, 0, set())
    first = 0
    for last, (_, end) in enumerate(places):
        while first < last and end - places[first][0] > FRAGMENT_LENGTH:
            first += 1
        new = set(names[first : last + 1]) - shown
        if len(new) > len(best[2]):
            best = first, last, new
    return best


def _around(text: str, start: int, end: int) -> _Place:
    """Return a part, widened to FRAGMENT_LENGTH, that begins and ends at spaces if there are any nearby."""
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
    """Return a part of a text with marks around the places in it."""
    pieces: list[str] = []
    at, stop = part
    for start, end in places:
        if part[0] <= start < stop:
            cut = min(end, stop)
            pieces += [text[at:start], HIGHLIGHT[0], text[start:cut], HIGHLIGHT[1]]
            at = cut
    return "".join([*pieces, text[at:stop]])
