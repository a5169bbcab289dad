"""Users are found by their identities: created once, linked, unlinked, and free after a user is deleted."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from contextlib import suppress
from typing import Any, Final

import psycopg
import pytest
from sqlalchemy import URL, text
from sqlalchemy.orm import selectinload

from src.config import Settings
from src.database import get_db
from src.database.base import uuid7
from src.database.errors import CheckViolation, DeadlockError, DuplicateKeyError, NotFoundError
from src.database.models import User, UserIdentity
from src.database.repositories import NewMessage, UserIdentityRepository, UserRepository
from src.database.schemas import UserIdentityCreate
from src.database.session import AsyncSession
from src.database.store import Identity, Profile, get_store
from tests.acceptance.calls import a_message

NOWHERE: Final = URL.create("postgresql+asyncpg", "nobody", host="127.0.0.1", port=1, database="none")


@pytest.fixture
def unreachable(use_database: Callable[..., Settings]) -> None:
    use_database(NOWHERE, DATABASE_DEFAULT_TENANT=str(uuid7()))


@pytest.fixture
def users(session: AsyncSession) -> UserRepository:
    return UserRepository(session)


async def test_creates_a_user_with_an_identity_once(users: UserRepository) -> None:
    user, created = await users.get_or_create_by_identity("google", "1", display_name="Ada", locale="es")
    again, created_again = await users.get_or_create_by_identity("google", "1", display_name="Other")

    assert (created, created_again) == (True, False)
    assert again is user
    assert (user.display_name, user.locale, user.telegram_id, user.is_person) == ("Ada", "es", None, True)
    assert await users.get_by_identity("google", "1") is user


async def test_provider_and_subject_are_compared_exactly(users: UserRepository) -> None:
    user, _ = await users.get_or_create_by_identity("google", "a")

    for other in (("google", "A"), ("google", "a "), ("Google", "a"), ("mail", "a")):
        assert await users.get_by_identity(*other) is None
        assert (await users.get_or_create_by_identity(*other))[0].id != user.id


async def test_a_sender_that_is_no_person_is_marked(users: UserRepository) -> None:
    channel, _ = await users.get_or_create_by_identity("telegram_chat", "-1001", is_person=False)
    again, created = await users.get_or_create_by_identity("telegram_chat", "-1001")

    assert not channel.is_person
    assert (again, created) == (channel, False)


async def test_a_user_has_several_identities(users: UserRepository, session: AsyncSession) -> None:
    user, _ = await users.get_or_create_by_telegram_id(42)

    for provider, subject in (("google", "1"), ("mail", "ada@example.com"), ("mail", "ada@example.org")):
        linked = await users.link(user.id, provider, subject)
        assert (linked.user_id, linked.provider, linked.subject) == (user.id, provider, subject)
        assert await users.get_by_identity(provider, subject) is user
        assert await users.link(user.id, provider, subject) is linked

    loaded = await users.get(user.id, options=[selectinload(User.identities)])
    assert {one.subject for one in loaded.identities} == {"1", "ada@example.com", "ada@example.org"}
    assert await UserIdentityRepository(session).count(UserIdentity.user_id == user.id) == 3


async def test_an_identity_of_another_user_is_not_linked(users: UserRepository) -> None:
    await users.get_or_create_by_identity("google", "very-secret")
    deleted, _ = await users.get_or_create_by_identity("google", "of a deleted user")
    await users.delete(deleted.id)
    user, _ = await users.get_or_create_by_telegram_id(42)

    with pytest.raises(DuplicateKeyError, match="belongs to another user") as caught:
        await users.link(user.id, "google", "very-secret")

    assert "merge" in str(caught.value.hint)
    assert "very-secret" not in f"{caught.value} {caught.value.hint}"
    assert await users.get_by_telegram_id(42) is user  # the transaction goes on


async def test_a_missing_or_deleted_user_gets_no_identity(users: UserRepository) -> None:
    user, _ = await users.get_or_create_by_telegram_id(42)
    await users.delete(user.id)

    for missing in (user.id, uuid7()):
        with pytest.raises(NotFoundError):
            await users.link(missing, "google", "1")


async def test_an_unlinked_identity_is_free(users: UserRepository) -> None:
    user, _ = await users.get_or_create_by_identity("google", "1")

    assert not await users.unlink(uuid7(), "google", "1")
    assert await users.unlink(user.id, "google", "1")
    assert not await users.unlink(user.id, "google", "1")
    successor, created = await users.get_or_create_by_identity("google", "1")
    assert created
    assert successor.id != user.id


@pytest.mark.parametrize("way", ["get_or_create", "link"])
async def test_a_deleted_users_identity_is_free_as_a_telegram_id_is(users: UserRepository, way: str) -> None:
    user, _ = await users.get_or_create_by_identity("google", "1")
    await users.delete(user.id)
    assert await users.get_by_identity("google", "1") is None

    if way == "link":
        successor, _ = await users.get_or_create_by_telegram_id(42)
        await users.link(successor.id, "google", "1")
    else:
        successor, created = await users.get_or_create_by_identity("google", "1")
        assert created
    await users.restore(user.id)

    assert await users.get_by_identity("google", "1") is successor
    assert not await users.unlink(user.id, "google", "1")


async def test_a_restored_user_has_the_identities_without_a_new_owner(users: UserRepository) -> None:
    user, _ = await users.get_or_create_by_identity("google", "1")
    await users.delete(user.id)
    await users.restore(user.id)

    assert await users.get_by_identity("google", "1") is user


@pytest.mark.parametrize(
    ("provider", "subject", "message"),
    [
        ("telegram", "42", "call get_or_create_by_telegram_id"),
        ("Telegram", "42", "call get_or_create_by_telegram_id"),
        ("", "1", "provider must be 1 to 255 characters, got 0"),
        ("p" * 256, "1", "provider must be 1 to 255 characters, got 256"),
        ("google", "", "subject must be 1 to 255 characters, got 0"),
        ("google", "secret" * 99, "subject must be 1 to 255 characters, got 594"),
        (
            "google",
            "secret\0",
            "subject must have no NUL and no lone surrogates, .* got one; encode the text, or use its hash",
        ),
        ("google", "secret\ud800", "subject must have no NUL and no lone surrogates"),
        ("google", 42, "subject must be a str, got int"),
        (None, "42", "provider must be a str, got NoneType"),
    ],
)
@pytest.mark.usefixtures("unreachable")
async def test_an_invalid_identity_is_rejected_before_sending(provider: Any, subject: Any, message: str) -> None:
    async with get_db() as session:
        users, store, user_id = UserRepository(session), get_store(), uuid7()
        ways: list[Callable[[], Awaitable[object]]] = [
            lambda: users.get_by_identity(provider, subject),
            lambda: users.get_or_create_by_identity(provider, subject),
            lambda: users.link(user_id, provider, subject),
            lambda: users.unlink(user_id, provider, subject),
            lambda: store.get_or_create_by_identity(provider, subject),
            lambda: store.turn(Identity(provider, subject), "web", "1", [a_message("1")]),
        ]
        for way in ways:
            with pytest.raises(ValueError, match=message) as caught:
                await way()
            assert "secret" not in str(caught.value)
    if isinstance(provider, str) and isinstance(subject, str):
        with pytest.raises(ValueError, match=r"provider|subject"):
            UserIdentityCreate(user_id=user_id, provider=provider, subject=subject)


@pytest.mark.usefixtures("unreachable")
async def test_an_identity_says_with_a_bool_whether_it_is_a_person() -> None:
    with pytest.raises(ValueError, match="is_person must be a bool, got int"):
        await get_store().turn(Identity("google", "1", 1), "web", "1", [a_message("1")])  # type: ignore[arg-type] # what is tested


@pytest.mark.usefixtures("unreachable")
async def test_a_turn_takes_a_telegram_id_or_an_identity() -> None:
    for sender in (("google", "1"), "42", None, True):
        with pytest.raises(ValueError, match="telegram_id must be a whole number above 0"):
            await get_store().turn(sender, "web", "1", [a_message("1")])  # type: ignore[arg-type] # what is tested


def test_the_repr_of_an_identity_has_no_subject() -> None:
    assert repr(Identity("mail", "ada@example.com")) == "<Identity of mail>"


async def test_the_database_refuses_the_provider_telegram(session: AsyncSession, user: User) -> None:
    insert = text(
        "INSERT INTO user_identities (tenant_id, id, user_id, provider, subject)"
        " SELECT tenant_id, gen_random_uuid(), id, 'TeleGram', '42' FROM users WHERE id = :id"
    )

    with pytest.raises(CheckViolation):
        await session.execute(insert, {"id": user.id})


async def test_both_paths_find_the_same_user(cloned_database: URL) -> None:
    store = get_store()
    taken = await store.turn(
        Identity("slack", "U1"), "slack", "C1", [a_message("1")], profile=Profile(display_name="Ada")
    )
    by_store, created = await store.get_or_create_by_identity("slack", "U1")
    async with get_db() as session:
        user = await UserRepository(session).get_by_identity("slack", "U1")
    channel = await store.turn(Identity("slack", "B1", is_person=False), "slack", "C1", [a_message("2")])
    with_parts = NewMessage(message_id="3", role="user", parts=[{"type": "text"}])
    again = await store.turn(Identity("slack", "U1"), "slack", "C1", [with_parts])

    assert user is not None
    assert (taken.user_created, created, taken.user.id, by_store.id) == (True, False, user.id, user.id)
    assert (user.display_name, taken.user.display_name, taken.user.telegram_id) == ("Ada", "Ada", None)
    assert (taken.user.is_person, channel.user.is_person) == (True, False)
    assert again.conversation.id == taken.conversation.id
    assert [message.message_id for message in again.recent] == ["1"]


@pytest.mark.usefixtures("cloned_database")
async def test_concurrent_calls_create_one_user() -> None:
    store = get_store()

    async def by_repository() -> tuple[Any, bool]:
        async with get_db() as session:
            user, created = await UserRepository(session).get_or_create_by_identity("google", "1")
            return user.id, created

    async def by_turn(number: int) -> tuple[Any, bool]:
        taken = await store.turn(Identity("google", "1"), "web", "1", [a_message(str(number))])
        return taken.user.id, taken.user_created

    found = await asyncio.gather(*(by_turn(number) for number in range(8)), *(by_repository() for _ in range(8)))

    assert len({user_id for user_id, _ in found}) == 1
    assert sum(created for _, created in found) == 1
    async with get_db() as session:
        assert await UserRepository(session).count() == 1


async def test_concurrent_changes_of_identities_leave_each_live_user_its_identity(
    cloned_database: URL, superuser: psycopg.Connection
) -> None:
    async def change(number: int) -> None:
        identity = ("google", str(number % 3))
        # Nothing is written if the user has changed meanwhile, or if two of the larger transactions deadlock.
        with suppress(DuplicateKeyError, NotFoundError, DeadlockError):
            async with get_db() as session:
                users = UserRepository(session)
                user, _ = await users.get_or_create_by_identity(*identity)
                match number % 4:
                    case 1:
                        await users.delete(user.id)
                    case 2:
                        await users.unlink(user.id, *identity)
                        await users.link(user.id, *identity)
                    case 3:
                        other, _ = await users.get_or_create_by_telegram_id(1)
                        await users.link(other.id, *identity)

    await asyncio.gather(*(change(number) for number in range(24)))

    without = superuser.execute(
        "SELECT id FROM users AS u WHERE deleted_at IS NULL AND telegram_id IS NULL AND NOT EXISTS"
        " (SELECT FROM user_identities AS i WHERE i.tenant_id = u.tenant_id AND i.user_id = u.id)"
    ).fetchall()
    assert without == []
    assert superuser.execute("SELECT count(*) FROM user_identities").fetchone() == (3,)
