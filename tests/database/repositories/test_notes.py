"""NoteRepository: search."""

from __future__ import annotations

import pytest

from src.database.base import utc_now
from src.database.models import Note, User
from src.database.repositories import NoteRepository
from src.database.tenancy import AsyncSession


@pytest.fixture
async def notes(session: AsyncSession, user: User) -> NoteRepository:
    repository = NoteRepository(session)
    await repository.add_many(
        [
            Note(user_id=user.id, title="Canciones", content="Las mejores canciones para correr por la mañana"),
            Note(user_id=user.id, title=None, content="Running shoes: buy a new pair before the race"),
            Note(user_id=user.id, title="Receta", content="Una canción mientras se hace la tortilla"),
        ]
    )
    return repository


@pytest.mark.parametrize(
    ("query", "found"),
    [
        ("canción", 2),
        ("canciones", 2),
        ("run", 1),
        ('"new pair"', 1),
        ("tortilla or shoes", 2),
        ("canción -tortilla", 1),
        ("inexistente", 0),
        ("", 0),
        ("' & | ! ( \\ <-> :*", 0),
        ("can\0ción", 0),
    ],
)
async def test_finds_words_by_their_stem_in_both_languages(
    notes: NoteRepository, user: User, query: str, found: int
) -> None:
    assert len(await notes.search(user.id, query)) == found


async def test_the_best_comes_first_and_the_words_are_marked(notes: NoteRepository, user: User) -> None:
    hits = await notes.search(user.id, "canciones")

    assert [hit.note.title for hit in hits] == ["Canciones", "Receta"]
    assert hits[0].rank > hits[1].rank
    assert "«canciones»" in hits[0].snippet
    assert "«canción»" in hits[1].snippet


async def test_passes_over_what_is_archived_deleted_or_anothers(
    notes: NoteRepository, session: AsyncSession, user: User
) -> None:
    stranger = User()
    session.add(stranger)
    await session.flush()
    await notes.add(Note(user_id=stranger.id, content="canciones"))
    first, second = await notes.search(user.id, "canciones")
    await notes.update(first.note.id, archived_at=utc_now())
    await notes.delete(second.note.id)

    assert await notes.search(user.id, "canciones") == []
