"""NoteRepository: tags, pages, pinned notes and the archive."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

import pytest

from src.database.base import uuid7
from src.database.errors import NotFoundError
from src.database.models import Note, User
from src.database.repositories import NoteRepository
from src.database.repositories.notes import TagCount
from src.database.session import AsyncSession
from src.database.statements.pagination import InvalidCursorError

NOW = datetime(2030, 1, 1, tzinfo=UTC)


@pytest.fixture
async def notes(session: AsyncSession) -> NoteRepository:
    return NoteRepository(session)


@pytest.fixture
async def three(notes: NoteRepository, user: User) -> list[Note]:
    tags = [["work", "home"], ["work"], []]
    return await notes.add_many([Note(user_id=user.id, content="casa", tags=each) for each in tags])


async def test_tags_are_counted_the_most_used_first(notes: NoteRepository, user: User, three: list[Note]) -> None:
    stranger = User()
    notes.session.add(stranger)
    await notes.session.flush()
    await notes.add(Note(user_id=stranger.id, content="x", tags=["strange"]))

    assert await notes.tags(user.id) == [TagCount("work", 2), TagCount("home", 1)]
    assert await notes.tags(user.id, limit=1) == [TagCount("work", 2)]
    assert await notes.tags(uuid7()) == []


async def test_tags_of_deleted_or_archived_notes_are_not_counted(
    notes: NoteRepository, user: User, three: list[Note]
) -> None:
    await notes.archive(three[0].id)
    await notes.delete(three[1].id)

    assert await notes.tags(user.id) == []
    assert await notes.tags(user.id, include_archived=True) == [TagCount("home", 1), TagCount("work", 1)]


@pytest.mark.parametrize(
    ("tags", "places"),
    [
        ({"tags": ["work"]}, [1, 0]),
        ({"tags": ["work", "home"]}, [0]),
        ({"tags": ["work", "home"], "match": "any"}, [1, 0]),
        ({"tags": [" home "]}, [0]),
        ({"tags": ["none"], "match": "any"}, []),
        ({"tags": []}, [2, 1, 0]),
        ({"tags": None}, [2, 1, 0]),
    ],
)
async def test_tags_narrow_a_search_and_a_page(
    notes: NoteRepository, user: User, three: list[Note], tags: Any, places: list[int]
) -> None:
    page = await notes.page_for_user(user.id, **tags)
    hits = await notes.search(user.id, "casa", **tags)

    assert page.items == [three[place] for place in places]
    assert {hit.note for hit in hits} == {three[place] for place in places}


@pytest.mark.parametrize(
    ("given", "stored"),
    [
        ([" a ", "", "b", "a", "  "], ["a", "b"]),
        (["cafe\u0301", "café"], ["café"]),
        (["x\0"], ["x\ufffd"]),
        (("a",), ["a"]),
        ([str(n) for n in range(64)] + ["0"], [str(n) for n in range(64)]),
    ],
)
async def test_tags_are_cleaned_however_they_come(
    notes: NoteRepository, user: User, given: list[str], stored: list[str]
) -> None:
    added = await notes.add(Note(user_id=user.id, content="x", tags=given))
    updated = await notes.update((await notes.add(Note(user_id=user.id, content="x"))).id, tags=given)
    upserted = await notes.upsert({"id": uuid7(), "user_id": user.id, "content": "x", "tags": given}, key=["id"])

    assert added.tags == updated.tags == upserted.row.tags == stored


@pytest.mark.parametrize(
    ("tags", "message"),
    [
        ([str(n) for n in range(65)], "tags must be at most 64, got 65"),
        (["s" * 65], "a tag must be at most 64 characters, got a tag of 65"),
        ("work", r"tags must be a list of strings, e\.g\. \['work'\], got str"),
        (None, "tags must be a list of strings"),
    ],
)
async def test_tags_that_cannot_be_kept_are_rejected(
    notes: NoteRepository, user: User, three: list[Note], tags: Any, message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        Note(user_id=user.id, content="x", tags=tags)
    with pytest.raises(ValueError, match=message):
        await notes.update(three[0].id, tags=tags)
    with pytest.raises(ValueError, match=message):
        await notes.upsert({"id": uuid7(), "user_id": user.id, "content": "x", "tags": tags}, key=["id"])


async def test_pages_go_from_the_newest_to_the_oldest(notes: NoteRepository, user: User, three: list[Note]) -> None:
    first = await notes.page_for_user(user.id, limit=2)
    second = await notes.page_for_user(user.id, limit=2, after=first.next_cursor)

    assert [*first.items, *second.items] == three[::-1]
    assert second.next_cursor is None
    with pytest.raises(InvalidCursorError):
        await notes.page_for_user(user.id, after="x")


async def test_pinned_notes_can_be_listed_alone(notes: NoteRepository, user: User, three: list[Note]) -> None:
    assert await notes.pin(three[1].id) is three[1]
    await notes.pin(three[1].id)

    assert (await notes.page_for_user(user.id, pinned=True)).items == [three[1]]
    assert (await notes.page_for_user(user.id, pinned=False)).items == [three[2], three[0]]
    assert not (await notes.pin(three[1].id, pinned=False)).pinned
    assert (await notes.page_for_user(user.id, pinned=True)).items == []


async def test_archived_notes_are_left_out_by_default(notes: NoteRepository, user: User, three: list[Note]) -> None:
    await notes.archive(three[0].id, now=NOW)
    archived = await notes.archive(three[0].id)
    await notes.archive(three[2].id, now=NOW.replace(year=2031))

    assert archived is three[0]
    assert archived.archived_at == NOW, "the note keeps the time of its first archiving"
    assert (await notes.page_for_user(user.id)).items == [three[1]]
    assert [hit.note for hit in await notes.search(user.id, "casa")] == [three[1]]
    assert (await notes.page_for_user(user.id, include_archived=True)).items == three[::-1]
    assert len(await notes.search(user.id, "casa", include_archived=True)) == 3
    assert await notes.archived(user.id) == [three[2], three[0]]
    assert await notes.archived(user.id, limit=1) == [three[2]]
    assert (await notes.unarchive(three[0].id)).archived_at is None
    assert (await notes.page_for_user(user.id)).items == [three[1], three[0]]


async def test_pending_changes_are_not_lost(notes: NoteRepository, three: list[Note]) -> None:
    three[0].title = "changed"

    await notes.pin(three[0].id)

    assert (three[0].title, three[0].pinned) == ("changed", True)


async def test_a_missing_note_cannot_be_pinned_or_archived(notes: NoteRepository, three: list[Note]) -> None:
    await notes.delete(three[0].id)

    for row_id in (three[0].id, uuid7()):
        for call in (notes.pin, notes.archive, notes.unarchive):
            with pytest.raises(NotFoundError, match=f"this tenant has no Note with id {row_id}"):
                await call(row_id)


async def test_bad_arguments_are_rejected(notes: NoteRepository, user: User, three: list[Note]) -> None:
    with pytest.raises(ValueError, match="now must be aware"):
        await notes.archive(three[0].id, now=datetime(2030, 1, 1))  # noqa: DTZ001 - what is tested
    for limit in (0, 1001):
        for refused in (
            notes.tags(user.id, limit=limit),
            notes.archived(user.id, limit=limit),
            notes.search(user.id, "x", limit=limit),
            notes.page_for_user(user.id, limit=limit),
        ):
            with pytest.raises(ValueError, match="limit must be from 1 to 1000"):
                await refused
