"""Code from the documentation of an existing service, unchanged."""

from __future__ import annotations

import pytest
from sqlalchemy import URL, select
from sqlalchemy.orm import selectinload

from src.config import get_logger, get_settings
from src.database import get_db
from src.database.base import Base, utc_now
from src.database.errors import LazyLoadError
from src.database.models import Conversation, Event, MessageHistory, Note, User
from src.database.repositories import (
    ConversationRepository,
    EventRepository,
    MessageHistoryRepository,
    NoteRepository,
    UserRepository,
)

pytestmark = pytest.mark.usefixtures("cloned_database")


@pytest.fixture
async def user(cloned_database: URL) -> User:
    async with get_db() as session:
        user, _ = await UserRepository(session).get_or_create_by_telegram_id(12345)
        session.add_all([Event(user_id=user.id, title=str(n), start_datetime=utc_now()) for n in range(2)])
    return user


async def test_eager_loading(user: User) -> None:
    async with get_db() as session:
        users = await session.execute(select(User).options(selectinload(User.events)))

        [found] = users.scalars()
        assert found.id == user.id
        assert len(found.events) == 2


async def test_get_by_a_bare_id(user: User) -> None:
    user_id = user.id
    async with get_db() as session:
        found = await session.get(User, user_id)

        assert found is not None
        assert found.telegram_id == 12345


async def test_a_query_with_parameters(user: User) -> None:
    user_id = 12345
    async with get_db() as session:
        result = await session.execute(select(User).where(User.telegram_id == user_id))

        assert result.scalar_one().id == user.id


@pytest.mark.usefixtures("user")
async def test_the_n_plus_1_problem_of_the_document_is_an_error_with_its_remedy() -> None:
    async with get_db() as session:
        users = await session.execute(select(User))
        for user in users.scalars():
            with pytest.raises(LazyLoadError, match=r"options=\[selectinload\(User\.events\)\]"):
                _ = user.events


def test_the_tables_are_those_of_the_document() -> None:
    assert {"users", "events", "notes", "conversations", "message_history"} <= set(Base.metadata.tables)
    assert {model.__tablename__ for model in (User, Event, Note, Conversation, MessageHistory)} <= set(
        Base.metadata.tables
    )


def test_settings_and_loggers_are_used_as_in_the_document() -> None:
    DATABASE_URL = get_settings().DATABASE_URL  # noqa: N806 - as written there

    assert DATABASE_URL is not None
    assert DATABASE_URL.drivername == "postgresql+asyncpg"
    assert get_logger(__name__) is not None


def test_star_imports_have_the_names_of_the_document() -> None:
    names: dict[str, object] = {}

    exec(  # noqa: S102 - a star import is only allowed at the top of a module
        "from src.config.constants import *\n"
        "from src.database.models import *\n"
        "from src.database.repositories import *\n",
        names,
    )

    assert names["User"] is User
    repositories = (
        EventRepository,
        NoteRepository,
        ConversationRepository,
        MessageHistoryRepository,
        UserRepository,
    )
    assert all(names[repository.__name__] is repository for repository in repositories)
