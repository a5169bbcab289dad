"""Get or start the active conversation of a user in a chat; close conversations, and replace their summaries."""

from __future__ import annotations

from datetime import datetime, timedelta
from typing import Any, Final
from uuid import UUID

from sqlalchemy import CTE, ColumnElement, Interval, func, literal, select

from src.database.base import UtcDateTime, check_id, check_time, clean_text, uuid7
from src.database.errors import ForeignKeyError, NotFoundError, StaleDataError
from src.database.limits import CHANNEL, CHAT_ID
from src.database.models import Conversation
from src.database.pagination import MAX_LIMIT, check_limit
from src.database.session import AsyncSession
from src.database.statements.call import Call
from src.database.statements.in_session import InSession, entity_columns
from src.database.statements.turn_leases import is_there, statement_time
from src.database.statements.updating import update_one, update_rows
from src.database.statements.windows import MAX_SEQ

__all__ = ["check_silence", "close", "close_stale", "get_or_start_conversation", "set_summary", "stored_chat"]

IDLE: Final = "idle"
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


async def close(session: AsyncSession, conversation_id: UUID, reason: str | None) -> Conversation | None:
    """Close a conversation that is active, or return None."""
    this_one = is_there(session, conversation_id)
    is_active = Conversation.is_active.is_(True)
    return await update_one(session, Conversation, *this_one, is_active, **_closed(reason, statement_time()))


async def close_stale(
    session: AsyncSession, idle_for: timedelta, *, limit: int, now: datetime | None
) -> list[Conversation]:
    """Close a batch of conversations without a message for so long; see `ConversationRepository.close_stale`."""
    check_limit(limit)
    check_silence("idle_for", idle_for, now)
    at = statement_time() if now is None else literal(now, UtcDateTime())
    idle = _idle(session, at - literal(idle_for, Interval()), limit)
    closed = await update_rows(session, Conversation, Conversation.id == idle.c.id, **_closed(IDLE, at))
    return sorted(closed, key=lambda one: (one.last_message_at or one.created_at, one.id))


async def set_summary(
    session: AsyncSession, conversation_id: UUID, summary: str, *, upto_seq: int, expected_upto: int
) -> Conversation:
    """Replace the summary, unless another writer has done so; see `ConversationRepository.set_summary`."""
    for name, number in (("upto_seq", upto_seq), ("expected_upto", expected_upto)):
        if type(number) is not int or number > MAX_SEQ:
            raise ValueError(f"{name} must be at most 2^63 - 1, and whole, got {number!r}")
    if not 0 <= expected_upto < upto_seq:
        raise ValueError(
            f"upto_seq must be greater than expected_upto, got {upto_seq} after {expected_upto};"
            " a summary only ever moves forward"
        )
    fits = (Conversation.summary_upto_seq == expected_upto, Conversation.last_seq >= upto_seq)
    new = {"summary": summary, "summary_upto_seq": upto_seq}
    written = await update_one(session, Conversation, *is_there(session, conversation_id), *fits, **new)
    return written or await _refuse_summary(session, conversation_id, upto_seq, expected_upto)


def _closed(reason: str | None, at: ColumnElement[datetime]) -> dict[str, Any]:
    return {"is_active": False, "closed_at": at, "close_reason": reason}


def _idle(session: AsyncSession, since: ColumnElement[datetime], limit: int) -> CTE:
    """Lock some that have been silent since then, the longest silent first.

    Those are the first of the active ones by ix_conversations_idle, and no more of it is read: the planner takes
    COALESCE for leaky and, under row-level security, compares it with nothing inside of an index. How far it reads
    leaves room for what other workers hold.
    """
    active = (
        Conversation.tenant_id == session.tenant_id,
        Conversation.is_active,
        Conversation.deleted_at.is_(None),
    )
    first = select(Conversation.tenant_id, Conversation.id, _last_active().label("since")).where(*active)
    oldest = first.order_by(_last_active()).limit(limit + MAX_LIMIT).subquery("oldest")
    return (
        select(Conversation.id)
        .join(oldest, (oldest.c.tenant_id == Conversation.tenant_id) & (oldest.c.id == Conversation.id))
        .where(*active, oldest.c.since < since, _last_active() < since)  # once more as it is under its lock
        .order_by(oldest.c.since)
        .limit(limit)
        .with_for_update(skip_locked=True, of=Conversation)
        # Once: inside `IN (…)` the planner may run it again for each row, and the limit with it.
        .cte("idle")
        .prefix_with("MATERIALIZED")
    )


async def _refuse_summary(
    session: AsyncSession, conversation_id: UUID, upto_seq: int, expected_upto: int
) -> Conversation:
    """Say why, and leave in the session what there is now: the caller reads it there, and begins again."""
    there = select(Conversation).where(*is_there(session, conversation_id))
    row: Conversation | None = await session.scalar(there.execution_options(populate_existing=True))
    if row is None:
        raise NotFoundError(f"this tenant has no Conversation with id {conversation_id}")
    if row.summary_upto_seq == expected_upto and upto_seq > row.last_seq:
        raise ValueError(f"upto_seq must be at most the conversation's last_seq, {row.last_seq}, got {upto_seq}")
    raise StaleDataError(
        f"the summary of conversation {conversation_id} goes up to {row.summary_upto_seq}, not {expected_upto}",
        hint="another writer was faster; read the conversation again, and summarise from there",
    )


def _last_active() -> ColumnElement[datetime]:
    return func.coalesce(Conversation.last_message_at, Conversation.created_at)  # as ix_conversations_idle has it
