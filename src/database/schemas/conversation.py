"""Conversations, from outside."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

from src.database.base import uuid7
from src.database.limits import CHANNEL, CHAT_ID, SESSION_ID
from src.database.schemas.base import NOT_GIVEN, CreateInput, UpdateInput
from src.database.schemas.fields import CLEAN, JsonObject, RowId, Text, sized

__all__ = ["ConversationCreate", "ConversationUpdate"]

SessionId = Annotated[str, sized(SESSION_ID), CLEAN]
Channel = Annotated[str, sized(CHANNEL), CLEAN]
ChatId = Annotated[str, sized(CHAT_ID), CLEAN]


class ConversationCreate(CreateInput):
    """A conversation to add; `get_or_start` finds or makes the active one of a chat."""

    user_id: RowId
    session_id: SessionId = Field(default_factory=lambda: str(uuid7()))
    channel: Channel
    external_chat_id: ChatId | None = None
    title: Text | None = None
    extra: JsonObject = Field(default_factory=dict)


class ConversationUpdate(UpdateInput):
    """What changes of a conversation; `close` and `set_summary` have rules of their own."""

    title: Text | None = NOT_GIVEN
    extra: JsonObject = NOT_GIVEN
