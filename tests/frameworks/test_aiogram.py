"""SessionMiddleware in aiogram's dispatcher: one transaction an update, its tenant, and what runs outside of both."""

from __future__ import annotations

from typing import Any
from uuid import UUID

import pytest
from aiogram import Dispatcher
from aiogram.dispatcher.event.bases import UNHANDLED, SkipHandler
from aiogram.methods import SendMessage
from aiogram.types import ErrorEvent, Message, TelegramObject

from src.database import AsyncSession, current_tenant, get_db, get_read_db, tenant_context
from src.database.errors import DuplicateKeyError, SessionClosed
from src.database.integrations.aiogram import SessionMiddleware
from src.database.models import User
from src.database.repositories import TenantRepository, UserRepository
from tests.frameworks.mocked_bot import MockedBot, update_of

pytestmark = pytest.mark.usefixtures("tenants")


def dispatcher_with(middleware: SessionMiddleware | None = None) -> Dispatcher:
    """Return a dispatcher that adds a user for each message, and fails after it if the text is `fail`."""
    dispatcher = Dispatcher()
    dispatcher.update.outer_middleware(middleware or SessionMiddleware())

    @dispatcher.message()
    async def add(message: Message, session: AsyncSession) -> SendMessage:
        await UserRepository(session).add(User(telegram_id=message.chat.id))
        if message.text == "fail":
            raise ArithmeticError
        return message.answer("Saved")

    return dispatcher


async def telegram_ids() -> list[int | None]:
    async with get_read_db() as session:
        return sorted([user.telegram_id async for user in UserRepository(session).stream()], key=str)


async def test_commits_an_update_whose_handler_returns_and_rolls_back_one_that_raises() -> None:
    dispatcher, bot = dispatcher_with(), MockedBot()
    await dispatcher.feed_update(bot, update_of(1))
    with pytest.raises(ArithmeticError):
        await dispatcher.feed_update(bot, update_of(2, "fail"))

    assert await telegram_ids() == [1]


async def test_an_error_at_commit_is_raised_before_the_returned_method_is_sent() -> None:
    dispatcher, bot = Dispatcher(), MockedBot()
    dispatcher.update.outer_middleware(SessionMiddleware())

    @dispatcher.message()
    async def add(message: Message, session: AsyncSession) -> SendMessage:
        session.add(User(telegram_id=message.chat.id))
        return message.answer("Saved")

    await dispatcher.feed_webhook_update(bot, update_of(1))
    with pytest.raises(DuplicateKeyError):
        await dispatcher.feed_update(bot, update_of(1))

    assert await telegram_ids() == [1]
    assert bot.texts == []  # a webhook's answer is returned to Telegram


async def test_a_handler_of_errors_runs_after_the_rollback_and_its_session_is_closed() -> None:
    dispatcher, bot = dispatcher_with(), MockedBot()
    seen: list[object] = []

    @dispatcher.errors()
    async def report(event: ErrorEvent, session: AsyncSession | None = None) -> str:
        seen.extend([type(event.exception), await telegram_ids(), session])
        return "reported"

    assert await dispatcher.feed_update(bot, update_of(1, "fail")) == "reported"
    assert seen[:2] == [ArithmeticError, []]
    assert seen[2] is None or await refuses(seen[2])


async def refuses(session: Any) -> bool:
    with pytest.raises(SessionClosed):
        await UserRepository(session).count()
    return True


async def test_a_handler_that_skips_shares_its_transaction_with_the_next_one() -> None:
    dispatcher = Dispatcher()
    dispatcher.update.outer_middleware(SessionMiddleware())
    sessions: list[AsyncSession] = []

    @dispatcher.message()
    async def first(_message: Message, session: AsyncSession) -> None:
        sessions.append(session)
        raise SkipHandler

    @dispatcher.message()
    async def second(_message: Message, session: AsyncSession) -> None:
        sessions.append(session)

    await dispatcher.feed_update(MockedBot(), update_of(1))

    assert len(sessions) == 2
    assert sessions[0] is sessions[1]


@pytest.mark.parametrize("is_async", [False, True])
async def test_the_tenant_is_that_of_the_update(tenants: dict[str, UUID], is_async: bool) -> None:
    slugs = {1: "acme", 2: "globex"}

    def tenant_of(_update: TelegramObject, data: dict[str, Any]) -> str:
        return slugs[data["bot"].id]

    async def tenant_of_later(_update: TelegramObject, data: dict[str, Any]) -> UUID | str | None:
        return tenants[slugs[data["bot"].id]]

    dispatcher = dispatcher_with(SessionMiddleware(tenant_of_later if is_async else tenant_of))
    for bot_id in (1, 2):
        await dispatcher.feed_update(MockedBot(bot_id), update_of(10 + bot_id))

    assert current_tenant() is None
    for slug, telegram_id in (("acme", 11), ("globex", 12)):
        with tenant_context(tenants[slug]):
            assert await telegram_ids() == [telegram_id]


@pytest.mark.parametrize("slug", [None, "nothing", "acme"])
async def test_an_update_without_an_active_tenant_is_not_handled(tenants: dict[str, UUID], slug: str | None) -> None:
    async with get_db() as session:
        await TenantRepository(session).suspend(tenants["acme"])
    dispatcher = dispatcher_with(SessionMiddleware(lambda *_: slug))

    assert await dispatcher.feed_update(MockedBot(), update_of(1)) is UNHANDLED


async def test_middleware_that_is_registered_later_has_the_session_and_the_tenant(tenants: dict[str, UUID]) -> None:
    dispatcher, seen = dispatcher_with(SessionMiddleware(lambda *_: "acme")), list[object]()

    async def later(handler: Any, event: TelegramObject, data: dict[str, Any]) -> Any:
        seen.append(current_tenant())
        await handler(event, data)
        await UserRepository(data["session"]).add(User(telegram_id=99))

    dispatcher.update.outer_middleware(later)
    await dispatcher.feed_update(MockedBot(), update_of(1))

    assert seen == [tenants["acme"]]
    with tenant_context(tenants["acme"]):
        assert await telegram_ids() == [1, 99]
