"""Open a conversation under a caller's session id; empty, copy and delete conversations."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping, Sequence
from hashlib import sha256
from typing import Any, Final, Protocol, TypeVar
from uuid import UUID

from sqlalchemy.orm.attributes import set_committed_value

from src.database.base import check_id, clean_text, uuid7
from src.database.errors import DuplicateKeyError, ForeignKeyError
from src.database.json_values import json_text
from src.database.models import Conversation, MessageHistory, limits
from src.database.session import AsyncSession
from src.database.statements.call import Call, Sender
from src.database.statements.conversations import check_is_last, check_token, stored_chat
from src.database.statements.in_session import InSession, entity_columns
from src.database.statements.rows import required
from src.database.statements.windows import MAX_SEQ, check_number

SESSION_CHANNEL: Final = "session"
SESSION_ID: Final = "session_id"
"""The key in `extra` of the full session id, if the column `session_id` has its hash."""
FORKED_FROM: Final = "forked_from"
"""The key in `extra` of the id of the conversation that a copy was made of."""
OPEN: Final[Call[Any]] = Call("app_open_conversation", 6, columns=entity_columns(Conversation))
FORK: Final[Call[Any]] = Call("app_fork_conversation", 6, columns=entity_columns(Conversation))
_DELETE: Final[Call[Any]] = Call("app_delete_conversation", 2)
_CLEAR: Final[Call[Any]] = Call("app_clear_conversation", 3)
_HASHED: Final = "sha256:"
_RENAMED: Final = "deleted:"  # as in app_open_conversation


class _Opened(Protocol):
    @property
    def id(self) -> UUID: ...
    @property
    def user_id(self) -> UUID: ...


OpenedT = TypeVar("OpenedT", bound=_Opened)
RowT = TypeVar("RowT")
Send = Callable[..., Awaitable[Sequence[RowT]]]
"""Sends one of the calls with these arguments, and returns its rows as conversations."""


async def open_by_session_id(
    send: Send[OpenedT], session_id: str, user_id: UUID, channel: str, extra: Mapping[str, Any] | None
) -> tuple[OpenedT, bool]:
    """Return the conversation of a session id, opened if there is none; see `ConversationRepository.open`."""
    key, hashed = stored_session_id(session_id)
    check_id("user_id", user_id)
    channel, _ = stored_chat(channel, None)
    extra = {} if extra is None else extra
    limits.Json("object").check("extra", extra)
    if SESSION_ID in extra:
        raise ValueError(
            f"extra must have no {SESSION_ID!r}: a session id that is too long for its column is kept there"
        )
    new_id = uuid7()
    rows = await send(key, user_id, channel, new_id, json_text({**extra, **hashed}, "extra"))
    if not rows:
        raise ForeignKeyError(f"this tenant has no User with id {user_id} to open a conversation for")
    [opened] = rows
    if str(opened.user_id) != str(user_id):
        raise DuplicateKeyError(
            "the session id is taken by a conversation of another user",
            constraint="uq_conversations_tenant_id_session_id",
            hint="session ids are unique within a tenant: add the user's id to the session id",
        )
    return opened, opened.id == new_id


async def fork(send: Send[RowT], conversation_id: UUID, upto_seq: int | None, session_id: str | None) -> RowT:
    """Copy a conversation; see `ConversationRepository.fork`."""
    check_id("conversation_id", conversation_id)
    upto = MAX_SEQ if upto_seq is None else check_number("upto_seq", upto_seq)
    new_id = uuid7()
    key, extra = (str(uuid7()), {}) if session_id is None else stored_session_id(session_id)
    rows = await send(
        conversation_id, upto, new_id, key, json_text(extra | {FORKED_FROM: str(conversation_id)}, "extra")
    )
    return required(rows[0] if rows else None, Conversation, conversation_id)


async def clear(sender: Sender, conversation_id: UUID, turn: int | None) -> tuple[int, Any]:
    """Delete all messages of a conversation softly; see `ConversationRepository.clear`.

    Returns:
        The number of messages, and the time at which they were deleted.
    """
    check_id("conversation_id", conversation_id)
    check_token(turn)
    [done] = await sender.call(_CLEAR, conversation_id, turn)
    outcome, count, token, cleared_at = done
    required(None if outcome == "no_conversation" else done, Conversation, conversation_id)
    if outcome == "lost_turn":
        check_is_last(turn, token)
    return count, cleared_at


async def clear_in_session(session: AsyncSession, conversation_id: UUID, turn: int | None) -> int:
    """Clear a conversation, and update the entities of the session."""
    sender = InSession(session)
    count, cleared_at = await clear(sender, conversation_id, turn)
    sender.refresh(Conversation, conversation_id, summary=None, summary_upto_seq=0, updated_at=cleared_at)
    for row in list(session.sync_session.identity_map.values()):
        if isinstance(row, MessageHistory) and row.__dict__.get("conversation_id") == conversation_id:
            for name in ("deleted_at", "updated_at"):
                set_committed_value(row, name, cleared_at)
    return count


def given_session_id(conversation: Conversation) -> str:
    """Return the session id of a conversation in full."""
    # Not `extra` first: a copy has the `extra` of its origin.
    is_hashed = conversation.session_id.startswith(_HASHED)
    session_id: str = conversation.extra[SESSION_ID] if is_hashed else conversation.session_id
    return session_id


async def delete(sender: Sender, conversation_id: UUID) -> None:
    """Delete a conversation softly; see `ConversationRepository.delete`."""
    check_id("conversation_id", conversation_id)
    [(deleted_at,)] = await sender.call(_DELETE, conversation_id)
    required(deleted_at, Conversation, conversation_id)
    if isinstance(sender, InSession):
        sender.refresh(Conversation, conversation_id, deleted_at=deleted_at, updated_at=deleted_at)


def stored_session_id(session_id: Any) -> tuple[str, dict[str, Any]]:
    """Return a session id as it is stored, and what `extra` has to keep.

    An id that the column cannot store unchanged is stored as its hash. So is an id that looks like a hash, or like that
    of a deleted conversation.

    Raises:
        ValueError: The session id is empty or not a string.
    """
    if not isinstance(session_id, str) or not session_id:
        got = "an empty string" if session_id == "" else type(session_id).__name__
        raise ValueError(f"session_id must be a string that is not empty, got {got}")
    is_plain = len(session_id) <= limits.SESSION_ID.maximum and clean_text(session_id) == session_id
    if is_plain and not session_id.startswith((_HASHED, _RENAMED)):
        return session_id, {}
    digest = sha256(session_id.encode("utf-8", "surrogatepass")).hexdigest()
    return f"{_HASHED}{digest}", {SESSION_ID: session_id}
