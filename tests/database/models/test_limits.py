"""A value outside its limit raises a ValueError that names the attribute, before anything is sent, on both paths."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any, Final

import pytest
from sqlalchemy import URL, func

from src.config import Settings
from src.database import get_db
from src.database.base import Base, uuid7
from src.database.models import Conversation, MessageHistory, StateEntry, User, UserIdentity
from src.database.models.limits import LIMITS
from src.database.repositories import ConversationRepository, MessageHistoryRepository, NewMessage, UserRepository
from src.database.session import AsyncSession
from src.database.store import Profile, get_store
from tests.database.repositories.messages.conftest import message

UNREACHABLE: Final = URL.create("postgresql+asyncpg", "nobody", host="127.0.0.1", port=1, database="none")
"""No server is there: whatever is sent raises ConnectionFailed."""

BEYOND: Final[dict[type[Base], dict[str, list[Any]]]] = {
    User: {
        "username": ["", "x" * 65, 7],
        "display_name": ["", "x" * 257],
        "locale": ["e", "x" * 36],
        "timezone": ["", "x" * 65],
        "retention_days": [0, -1, 2**31, True, "7"],
        "preferences": [None, [], "x"],
        "extra": [None, [], "x"],
    },
    UserIdentity: {
        "provider": ["", "x" * 256, 7, "a\0", "\ud800", "telegram", "Telegram"],
        "subject": ["", "x" * 256, 7, "a\0", "\ud800"],
        "extra": [None, []],
    },
    StateEntry: {
        "namespace": ["", "x" * 256, 7],
        "key": ["", "x" * 513, 7],
        "version": [0, -1],
        "extra": [None, []],
    },
    Conversation: {
        "session_id": ["", "x" * 256],
        "channel": ["", "x" * 65],
        "external_chat_id": ["", "x" * 256, 7],
        "last_seq": [-1],
        "summary_upto_seq": [-1],
        "turn_token": [-1],
        "extra": [None, []],
    },
    MessageHistory: {
        "message_id": ["", "x" * 513],
        "role": ["", "admin", 7],
        "state": ["done"],
        "parts": [{}, "x"],
        "attachments": [None, {}],
        "tool_call_id": ["x" * 256],
        "input_tokens": [-1, 2**31, 0.5],
        "output_tokens": [-1],
        "token_count": [-1],
        "seq": [0, -1],
        "fingerprint": [b"", b"x" * 33, "x" * 32],
        "extra": [None, []],
    },
}
CASES: Final = [(model, name, value) for model, of in BEYOND.items() for name, values in of.items() for value in values]
OF_PROFILE: Final = ("username", "display_name", "locale", "timezone")


@pytest.fixture
def unreachable(use_database: Callable[..., Settings]) -> None:
    use_database(UNREACHABLE, DATABASE_DEFAULT_TENANT=str(uuid7()))


def of(model: type[Base], *names: str) -> list[tuple[str, Any]]:
    return [(name, value) for name, values in BEYOND[model].items() for value in values if name in names or not names]


def test_every_limit_has_its_cases() -> None:
    assert {model.__tablename__: set(names) for model, names in BEYOND.items()} == {
        table: set(limits) for table, limits in LIMITS.items()
    }


@pytest.mark.parametrize(("model", "name", "value"), CASES)
def test_an_entity_rejects_the_value(model: type[Base], name: str, value: Any) -> None:
    entity = model()

    with pytest.raises(ValueError, match=name):
        model(**{name: value})
    with pytest.raises(ValueError, match=name):
        setattr(entity, name, value)


@pytest.mark.parametrize(("name", "value"), of(User))
@pytest.mark.usefixtures("unreachable")
async def test_repositories_reject_the_value_of_a_user_before_sending(name: str, value: Any) -> None:
    async with get_db() as session:
        users = UserRepository(session)
        calls: list[Callable[[], Awaitable[Any]]] = [
            lambda: users.update(uuid7(), **{name: value}),
            lambda: users.upsert({"telegram_id": 1, name: value}, key=["telegram_id"]),  # type: ignore[misc] # any attribute
            lambda: users.get_or_create_by_telegram_id(1, **{name: value}),
        ]
        for call in calls:
            with pytest.raises(ValueError, match=f"{name} must be"):
                await call()


@pytest.mark.parametrize(("name", "value"), of(Conversation, "session_id", "channel", "external_chat_id", "extra"))
@pytest.mark.usefixtures("unreachable")
async def test_repositories_reject_the_value_of_a_conversation_before_sending(name: str, value: Any) -> None:
    async with get_db() as session:
        conversations = ConversationRepository(session)
        with pytest.raises(ValueError, match=f"{name} must be"):
            await conversations.update(uuid7(), **{name: value})
        with pytest.raises(ValueError, match=f"{name} must be"):
            await conversations.upsert({"session_id": "1", name: value}, key=["session_id"])  # type: ignore[misc] # any attribute


@pytest.mark.parametrize(("name", "value"), [*of(Conversation, "channel", "external_chat_id"), ("channel", None)])
@pytest.mark.usefixtures("unreachable")
async def test_both_paths_reject_the_value_of_a_chat_before_sending(name: str, value: Any) -> None:
    chat: Any = {"channel": "telegram", "external_chat_id": "1"} | {name: value}

    async with get_db() as session:
        with pytest.raises(ValueError, match=f"{name} must be"):
            await ConversationRepository(session).get_or_start(uuid7(), **chat)
    with pytest.raises(ValueError, match=f"{name} must be"):
        await get_store().turn(1, chat["channel"], chat["external_chat_id"], [message()])


@pytest.mark.parametrize(("name", "value"), of(User, *OF_PROFILE))
@pytest.mark.usefixtures("unreachable")
async def test_the_store_rejects_the_value_of_a_profile_before_sending(name: str, value: Any) -> None:
    profile = Profile(**{name: value})

    with pytest.raises(ValueError, match=f"{name} must be"):
        await get_store().get_or_create_user(1, profile)
    with pytest.raises(ValueError, match=f"{name} must be"):
        await get_store().turn(1, "telegram", None, [message()], profile=profile)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        *((name, value) for name, value in of(MessageHistory) if name not in {"seq", "fingerprint"}),
        *((name, None) for name in ("message_id", "role", "state")),
    ],
)
def test_a_new_message_rejects_the_value(name: str, value: Any) -> None:
    values: Any = {"message_id": "1", "role": "user"} | {name: value}

    with pytest.raises(ValueError, match=f"{name} must be"):
        NewMessage(**values)


@pytest.mark.parametrize(("name", "value"), of(MessageHistory, "parts", "input_tokens", "output_tokens", "token_count"))
@pytest.mark.usefixtures("unreachable")
async def test_ending_an_answer_rejects_the_value_before_sending(name: str, value: Any) -> None:
    values: Any = {name: value}

    async with get_db() as session:
        messages = MessageHistoryRepository(session)
        with pytest.raises(ValueError, match=f"{name} must be"):
            await messages.mark_complete("1", **values)
        with pytest.raises(ValueError, match=f"{name} must be"):
            await messages.update(uuid7(), **values)
        if name != "parts":
            with pytest.raises(ValueError, match=f"{name} must be"):
                await messages.mark_interrupted("1", **values)


async def test_values_at_the_limits_are_stored(session: AsyncSession) -> None:
    user = await UserRepository(session).add(
        User(username="x" * 64, display_name="ð" * 256, locale="es", retention_days=1, preferences={})
    )
    conversation = await ConversationRepository(session).add(
        Conversation(user_id=user.id, session_id="x" * 255, channel="x" * 64, external_chat_id="x" * 255)
    )
    new = NewMessage(message_id="x" * 512, role="tool", tool_call_id="\ud83d\ude00" * 255, parts=[], token_count=0)

    appended = await MessageHistoryRepository(session).append(conversation.id, new)

    assert (appended.inserted, appended.message.token_count) == (True, 0)


async def test_an_expression_is_evaluated_by_the_server(session: AsyncSession, user: User) -> None:
    changed = await UserRepository(session).update(user.id, username=func.lower("ADA"))

    await session.refresh(changed)
    assert changed.username == "ada"
