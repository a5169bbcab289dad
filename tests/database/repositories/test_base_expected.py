"""Compare and set: `update` with expected values, and changes of single keys of a JSON object."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from sqlalchemy import URL

from src.database import get_db, tenant_context
from src.database.base import utc_now, uuid7
from src.database.errors import NotFoundError, StaleDataError
from src.database.models import Event, Tenant, User
from src.database.repositories import (
    ConversationRepository,
    EventRepository,
    MessageHistoryRepository,
    NewMessage,
    NoteRepository,
    UserRepository,
)
from src.database.session import AsyncSession


@pytest.fixture
def users(session: AsyncSession) -> UserRepository:
    return UserRepository(session)


async def test_updates_a_row_whose_values_are_the_expected_ones(users: UserRepository, user: User) -> None:
    updated = await users.update(
        user.id, expected={"display_name": "Ada", "preferences": {}}, display_name="Grace", preferences={"a": 1}
    )

    assert (updated.display_name, updated.preferences) == ("Grace", {"a": 1})
    with pytest.raises(
        StaleDataError, match=r"^User\.display_name has another value than expected; nothing was updated"
    ) as caught:
        await users.update(user.id, expected={"display_name": "Ada"}, display_name="Lovelace")
    assert "Grace" not in str(caught.value)
    assert (await users.get(user.id)).display_name == "Grace"


async def test_an_expected_attribute_is_one_of_the_model(users: UserRepository, user: User) -> None:
    with pytest.raises(ValueError, match="expected must have attributes of User, got 'nam'"):
        await users.update(user.id, expected={"nam": "Ada"}, display_name="x")  # type: ignore[arg-type] # what is tested
    with pytest.raises(ValueError, match="expected must be a mapping of names to values, got list"):
        await users.update(user.id, expected=["Ada"], display_name="x")  # type: ignore[arg-type] # what is tested
    with pytest.raises(NotFoundError):
        await users.update(uuid7(), expected={"display_name": "Ada"}, display_name="x")


async def test_events_and_messages_compare_too(session: AsyncSession, user: User) -> None:
    events, messages = EventRepository(session), MessageHistoryRepository(session)
    added = await events.add(Event(user_id=user.id, title="t", start_datetime=utc_now()))
    conversation, _ = await ConversationRepository(session).get_or_start(user.id, "telegram", "1")
    message = (await messages.append(conversation.id, NewMessage(message_id="a", role="user"))).message

    for values in ({"title": "later"}, {"extra": {"a": 1}}):
        with pytest.raises(StaleDataError):
            await events.update(added.id, expected={"title": "other"}, **values)
    for more in ({"model": "m"}, {"extra": {"a": 1}}):
        with pytest.raises(StaleDataError):
            await messages.update(message.id, expected={"model": "x"}, **more)
        await messages.update(message.id, expected={"content": None}, **more)


async def test_of_8_writers_with_one_expectation_one_updates(cloned_database: URL) -> None:
    async def write(writer: int) -> None:
        with tenant_context(tenant):
            async with get_db() as session:
                await UserRepository(session).update(
                    user_id, expected={"display_name": None}, display_name=f"w{writer}"
                )

    tenant, user_id = await registered_user()
    results = await asyncio.gather(*map(write, range(8)), return_exceptions=True)

    assert [one is None for one in results].count(True) == 1
    assert sum(isinstance(one, StaleDataError) for one in results) == 7


async def test_of_8_writers_of_8_keys_all_are_kept(cloned_database: URL) -> None:
    async def write(writer: int) -> None:
        with tenant_context(tenant):
            async with get_db() as session:
                repository = UserRepository(session)
                await repository.get(user_id)
                await asyncio.sleep(0.01)  # each writer has read the row before another one writes
                await repository.change_json(
                    user_id, "extra", values={f"k{writer}": writer}, merge={"all": {f"k{writer}": writer}}
                )

    tenant, user_id = await registered_user()
    await asyncio.gather(*map(write, range(8)))

    with tenant_context(tenant):
        async with get_db() as session:
            extra = (await UserRepository(session).get(user_id)).extra
    keys = {f"k{writer}": writer for writer in range(8)}
    assert extra == {**keys, "all": keys}


async def registered_user() -> tuple[Any, Any]:
    tenant = uuid7()
    async with get_db() as session:
        session.add(Tenant(id=tenant, slug="compares", name="Compares"))
    with tenant_context(tenant):
        async with get_db() as session:
            user = await UserRepository(session).add(User())
    return tenant, user.id


async def test_sets_merges_and_removes_keys(users: UserRepository, user: User) -> None:
    await users.update(user.id, extra={"a": 1, "b": {"x": 1}, "c": 7, "g\0": 1, "h": 2})

    changed = await users.change_json(
        user.id,
        "extra",
        values={"a": {"\0": ["\ud83d"]}, "é": None},
        merge={"b": {"y": 2}, "c": {"z": 3}, "d\0": {"w": 4}},
        remove=["g\0", "h", "missing"],
    )

    expected = {"a": {"\0": ["\ud83d"]}, "é": None, "b": {"x": 1, "y": 2}, "c": {"z": 3}, "d\0": {"w": 4}}
    assert changed.extra == expected
    assert (await users.get(user.id)).extra == expected


@pytest.mark.parametrize(
    ("attribute", "changes", "message"),
    [
        ("extra", {}, "must have at least one key"),
        ("extra", {"values": {"a": 1}, "remove": ["a"]}, "each key once"),
        ("extra", {"values": {"a": 1}, "merge": {"a": {}}}, "each key once"),
        ("extra", {"merge": {"a": 1}}, "merge must have an object for each key, got int"),
        ("extra", {"merge": [1]}, "merge must be a mapping of names to values, got list"),
        ("extra", {"values": "a"}, "values must be a mapping of names to values, got str"),
        ("extra", {"remove": "abc"}, "remove must be a collection of keys"),
        ("extra", {"remove": [1]}, "which are strings"),
        ("extra", {"values": {"a": {1}}}, "extra must have only text, numbers, .* got set"),
        ("extra", {"values": {1: 1}}, "only strings as keys, got int"),
        ("display_name", {"values": {"a": 1}}, "display_name must be a str, got dict"),
        ("nothing", {"values": {"a": 1}}, "User has no attribute 'nothing'"),
        ("tenant_id", {"values": {"a": 1}}, "tenant_id cannot be set"),
    ],
)
async def test_a_change_that_is_no_change_of_keys_is_rejected(
    users: UserRepository, user: User, attribute: str, changes: dict[str, Any], message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        await users.change_json(user.id, attribute, **changes)


async def test_keys_that_methods_write_are_reserved(session: AsyncSession, user: User) -> None:
    messages = MessageHistoryRepository(session)
    conversation, _ = await ConversationRepository(session).get_or_start(user.id, "telegram", "1")
    message = (await messages.append(conversation.id, NewMessage(message_id="a", role="user"))).message

    reserved: list[dict[str, Any]] = [
        {"remove": ["versions"]},
        {"values": {"split_characters": {}}},
        {"merge": {"versions": {}}},
    ]
    for changes in reserved:
        with pytest.raises(ValueError, match="of extra cannot be changed: methods of this class write it"):
            await messages.change_json(message.id, "extra", **changes)
    with pytest.raises(ValueError, match="parts"):
        await messages.change_json(message.id, "parts", values={"a": 1})
    assert (await messages.change_json(message.id, "extra", values={"a": 1})).extra == {"a": 1}


async def test_the_version_of_an_event_is_increased(session: AsyncSession, user: User) -> None:
    events = EventRepository(session)
    added: Event = await events.add(Event(user_id=user.id, title="t", start_datetime=utc_now()))

    changed = await events.change_json(added.id, "extra", values={"a": 1})

    assert changed.version == 2
    await events.update(added.id, title="after it")


async def test_rows_of_others_and_deleted_rows_are_not_found(users: UserRepository, user: User) -> None:
    notes = NoteRepository(users.session)
    await users.delete(user.id)

    for repository, row_id in ((users, user.id), (users, uuid7()), (notes, uuid7())):
        with pytest.raises(NotFoundError):
            await repository.change_json(row_id, "extra", values={"a": 1})
