"""Repository: relationships are loaded by options, and never on access."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

import pytest
from sqlalchemy import event, func, text
from sqlalchemy.orm import (
    contains_eager,
    defer,
    immediateload,
    joinedload,
    lazyload,
    load_only,
    raiseload,
    selectinload,
    subqueryload,
    undefer,
)

from src.database.base import tenant_tables
from src.database.errors import LazyLoadError
from src.database.models import Event, Note, User
from src.database.repositories import NoteRepository, UserRepository
from src.database.session import AsyncSession

NAMES = "|".join(table.name for table in tenant_tables())


@pytest.fixture
def users(session: AsyncSession) -> UserRepository:
    return UserRepository(session)


@pytest.fixture
async def note(session: AsyncSession, user: User) -> Note:
    """A note of the user, who also has a deleted one."""
    notes = NoteRepository(session)
    kept, deleted = await notes.add_many([Note(user_id=user.id, content=content) for content in ("kept", "gone")])
    await notes.delete(deleted.id)
    session.expunge_all()
    return kept


async def streamed(users: UserRepository, user: User, options: Any) -> User:
    return [row async for row in users.stream(options=options)][0]  # noqa: RUF015 - to the end


async def first_of_page(users: UserRepository, user: User, options: Any) -> User:
    return (await users.page(options=options)).items[0]


async def first_of_many(users: UserRepository, user: User, options: Any) -> User:
    return (await users.get_many([user.id], options=options))[0]


READS: list[Callable[..., Any]] = [
    lambda users, user, options: users.get(user.id, options=options),
    lambda users, user, options: users.get_or_none(user.id, options=options),
    lambda users, user, options: users.get_one(User.id == user.id, options=options),
    first_of_many,
    first_of_page,
]


@pytest.mark.parametrize(
    ("read", "load"),
    [(read, load) for read in READS for load in (selectinload, subqueryload, joinedload)] + [(streamed, selectinload)],
)
async def test_every_read_loads_the_requested_rows_of_the_tenant_without_deleted_ones(
    users: UserRepository, user: User, note: Note, read: Callable[..., Any], load: Any
) -> None:
    sent: list[str] = []
    connection = (await users.session.connection()).sync_connection
    event.listen(connection, "before_cursor_execute", lambda *call: sent.append(call[2]))

    found = await read(users, user, [load(User.notes), selectinload(User.events)])

    assert [each.content for each in found.notes] == ["kept"]
    assert found.events == []
    for statement in sent:
        tables = re.findall(rf"(?:FROM|JOIN) (?:{NAMES})\b", statement)
        assert len(re.findall(r"\btenant_id = \$", statement)) >= len(tables), statement


@pytest.mark.parametrize(
    ("criterion", "got"),
    [
        (func.set_config("app.tenant_id", "", True) != "", "the function set_config"),
        (text("true"), "SQL text"),
        (Note.content.op("= '' OR true OR")(""), "SQL text"),
    ],
)
async def test_criteria_of_an_option_that_can_change_the_tenant_are_rejected(
    users: UserRepository, user: User, criterion: Any, got: str
) -> None:
    options = [selectinload(User.events), selectinload(User.notes.and_(Note.pinned.is_(True), criterion))]

    with pytest.raises(ValueError, match=f"an option's criteria must be expressions over mapped attributes, got {got}"):
        await users.get(user.id, options=options)


async def test_criteria_of_an_option_are_expressions_over_mapped_attributes(
    users: UserRepository, user: User, note: Note
) -> None:
    found = await users.get(user.id, options=[selectinload(User.notes.and_(func.lower(Note.content) != "kept"))])

    assert found.notes == []


@pytest.mark.parametrize("load", [selectinload, joinedload])
async def test_a_deleted_parent_is_not_loaded(users: UserRepository, user: User, note: Note, load: Any) -> None:
    await users.delete(user.id)

    found = await NoteRepository(users.session).get(note.id, options=[load(Note.user)])

    assert found.user is None


async def test_a_loader_continues_from_loaded_rows(users: UserRepository, user: User, note: Note) -> None:
    found = await users.get(user.id, options=[selectinload(User.notes).selectinload(Note.user)])

    assert found.notes[0].user is found


async def test_a_page_with_a_joined_collection_has_the_full_number_of_rows(
    users: UserRepository, user: User, note: Note
) -> None:
    await NoteRepository(users.session).add_many([Note(user_id=user.id, content=str(n)) for n in range(5)])
    await users.add(User())

    page = await users.page(limit=1, options=[joinedload(User.notes)])

    assert [len(row.notes) for row in page.items] == [6]
    assert page.next_cursor is not None


@pytest.mark.parametrize(
    ("read", "remedy"),
    [
        (lambda user, _: user.notes, r"options=\[selectinload\(User\.notes\)\]"),
        (lambda user, _: user.events, r"options=\[selectinload\(User\.events\)\]"),
        (lambda _, note: note.user, r"options=\[selectinload\(Note\.user\)\]"),
        (lambda _, note: note.search, r"options=\[undefer\(Note\.search\)\]"),
    ],
)
async def test_the_error_of_a_lazy_load_names_the_option(
    users: UserRepository, user: User, note: Note, read: Callable[..., Any], remedy: str
) -> None:
    found = await users.get(user.id)
    found_note = await NoteRepository(users.session).get(note.id)

    for _ in range(2):
        with pytest.raises(LazyLoadError, match=remedy):
            read(found, found_note)
    users.session.expunge_all()
    with pytest.raises(LazyLoadError, match=remedy):
        read(found, found_note)


async def test_a_deferred_attribute_is_loaded_on_request(users: UserRepository, note: Note) -> None:
    found = await NoteRepository(users.session).get(note.id, options=[undefer(Note.search)])

    assert "'kept'" in found.search


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ([lazyload(User.notes)], "an option must be selectinload, joinedload, subqueryload or undefer"),
        ([defer(User.display_name)], "an option must be selectinload"),
        ([load_only(User.id)], "an option must be selectinload"),
        ([selectinload(User.notes).load_only(Note.id)], "an option must be selectinload"),
        ([selectinload(User.notes), raiseload(User.events)], "an option must be selectinload"),
        ([immediateload(User.notes)], "an option must be selectinload"),
        ([contains_eager(User.notes)], "an option must be selectinload"),
        ([lazyload("*")], "an option must be a loader"),
        (["notes"], "an option must be a loader, .* got str"),
        ([User.notes], "an option must be a loader"),
        (selectinload(User.notes), "options must be a list"),
        ("notes", "options must be a list"),
        (None, "options must be a list"),
        ([selectinload(Note.user)], "an option must begin at User"),
    ],
)
async def test_an_option_that_would_load_lazily_is_rejected(
    users: UserRepository, user: User, options: Any, message: str
) -> None:
    for read in READS:
        with pytest.raises(ValueError, match=message):
            await read(users, user, options)
    with pytest.raises(ValueError, match=message):
        await streamed(users, user, options)


@pytest.mark.parametrize("load", [joinedload, subqueryload])
async def test_a_stream_loads_collections_batch_by_batch(
    users: UserRepository, user: User, note: Note, load: Any
) -> None:
    with pytest.raises(ValueError, match="a stream loads collections by selectinload, once for each batch; got"):
        await streamed(users, user, [load(User.notes)])

    notes = NoteRepository(users.session)
    assert [row.user.id async for row in notes.stream(options=[joinedload(Note.user)])] == [user.id]


async def test_a_row_that_is_new_has_its_relationships_without_a_query() -> None:
    assert User().notes == []
    assert Event().user is None


async def test_an_expired_attribute_raises_and_is_loaded_by_a_refresh(users: UserRepository, user: User) -> None:
    await users.session.commit()
    user_id = user.id
    await users.update(user_id, display_name="undone")
    await users.session.rollback()

    with pytest.raises(LazyLoadError, match=r"the attributes of a User have expired(.|\n)*session\.refresh\(row\)"):
        _ = user.display_name
    await users.session.refresh(user)
    assert user.display_name == "Ada"
    users.session.expire(user)
    with pytest.raises(LazyLoadError):
        _ = user.display_name
    assert (await users.get(user_id)).display_name == "Ada"
