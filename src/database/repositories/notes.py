"""Notes, and a user's search through them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final
from uuid import UUID

from sqlalchemy import ColumnElement, case, func, literal_column
from sqlalchemy.dialects.postgresql import REGCONFIG

from src.database.base import clean_text
from src.database.models import Note
from src.database.pagination import check_limit
from src.database.repositories.base import Repository

__all__ = ["HIGHLIGHT", "NoteHit", "NoteRepository"]

HIGHLIGHT: Final = ("«", "»")
"""What stands around the words found in a snippet."""

_SPANISH: Final[ColumnElement[str]] = literal_column("'spanish'::regconfig", REGCONFIG)
_ENGLISH: Final[ColumnElement[str]] = literal_column("'english'::regconfig", REGCONFIG)
_HEADLINE: Final = f"StartSel={HIGHLIGHT[0]}, StopSel={HIGHLIGHT[1]}, MinWords=8, MaxWords=24, MaxFragments=2"


@dataclass(frozen=True, slots=True)
class NoteHit:
    """A note that a search found: `rank` is ts_rank_cd's, the higher the better; `snippet` is plain text."""

    note: Note
    rank: float
    snippet: str


class NoteRepository(Repository[Note]):
    """The notes of the acting tenant."""

    model = Note

    async def search(self, user_id: UUID, query: str, *, limit: int = 20) -> list[NoteHit]:
        """Search one user's notes, in Spanish and in English at once, the best first.

        Args:
            user_id: Whose.
            query: As people type it into a search box: words, "a phrase", or, -not (websearch_to_tsquery).
            limit: At most so many.

        Returns:
            The hits; none where the query has no word in it.
        """
        check_limit(limit)
        text = clean_text(query)
        spanish, english = (
            func.websearch_to_tsquery(_SPANISH, text),
            func.websearch_to_tsquery(_ENGLISH, text),
        )
        wanted = spanish.op("||")(english)
        rank = func.ts_rank_cd(Note.search, wanted)
        # The words are marked in the language in which they are found.
        in_spanish = func.to_tsvector(_SPANISH, Note.content).op("@@")(spanish)
        language = case((in_spanish, _SPANISH), else_=_ENGLISH)
        snippet = func.ts_headline(language, Note.content, wanted, _HEADLINE)
        statement = (
            self._select(Note.user_id == user_id, Note.archived_at.is_(None), Note.search.op("@@")(wanted))
            .add_columns(rank, snippet)
            .order_by(rank.desc(), Note.id.desc())
            .limit(limit)
        )
        return [
            NoteHit(note=note, rank=rank, snippet=snippet)
            for note, rank, snippet in await self.session.execute(statement)
        ]
