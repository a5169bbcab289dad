"""A conversation to append to, and short forms of messages."""

from __future__ import annotations

from typing import Any

import pytest

from src.database.models import Conversation, User
from src.database.repositories import ConversationRepository, MessageHistoryRepository, NewMessage
from src.database.session import AsyncSession


def message(key: str = "t:bot:1:1", content: str | None = "hola", **more: Any) -> NewMessage:
    return NewMessage(**{"message_id": key, "role": "user", "content": content, **more})


def call(key: str, *call_ids: str, name: str = "id") -> NewMessage:
    """An assistant's message that calls tools."""
    return message(key, None, role="assistant", parts=[{"type": "tool_use", name: call_id} for call_id in call_ids])


def result(key: str, call_id: str | None, **more: Any) -> NewMessage:
    return message(key, role="tool", tool_call_id=call_id, **more)


@pytest.fixture
def messages(session: AsyncSession) -> MessageHistoryRepository:
    return MessageHistoryRepository(session)


@pytest.fixture
async def conversation(session: AsyncSession, user: User) -> Conversation:
    found, _ = await ConversationRepository(session).get_or_start(user.id, "telegram", "1")
    return found
