"""Get or start the active conversation of a user in a chat, at most one at a time."""

from __future__ import annotations

from datetime import datetime, timedelta
from typing import Any, Final
from uuid import UUID

from src.database.base import check_id, check_time, clean_text, uuid7
from src.database.errors import ForeignKeyError
from src.database.limits import CHANNEL, CHAT_ID
from src.database.models import Conversation
from src.database.statements.call import Call
from src.database.statements.in_session import InSession, entity_columns

__all__ = ["check_silence", "get_or_start_conversation", "stored_chat"]

LONGEST_SILENCE: Final = timedelta(days=36_500)
_GET_OR_START: Final[Call[Any]] = Call("app_get_or_start_conversation", 8, columns=entity_columns(Conversation))


async def get_or_start_conversation(
    sender: InSession,
    user_id: UUID,
    channel: str,
    external_chat_id: str | None,
    *,
    idle_timeout: timedelta | None,
    now: datetime | None,
) -> tuple[Conversation, bool]:
    """Return the active conversation of a user in a chat, started if there is none.

    Args:
        sender: Where the call is sent.
        user_id: The user.
        channel: The channel.
        external_chat_id: The chat's id in the channel; None is one chat too.
        idle_timeout: A conversation without a message for longer is closed, and another one started.
        now: The time that idleness is measured from; None is the present by the server's clock.

    Returns:
        The conversation, and whether this call started it.

    Raises:
        ForeignKeyError: The tenant has no such live user.
        ValueError: The timeout is negative or too long, `now` is naive or too early, or the channel or the chat's id
            has not the right length.
    """
    check_id("user_id", user_id)
    check_silence("idle_timeout", idle_timeout or timedelta(0), now)
    where = (user_id, *stored_chat(channel, external_chat_id))
    new_id = uuid7()
    rows = await sender.entities(
        _GET_OR_START, Conversation, *where, new_id, str(uuid7()), idle_timeout, now, refresh=True
    )
    active = [row for row in rows if row.is_active]  # beside those that the call closed
    if not active:
        raise ForeignKeyError(f"this tenant has no User with id {user_id} to start a conversation for")
    return active[0], active[0].id == new_id


def stored_chat(channel: str, external_chat_id: str | None) -> tuple[str, str | None]:
    """Return a chat's names as they are stored.

    Raises:
        ValueError: One of them is no text, or has not the right length.
    """
    if channel is None:
        raise ValueError("channel must be given, got None")
    CHANNEL.check("channel", channel)
    CHAT_ID.check("external_chat_id", external_chat_id)
    return clean_text(channel), None if external_chat_id is None else clean_text(external_chat_id)


def check_silence(name: str, value: timedelta, now: datetime | None = None) -> None:
    """Check a time without a message.

    Raises:
        ValueError: It is negative or too long, or `now` is naive or too early.
    """
    if not timedelta(0) <= value <= LONGEST_SILENCE:
        raise ValueError(f"{name} must be from zero to {LONGEST_SILENCE.days} days, got {value}")
    if now is not None:
        check_time("now", now, back=value)
