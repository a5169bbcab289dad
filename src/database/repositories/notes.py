"""Notes: a user's search through them, tags, the pinned ones and the archive."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, Literal
from uuid import UUID

from sqlalchemy import BindParameter, Executable, Select, bindparam, func, select

from src.database.models import Note
from src.database.models.note import clean_tags
from src.database.pagination import Page, check_limit
from src.database.repositories.base import Condition, Repository, Upserted
from src.database.repositories.note_search import MATCHED_WORDS, parameters_of, rank_of, wanted
from src.database.repositories.note_snippet import HIGHLIGHT, snippet
from src.database.statements import notes

__all__ = ["HIGHLIGHT", "NoteHit", "NoteRepository", "TagCount"]


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
    """The notes of the acting tenant."""

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
        values: dict[str, Any] = parameters_of(query, prefix=prefix) | {"limit": limit}
        if tags is None and match == "all" and not include_archived:
            found = await self._tuples(NoteRepository._search, user_id=user_id, **values)
        else:
            where = _of(user_id, tags, match=match, include_archived=include_archived)
            found = list(await self.session.execute(self._best(*where), values))
        return [NoteHit(*one) for one in found]

    def _search(self) -> Select[Any]:
        return self._best(*_of(bindparam("user_id"), None, include_archived=False))

    def _best(self, *where: Condition) -> Select[Any]:
        row = wanted()
        rank = rank_of(row)
        found = self._select(*where).join(row, Note.search.op("@@")(row.c.query)).add_columns(rank, MATCHED_WORDS)
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
            return await self._page_of(NoteRepository._first_page, limit, user_id=user_id)
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
        """Pin a note, or let it go; it may be so already.

        Raises:
            NotFoundError: This tenant has none.
        """
        return self._found(await notes.pin(self.session, note_id, pinned=pinned), f"id {note_id}")

    async def archive(self, note_id: UUID, *, now: datetime | None = None) -> Note:
        """Put a note away: search and lists leave it out unless asked. One in the archive keeps its time.

        Args:
            note_id: Which.
            now: When; by default the present.

        Raises:
            NotFoundError: This tenant has none.
            ValueError: `now` is naive.
        """
        return self._found(await notes.archive(self.session, note_id, now), f"id {note_id}")

    async def unarchive(self, note_id: UUID) -> Note:
        """Take a note back from the archive; it may not be there.

        Raises:
            NotFoundError: This tenant has none.
        """
        return self._found(await notes.unarchive(self.session, note_id), f"id {note_id}")

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
