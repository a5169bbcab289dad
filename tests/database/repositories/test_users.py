"""UserRepository: lookup, and creation exactly once."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from datetime import datetime, timedelta
from typing import Any

import pytest
from sqlalchemy import func, select, text

from src.database.base import utc_now, uuid7
from src.database.errors import NotFoundError
from src.database.models import User
from src.database.repositories import UserRepository
from src.database.session import AsyncSession


@pytest.fixture
def users(session: AsyncSession) -> UserRepository:
    return UserRepository(session)


async def test_creates_a_user_once(users: UserRepository) -> None:
    user, created = await users.get_or_create_by_telegram_id(42, display_name="Ada", timezone="Europe/Madrid")
    again, created_again = await users.get_or_create_by_telegram_id(42, display_name="Other")

    assert created
    assert not created_again
    assert again.id == user.id
    assert (user.display_name, user.timezone) == ("Ada", "Europe/Madrid")


async def test_a_deleted_users_id_is_free_again(users: UserRepository) -> None:
    user, _ = await users.get_or_create_by_telegram_id(42)
    await users.delete(user.id)

    successor, created = await users.get_or_create_by_telegram_id(42)

    assert created
    assert successor.id != user.id
    assert await users.get_by_telegram_id(42) is successor


async def test_rejects_an_invalid_zone(users: UserRepository) -> None:
    with pytest.raises(ValueError, match="timezone must be an IANA name like Europe/Madrid, got 'Mars/Olympus'"):
        await users.get_or_create_by_telegram_id(42, timezone="Mars/Olympus")


async def test_rejects_an_attribute_that_is_none(users: UserRepository) -> None:
    with pytest.raises(ValueError, match="User has no attribute 'nick'"):
        await users.get_or_create_by_telegram_id(42, nick="x")  # type: ignore[call-arg] # what is tested


async def test_rejects_a_name_that_is_too_long_without_repeating_it(users: UserRepository) -> None:
    with pytest.raises(ValueError, match="username must be 1 to 64 characters, got 65") as caught:
        await users.add(User(username="x" * 65))

    assert "xxxx" not in str(caught.value)


@pytest.mark.parametrize("zone", ["Mars/Olympus", "", "../etc/passwd", "Europe", "x" * 300, "UTC\0"])
async def test_a_zone_is_checked_by_every_method(users: UserRepository, user: User, zone: str) -> None:
    ways: list[Callable[[], Awaitable[object]]] = [
        lambda: users.add(User(timezone=zone)),
        lambda: users.add_many([User(), User(timezone=zone)]),
        lambda: users.update(user.id, timezone=zone),
        lambda: users.upsert({"telegram_id": 1, "timezone": zone}, key=["telegram_id"]),
        lambda: users.get_or_create_by_telegram_id(1, timezone=zone),
        lambda: users.set_timezone(user.id, zone),
    ]
    for way in ways:
        with pytest.raises(ValueError, match="timezone must be an IANA name"):
            await way()

    assert await users.count() == 1


@pytest.mark.parametrize("tag", ["e", "es_ES", "es-", "-es", "x" * 36, "es-toolongtag", "es ", "ñu", "es\n", ""])
async def test_a_locale_is_checked_by_every_method(users: UserRepository, user: User, tag: str) -> None:
    ways: list[Callable[[], Awaitable[object]]] = [
        lambda: users.add(User(locale=tag)),
        lambda: users.update(user.id, locale=tag),
        lambda: users.upsert({"telegram_id": 1, "locale": tag}, key=["telegram_id"]),
        lambda: users.get_or_create_by_telegram_id(1, locale=tag),
    ]
    for way in ways:
        with pytest.raises(ValueError, match="locale must be a language tag like es or pt-BR"):
            await way()


@pytest.mark.parametrize("tag", ["es", "pt-br", "zh-Hant-TW", "es-419", "x-private", "en-US-u-islamcal", None])
async def test_accepts_a_language_tag(users: UserRepository, tag: str | None) -> None:
    assert (await users.add(User(locale=tag))).locale == tag


async def test_sets_a_zone(users: UserRepository, user: User) -> None:
    assert await users.set_timezone(user.id, "America/Mexico_City") is user
    assert user.timezone == "America/Mexico_City"
    await users.delete(user.id)
    with pytest.raises(NotFoundError):
        await users.set_timezone(user.id, "UTC")


@pytest.mark.parametrize("typed", ["ada", "@ADA", "Ada"])
async def test_finds_a_username_as_people_type_it(users: UserRepository, typed: str) -> None:
    ada = await users.add(User(username="aDa"))
    await users.add(User(username="adam"))

    assert await users.get_by_username(typed) is ada
    assert await users.get_by_username("%") is None
    assert await users.get_by_username("a\0") is None


async def test_returns_the_user_seen_last_of_several_with_one_username(users: UserRepository) -> None:
    seen, _, deleted = await users.add_many([User(username="ada") for _ in range(3)])
    await users.touch_seen(seen.id)
    await users.touch_seen(deleted.id)
    await users.delete(deleted.id)

    assert await users.get_by_username("ada") is seen


async def test_seeing_a_user_again_within_a_minute_writes_nothing(users: UserRepository, user: User) -> None:
    now = utc_now()

    assert await users.touch_seen(user.id, now=now)
    assert not await users.touch_seen(user.id, now=now + timedelta(seconds=59))
    assert not await users.touch_seen(user.id, now=now - timedelta(days=1))
    assert user.last_seen_at == now
    assert await users.touch_seen(user.id, now=now + timedelta(seconds=60))
    assert user.last_seen_at == now + timedelta(seconds=60)


async def test_a_missing_user_is_not_marked_as_seen(users: UserRepository, user: User) -> None:
    await users.delete(user.id)

    assert not await users.touch_seen(user.id)
    assert not await users.touch_seen(uuid7())
    with pytest.raises(ValueError, match="now must be aware"):
        await users.touch_seen(user.id, now=datetime(2026, 1, 1))  # noqa: DTZ001 - a naive time is tested


@pytest.mark.parametrize("telegram_id", [None, 0, True, "1", 2**63, 1.0])
async def test_an_invalid_telegram_id_matches_no_user(session: AsyncSession, telegram_id: Any) -> None:
    users = UserRepository(session)
    await users.add(User(display_name="Ada"))

    for method in (users.get_by_telegram_id, users.get_or_create_by_telegram_id):
        with pytest.raises(ValueError, match="telegram_id must be a whole number above 0"):
            await method(telegram_id)


async def test_touching_users_leaves_the_indexes_as_they_are(users: UserRepository) -> None:
    made = await users.add_many([User(telegram_id=n, username=f"u{n}") for n in range(1, 201)])

    for user in made[::20]:
        await users.touch_seen(user.id)

    table = text("'users'::regclass")
    counted = select(func.pg_stat_get_xact_tuples_updated(table), func.pg_stat_get_xact_tuples_hot_updated(table))
    assert tuple((await users.session.execute(counted)).one()) == (10, 10)
