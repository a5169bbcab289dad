"""A bot of aiogram that records what it would send to Telegram, and the updates that Telegram would send."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from datetime import UTC, datetime
from typing import Any

from aiogram import Bot
from aiogram.client.session.base import BaseSession
from aiogram.methods import TelegramMethod
from aiogram.types import Chat, Message, Update


class RecordingSession(BaseSession):
    """A session that sends nothing."""

    def __init__(self) -> None:
        super().__init__()
        self.sent: list[TelegramMethod[Any]] = []

    async def make_request(self, bot: Bot, method: TelegramMethod[Any], timeout: int | None = None) -> Any:  # noqa: ASYNC109 - the interface
        self.sent.append(method)
        return True

    async def close(self) -> None:
        """There is nothing to close."""

    async def stream_content(self, *_arguments: Any, **_options: Any) -> AsyncGenerator[bytes, None]:
        raise NotImplementedError
        yield b""


class MockedBot(Bot):
    """A bot with this id."""

    def __init__(self, bot_id: int = 42) -> None:
        self.recording = RecordingSession()
        super().__init__(f"{bot_id}:token", session=self.recording)

    @property
    def texts(self) -> list[str]:
        """The texts of the methods that were sent."""
        return [str(getattr(method, "text", None)) for method in self.recording.sent]


def update_of(chat_id: int, text: str = "Hello") -> Update:
    """Return an update with a message of a private chat."""
    chat = Chat(id=chat_id, type="private")
    return Update(update_id=1, message=Message(message_id=1, date=datetime.now(UTC), chat=chat, text=text))
