"""UserRepository: found, or made exactly once."""

from __future__ import annotations

import pytest

from src.database.errors import CheckViolation
from src.database.models import User
from src.database.repositories import UserRepository
from src.database.tenancy import AsyncSession


@pytest.fixture
def users(session: AsyncSession) -> UserRepository:
    return UserRepository(session)


async def test_makes_a_user_once(users: UserRepository) -> None:
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


async def test_refuses_a_zone_that_is_none(users: UserRepository) -> None:
    with pytest.raises(ValueError, match="timezone must be an IANA name like Europe/Madrid, got 'Mars/Olympus'"):
        await users.get_or_create_by_telegram_id(42, timezone="Mars/Olympus")


async def test_refuses_an_attribute_that_is_none(users: UserRepository) -> None:
    with pytest.raises(ValueError, match="User has no attribute 'nick'"):
        await users.get_or_create_by_telegram_id(42, nick="x")


async def test_the_database_refuses_a_name_that_is_too_long(users: UserRepository) -> None:
    with pytest.raises(CheckViolation) as caught:
        await users.add(User(username="x" * 65))

    assert caught.value.constraint == "ck_users_username"
    assert "xxxx" not in str(caught.value)
