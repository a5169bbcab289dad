"""NoteRepository: search, and the stored values of a note."""

from __future__ import annotations

import pytest
from sqlalchemy import event as event_of

from src.database.base import utc_now
from src.database.models import Event, Note, User
from src.database.repositories import (
    ConversationRepository,
    EventRepository,
    MessageHistoryRepository,
    NewMessage,
    NoteRepository,
)
from src.database.session import AsyncSession


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


async def test_the_best_match_is_first_and_its_words_are_marked(notes: NoteRepository, user: User) -> None:
    hits = await notes.search(user.id, "canciones")

    assert [hit.note.title for hit in hits] == ["Canciones", "Receta"]
    assert hits[0].rank > hits[1].rank
    assert "«canciones»" in hits[0].snippet
    assert "«canción»" in hits[1].snippet


async def test_search_skips_archived_and_deleted_notes_and_those_of_others(
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


async def test_changes_in_place_are_stored_and_tags_are_cleaned(session: AsyncSession, user: User) -> None:
    notes = NoteRepository(session)
    note = await notes.add(Note(user_id=user.id, content="x"))
    note.tags.append(" home ")
    note.tags.append("home")
    note.extra["seen"] = True
    await session.flush()
    session.expunge_all()

    stored = await notes.get(note.id)
    assert (stored.tags, stored.extra) == (["home"], {"seen": True})
    stored.tags.remove("home")
    del stored.extra["seen"]
    await session.flush()
    session.expunge_all()
    stored = await notes.get(note.id)
    assert (stored.tags, stored.extra) == ([], {})
    stored.tags.append("x" * 65)
    with pytest.raises(ValueError, match="a tag must be at most 64 characters"):
        await session.flush()


async def test_every_list_and_document_of_a_row_can_be_changed_in_place(session: AsyncSession, user: User) -> None:
    event = await EventRepository(session).add(Event(user_id=user.id, title="x", start_datetime=utc_now()))
    conversation, _ = await ConversationRepository(session).get_or_start(user.id, "telegram", "1")
    messages = MessageHistoryRepository(session)
    message = (await messages.append(conversation.id, NewMessage(message_id="1", role="user", parts=[]))).message
    when = utc_now()
    user.preferences["tone"] = "dry"
    event.exdates.append(when)
    message.attachments.append({"kind": "photo"})
    assert message.parts is not None
    message.parts.append({"type": "text"})
    await session.flush()

    for row in (user, event, message):
        await session.refresh(row)
    assert user.preferences == {"tone": "dry"}
    assert event.exdates == [when]
    assert (message.attachments, message.parts) == ([{"kind": "photo"}], [{"type": "text"}])


async def test_a_write_of_a_note_does_not_return_its_search_vector(session: AsyncSession, user: User) -> None:
    notes = NoteRepository(session)
    sent: list[str] = []
    connection = (await session.connection()).sync_connection
    event_of.listen(connection, "before_cursor_execute", lambda *call: sent.append(call[2]))

    note = await notes.add(Note(user_id=user.id, content="x"))
    await notes.add_many([Note(user_id=user.id, content="x"), Note(user_id=user.id, content="y")])
    await notes.update(note.id, content="y")
    await notes.upsert({"id": note.id, "user_id": user.id, "content": "z"}, key=["id"])
    await notes.pin(note.id)
    await notes.get(note.id)
    await notes.delete(note.id)

    assert len([statement for statement in sent if "RETURNING" in statement]) >= 6
    assert not [statement for statement in sent if "search" in statement]
