"""Repository: rejected conditions, and deletion in few statements."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from sqlalchemy import (
    Integer,
    Text,
    any_,
    case,
    cast,
    column,
    event,
    exists,
    extract,
    func,
    literal_column,
    or_,
    select,
    text,
    tuple_,
)
from sqlalchemy.orm import aliased

from src.database.base import uuid7
from src.database.errors import DuplicateKeyError, NotFoundError
from src.database.models import Event, Note, User
from src.database.repositories import EventRepository, NoteRepository, UserRepository
from src.database.session import AsyncSession


@pytest.fixture
def users(session: AsyncSession) -> UserRepository:
    return UserRepository(session)


@pytest.fixture
async def sent(session: AsyncSession) -> list[str]:
    """The statements that are sent from now on."""
    statements: list[str] = []
    connection = (await session.connection()).sync_connection
    event.listen(connection, "before_cursor_execute", lambda *call: statements.append(call[2]))
    return statements


REBINDING = func.set_config("app.tenant_id", str(uuid7()), True)
REFUSED: list[tuple[Any, str]] = [
    ("1=1", "got str"),
    (text("1=1"), "got SQL text"),
    (or_(User.is_active, text("1=1")), "got SQL text"),
    (True, "got bool"),
    (None, "got NoneType"),
    (literal_column("1") == 1, "got a column of no mapped table"),
    (column("username") == "x", "got a column of no mapped table"),
    (Note.content == "x", "got a column of notes"),
    (User.id == Note.user_id, "got a column of notes"),
    (aliased(User).username == "x", "got a column of no mapped table"),
    (User.id.in_(select(Note.user_id)), "got a subquery"),
    (User.notes.any(), "got a subquery"),
    (exists(), "got a subquery"),
    (REBINDING != "", "got the function set_config"),
    (func.pg_catalog.set_config("app.tenant_id", "", True) != "", "got the function set_config"),
    (func.SET_CONFIG("app.tenant_id", "", True) != "", "got the function set_config"),
    (func.app_set_tenant(uuid7()).is_(None), "got the function app_set_tenant"),
    (func.query_to_xml("SELECT 1", True, True, "").is_(None), "got the function query_to_xml"),
    (~or_(User.is_active, func.lower(func.coalesce(User.username, REBINDING)) == "x"), "got the function set_config"),
    (case((User.is_active, REBINDING), else_="") == "", "got the function set_config"),
    (cast(REBINDING, Integer) == 1, "got the function set_config"),
    (User.username.in_([REBINDING]), "got the function set_config"),
    (User.username == any_(func.string_to_array(REBINDING, ",")), "got the function set_config"),
    (User.preferences[REBINDING].is_(None), "got the function set_config"),
    (func.count().filter(REBINDING == "").over(partition_by=REBINDING) > 0, "got the function set_config"),
    (REBINDING.column_valued("x") == "", "got the function set_config"),
    (User.username.op("= '' OR set_config('app.tenant_id', '', true) =")(""), "got SQL text"),
    (User.username.op("IS NULL OR set_config")(tuple_("app.tenant_id", "", True)), "got SQL text"),
    (User.username.op("--")(""), "got SQL text"),
    (
        extract("epoch FROM now()) > 0 OR (set_config('app.tenant_id', '', true)) = (''", User.created_at),
        "got SQL text",
    ),
]


@pytest.mark.parametrize(("condition", "got"), REFUSED)
async def test_a_condition_over_anything_but_the_models_attributes_is_rejected(
    users: UserRepository, sent: list[str], condition: Any, got: str
) -> None:
    for call in (users.get_one, users.exists, users.count, users.page):
        with pytest.raises(ValueError, match=f"a condition must be an expression over User's mapped.*{got}"):
            await call(condition)
    with pytest.raises(ValueError, match="a condition must be"):
        await anext(users.stream(condition))

    assert sent == []


@pytest.mark.parametrize(
    "condition",
    [
        User.is_active,
        ~User.is_active.is_(False),
        or_(User.username == "a", User.display_name.ilike("ad%")),
        func.lower(User.display_name) == "ada",
        User.display_name.in_(["Ada"]),
        User.preferences["theme"].is_(None),
        User.created_at <= func.now(),
        func.current_setting("app.tenant_id") == cast(User.tenant_id, Text),
        User.display_name.op("~*")("^a"),
        User.display_name.op("similar to")("A%"),
        User.preferences.op("@>")({}),
        User.tenant_id.op("IS DISTINCT FROM")(uuid7()),
        extract("year", User.created_at) > 2000,
    ],
)
async def test_an_expression_over_its_own_attributes_is_a_condition(
    users: UserRepository, user: User, condition: Any
) -> None:
    assert await users.get_one(condition) is user
    assert await users.count(condition, User.telegram_id.is_(None)) == 1


@pytest.mark.parametrize("value", [REBINDING, func.upper(REBINDING), text("set_config('app.tenant_id', '', true)")])
async def test_an_sql_expression_that_changes_the_tenant_is_rejected_as_a_value(
    users: UserRepository, user: User, sent: list[str], value: Any
) -> None:
    notes, events = NoteRepository(users.session), EventRepository(users.session)
    for call in (
        users.add(User(username=value)),
        users.add_many([User(), User(username=value)]),
        users.update(user.id, username=value),
        users.upsert({"telegram_id": 1, "username": value}, key=["telegram_id"]),
        users.upsert({"id": value, "telegram_id": 1}, key=["telegram_id"]),
        users.get_or_create_by_telegram_id(1, username=value),
        notes.add(Note(user_id=user.id, content=value)),
        events.update(user.id, title=value),
        events.upsert({"ical_uid": value, "user_id": user.id}, key=["user_id", "ical_uid"]),
    ):
        with pytest.raises(ValueError, match=r"a value of \w+ must have no SQL text and no function that .+, got"):
            await call

    assert sent == []


async def test_an_sql_expression_over_its_own_attributes_is_a_value(users: UserRepository, user: User) -> None:
    await users.update(user.id, username=func.upper(User.display_name), last_seen_at=func.now())
    await users.session.refresh(user)

    assert user.username == "ADA"


async def test_a_relationship_to_a_row_is_a_condition(session: AsyncSession, user: User) -> None:
    note = await NoteRepository(session).add(Note(user_id=user.id, content="x"))

    assert await NoteRepository(session).get_one(Note.user == user) is note


@pytest.mark.parametrize("limit", [0, -1, 1001, True, "5", 1.5, None])
async def test_a_limit_is_a_number_from_1_to_1000(users: UserRepository, limit: Any) -> None:
    with pytest.raises(ValueError, match="limit must be from 1 to 1000, got"):
        await users.page(limit=limit)


async def test_any_number_of_ids_is_one_statement(users: UserRepository, user: User, sent: list[str]) -> None:
    assert await users.get_many([uuid7() for _ in range(40_000)] + [user.id] * 2) == [user]
    assert len(sent) == 1


@pytest.mark.parametrize(
    "call",
    [
        lambda users, row: users.delete(row),
        lambda users, row: users.restore(row),
        lambda users, row: users.delete(row, hard=True),
    ],
)
async def test_deletion_and_restoration_are_one_statement_that_names_the_tenant(
    users: UserRepository, user: User, sent: list[str], call: Callable[..., Any]
) -> None:
    await call(users, user.id)
    with pytest.raises(NotFoundError):
        await call(users, uuid7())

    assert len(sent) == 2
    assert all("tenant_id = " in statement for statement in sent)


async def test_a_row_that_this_session_deleted_is_not_returned(users: UserRepository, user: User) -> None:
    deleted = await users.add(User(display_name="gone"))
    await users.delete(deleted.id)

    assert deleted.deleted_at is not None
    assert await users.get_or_none(deleted.id) is None
    assert await users.get_many([deleted.id, user.id]) == [user]
    assert (await users.page()).items == [user]
    assert [row async for row in users.stream()] == [user]
    assert await users.count() == 1
    assert not await users.exists(User.id == deleted.id)
    with pytest.raises(NotFoundError):
        await users.get_one(User.id == deleted.id)
    with pytest.raises(NotFoundError):
        await users.update(deleted.id, display_name="x")
    with pytest.raises(NotFoundError):
        await users.delete(deleted.id)


async def test_a_permanently_deleted_row_is_expunged_from_the_session(users: UserRepository, user: User) -> None:
    await users.delete(user.id, hard=True)

    assert user not in users.session
    assert await users.session.get(User, user.id) is None


async def test_pending_changes_are_not_lost_by_a_deletion(users: UserRepository, user: User) -> None:
    user.display_name = "changed"
    await users.delete(user.id)

    assert (await users.restore(user.id)).display_name == "changed"


async def test_restoring_a_row_that_is_not_deleted_changes_nothing(users: UserRepository, user: User) -> None:
    before = user.updated_at
    await users.session.execute(text("UPDATE users SET updated_at = updated_at - interval '1 day'"))

    again = await users.restore(user.id)

    assert again is user
    assert again.deleted_at is None
    assert again.updated_at < before


async def test_a_row_with_a_version_is_deleted_in_one_statement(
    session: AsyncSession, user: User, sent: list[str]
) -> None:
    events = EventRepository(session)
    row = await events.add(Event(user_id=user.id, title="x", start_datetime=user.created_at))
    sent.clear()

    await events.delete(row.id)

    assert len(sent) == 1
    assert await events.get_or_none(row.id) is None


async def test_upsert_accepts_attributes_whose_column_has_another_name(users: UserRepository) -> None:
    first = await users.upsert({"telegram_id": 9, "extra": {"a": 1}}, key=["telegram_id"])
    again = await users.upsert({"telegram_id": 9, "extra": {"a": 1}}, key=["telegram_id"])
    other = await users.upsert({"telegram_id": 9, "extra": {"a": "\0"}}, key=["telegram_id"])

    assert [first.outcome, again.outcome, other.outcome] == ["inserted", "unchanged", "updated"]
    assert other.row.extra == {"a": "\0"}


async def test_upsert_of_a_key_that_only_a_deleted_row_had_inserts(users: UserRepository) -> None:
    old = (await users.upsert({"telegram_id": 9}, key=["telegram_id"])).row
    await users.delete(old.id)

    new = await users.upsert({"telegram_id": 9, "username": "b"}, key=["telegram_id"])

    assert new.outcome == "inserted"
    assert new.row.id != old.id
    with pytest.raises(DuplicateKeyError):
        await users.restore(old.id)


async def test_upsert_requires_a_list_of_attributes(users: UserRepository) -> None:
    with pytest.raises(ValueError, match=r"key must be a list of attributes, e\.g\. \['telegram_id'\], got a str"):
        await users.upsert({"telegram_id": 9}, key="telegram_id")
