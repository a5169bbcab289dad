"""Repository: the methods of every table."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from src.database.base import uuid7
from src.database.errors import (
    DatabaseError,
    DuplicateKeyError,
    ForeignKeyError,
    MultipleResultsFoundError,
    NotFoundError,
    TenantMismatchError,
)
from src.database.models import Event, Note, User, attributes
from src.database.repositories import ConversationRepository, EventRepository, NoteRepository, UserRepository
from src.database.session import AsyncSession
from src.database.statements.pagination import InvalidCursorError


@pytest.fixture
def users(session: AsyncSession) -> UserRepository:
    return UserRepository(session)


@pytest.fixture
async def five(users: UserRepository) -> list[User]:
    return await users.add_many([User(username=f"u{n}", telegram_id=n) for n in range(5)])


async def test_get_returns_the_row_or_raises(users: UserRepository, user: User) -> None:
    missing = uuid7()

    assert await users.get(user.id) is user
    assert await users.get_or_none(missing) is None
    with pytest.raises(NotFoundError, match=f"this tenant has no User with id {missing}"):
        await users.get(missing)


async def test_get_one_requires_exactly_one_row(users: UserRepository, five: list[User]) -> None:
    assert await users.get_one(User.username == "u3") is five[3]
    with pytest.raises(NotFoundError):
        await users.get_one(User.username == "nobody")
    with pytest.raises(MultipleResultsFoundError):
        await users.get_one(User.is_active)


async def test_get_many_returns_existing_rows(users: UserRepository, five: list[User]) -> None:
    assert await users.get_many([five[3].id, uuid7(), five[1].id]) == [five[1], five[3]]
    assert await users.get_many([]) == []


async def test_adds_the_rows_of_an_iterator(users: UserRepository) -> None:
    added = await users.add_many(User(username=name) for name in ("a", "b"))  # type: ignore[arg-type] # what is tested

    assert [user.username for user in added] == ["a", "b"]
    assert await users.count() == 2


async def test_count_and_exists(users: UserRepository, five: list[User]) -> None:
    assert await users.count() == len(five)
    assert await users.count(User.username.in_(["u1", "u2"])) == 2
    assert await users.exists(User.username == "u1")
    assert not await users.exists(User.username == "nobody")


async def test_add_refuses_another_tenants_row(users: UserRepository) -> None:
    with pytest.raises(TenantMismatchError):
        await users.add(User(tenant_id=uuid7()))


async def test_add_refuses_another_kind_of_row(users: UserRepository, user: User) -> None:
    with pytest.raises(TypeError, match="UserRepository adds User, got Note"):
        await users.add(Note(user_id=user.id, content="x"))  # type: ignore[arg-type] # what is tested


async def test_add_names_the_duplicate_key_without_its_value(users: UserRepository, five: list[User]) -> None:
    with pytest.raises(DuplicateKeyError) as caught:
        await users.add(User(telegram_id=five[4].telegram_id))

    assert caught.value.constraint == "uq_users_telegram_id"
    assert caught.value.sqlstate == "23505"


async def test_update_changes_attributes_and_the_time(users: UserRepository, user: User) -> None:
    before = user.updated_at

    changed = await users.update(user.id, display_name="Grace", preferences={"theme": "dark"})

    assert changed is user
    assert (user.display_name, user.preferences) == ("Grace", {"theme": "dark"})
    assert user.updated_at >= before


@pytest.mark.parametrize(
    ("name", "message"),
    [("nick", "User has no attribute 'nick'"), ("tenant_id", "never changes"), ("events", "no attribute")],
)
async def test_update_rejects_attributes_that_cannot_be_set(
    users: UserRepository, user: User, name: str, message: str
) -> None:
    values: dict[str, Any] = {name: "x"}

    with pytest.raises(ValueError, match=message):
        await users.update(user.id, **values)


async def test_upsert_returns_the_outcome(users: UserRepository) -> None:
    first = await users.upsert({"telegram_id": 9, "username": "a"}, key=["telegram_id"])
    second = await users.upsert({"telegram_id": 9, "username": "b"}, key=["telegram_id"])
    third = await users.upsert({"telegram_id": 9, "username": "b"}, key=["telegram_id"])

    assert [one.outcome for one in (first, second, third)] == ["inserted", "updated", "unchanged"]
    assert first.row is second.row is third.row
    assert first.row.username == "b"


async def test_upsert_keeps_attributes_that_are_not_named(users: UserRepository) -> None:
    await users.upsert({"telegram_id": 9, "username": "a", "display_name": "Ada"}, key=["telegram_id"])

    again = await users.upsert({"telegram_id": 9, "username": "b"}, key=["telegram_id"])

    assert again.row.display_name == "Ada"


async def test_upsert_updates_the_time(users: UserRepository) -> None:
    first = (await users.upsert({"telegram_id": 9, "username": "a"}, key=["telegram_id"])).row.updated_at

    assert (await users.upsert({"telegram_id": 9, "username": "b"}, key=["telegram_id"])).row.updated_at > first


@pytest.mark.parametrize("values", [{"username": "a"}, {"telegram_id": None, "username": "a"}, {}])
async def test_upsert_requires_a_value_for_the_key(users: UserRepository, values: attributes.UserUpsert) -> None:
    with pytest.raises(ValueError, match="values must have 'telegram_id', which is part of the key"):
        await users.upsert(values, key=["telegram_id"])


async def test_upsert_rejects_the_key_of_a_deleted_row(users: UserRepository, user: User) -> None:
    await users.delete(user.id)

    with pytest.raises(DuplicateKeyError, match="a deleted User has this key"):
        await users.upsert({"id": user.id, "username": "a"}, key=["id"])


async def test_upsert_requires_a_unique_key(users: UserRepository) -> None:
    with pytest.raises(ValueError, match="key must name a unique key of User, got username; known: id; telegram_id"):
        await users.upsert({"username": "a"}, key=["username"])


async def test_delete_hides_a_row_and_restore_shows_it_again(users: UserRepository, user: User) -> None:
    await users.delete(user.id)

    assert await users.get_or_none(user.id) is None
    assert await users.count() == 0
    assert not await users.exists()
    assert await users.restore(user.id) is user
    assert await users.get(user.id) is user


async def test_a_hard_delete_is_permanent_and_includes_soft_deleted_rows(users: UserRepository, user: User) -> None:
    await users.delete(user.id)
    await users.delete(user.id, hard=True)

    with pytest.raises(NotFoundError):
        await users.restore(user.id)


async def test_a_hard_delete_of_a_referenced_row_is_rejected(
    users: UserRepository, session: AsyncSession, user: User
) -> None:
    await NoteRepository(session).add(Note(user_id=user.id, content="x"))

    with pytest.raises(ForeignKeyError):
        await users.delete(user.id, hard=True)


async def test_restore_refuses_a_key_that_is_taken_meanwhile(users: UserRepository) -> None:
    user, _ = await users.get_or_create_by_telegram_id(1)
    await users.delete(user.id)
    await users.get_or_create_by_telegram_id(1)

    with pytest.raises(DuplicateKeyError):
        await users.restore(user.id)


async def test_rows_of_a_table_without_deleted_at_are_deleted_permanently(session: AsyncSession, user: User) -> None:
    events = EventRepository(session)
    event = await events.add(Event(user_id=user.id, title="x", start_datetime=user.created_at))
    await events.delete(event.id)

    with pytest.raises(NotFoundError):
        await events.delete(event.id)
    with pytest.raises(ValueError, match="has no deleted_at"):
        await events.restore(event.id)


@pytest.mark.parametrize("descending", [False, True])
async def test_pages_contain_every_row_once(users: UserRepository, five: list[User], descending: bool) -> None:
    seen: list[User] = []
    cursor = None
    while True:
        page = await users.page(limit=2, after=cursor, order_by=User.created_at, descending=descending)
        seen += page.items
        cursor = page.next_cursor
        if cursor is None:
            break

    assert seen == (five[::-1] if descending else five)


async def test_a_page_that_is_just_full_is_the_last(users: UserRepository, five: list[User]) -> None:
    page = await users.page(limit=5)

    assert page.items == five
    assert page.next_cursor is None


@pytest.mark.parametrize(
    "forge", [lambda c: c[:-3], lambda c: "AAAA" + c[4:], lambda _: "", lambda _: "ñ", lambda c: c + "A"]
)
async def test_rejects_a_forged_cursor(users: UserRepository, five: list[User], forge: Callable[[str], str]) -> None:
    cursor = (await users.page(limit=2)).next_cursor
    assert cursor is not None

    with pytest.raises(InvalidCursorError, match="begin again without a cursor"):
        await users.page(limit=2, after=forge(cursor))


async def test_rejects_a_cursor_of_another_query(
    users: UserRepository, session: AsyncSession, five: list[User]
) -> None:
    cursor = (await users.page(limit=2)).next_cursor

    with pytest.raises(InvalidCursorError):
        await users.page(limit=2, after=cursor, descending=True)
    with pytest.raises(InvalidCursorError):
        await ConversationRepository(session).page(limit=2, after=cursor)


@pytest.mark.parametrize("limit", [0, -1, 1001])
async def test_page_refuses_a_limit_out_of_range(users: UserRepository, limit: int) -> None:
    with pytest.raises(ValueError, match="limit must be from 1 to 1000"):
        await users.page(limit=limit)


@pytest.mark.parametrize("attribute", [User.username, Note.created_at, "created_at"])
async def test_page_orders_by_attributes_of_its_own_that_are_never_null(
    users: UserRepository, attribute: object
) -> None:
    with pytest.raises(ValueError, match="order_by must be a mapped attribute of User that is not nullable"):
        await users.page(order_by=attribute)  # type: ignore[arg-type] # what is tested


async def test_streams_every_row_in_order(users: UserRepository, five: list[User]) -> None:
    assert [user.id async for user in users.stream()] == [user.id for user in five]


@pytest.mark.parametrize("read", [20, 500])
async def test_a_session_continues_after_an_abandoned_stream(users: UserRepository, read: int) -> None:
    await users.add_many([User() for _ in range(600)])
    stream = users.stream()
    for _ in range(read):
        await anext(stream)

    assert await users.count() == 600
    await stream.aclose()  # type: ignore[attr-defined] # an async generator's
    assert await users.count() == 600


@pytest.mark.fast_path
async def test_a_stream_reports_that_its_transaction_ended(users: UserRepository) -> None:
    await users.add_many([User() for _ in range(600)])
    stream = users.stream()
    await anext(stream)
    await users.session.commit()

    with pytest.raises(DatabaseError, match="transaction of a stream ended"):
        [row async for row in stream]


async def test_streamed_rows_stay_in_the_session(users: UserRepository, five: list[User]) -> None:
    async for row in users.stream():
        row.display_name = "streamed"
    five[0].username = "changed after"
    await users.session.flush()
    users.session.expire_all()

    assert await users.count(User.display_name == "streamed") == len(five)
    assert await users.exists(User.username == "changed after")
