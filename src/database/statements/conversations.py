"""Get or start the active conversation of a chat; close, summarize and lock conversations."""

from __future__ import annotations

from datetime import datetime, timedelta
from typing import Any, Final
from uuid import UUID

from sqlalchemy import CTE, ColumnElement, Interval, literal, select

from src.database.base import UtcDateTime, check_duration, check_id, check_time, clean_text, uuid7
from src.database.errors import ForeignKeyError, StaleDataError
from src.database.models import Conversation, limits
from src.database.session import AsyncSession
from src.database.statements.call import Call
from src.database.statements.in_session import InSession, entity_columns
from src.database.statements.pagination import MAX_LIMIT, check_limit
from src.database.statements.rows import lock_one, required, statement_time, update_one, update_rows
from src.database.statements.windows import MAX_SEQ, last_active

IDLE: Final = "idle"
MAX_SILENCE: Final = timedelta(days=36_500)
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
    """Return the active conversation of a user in a chat, and start one if there is none.

    Args:
        sender: Sends the call.
        user_id: The user.
        channel: The channel.
        external_chat_id: The chat's id in the channel; None is a chat of its own.
        idle_timeout: A conversation without a message for longer is closed, and another one is started.
        now: The end of the idle time; None is the server's time.

    Returns:
        The conversation, and True if this call started it.

    Raises:
        ForeignKeyError: There is no active conversation, and the tenant has no such live user.
        ValueError: The timeout is negative or too long, `now` is naive or too early, or the channel or the chat's id
            is too short or too long.
    """
    check_id("user_id", user_id)
    check_silence("idle_timeout", idle_timeout or timedelta(0), now)
    where = (user_id, *stored_chat(channel, external_chat_id))
    new_id = uuid7()
    rows = await sender.entities(
        _GET_OR_START, Conversation, *where, new_id, str(uuid7()), idle_timeout, now, refresh=True
    )
    active = [row for row in rows if row.is_active]  # the call also returns conversations that it has closed
    if not active:
        raise ForeignKeyError(f"this tenant has no User with id {user_id} to start a conversation for")
    return active[0], active[0].id == new_id


def stored_chat(channel: str, external_chat_id: str | None) -> tuple[str, str | None]:
    """Return the channel and the id of a chat as they are stored.

    Raises:
        ValueError: One of them is not a string, or is too short or too long.
    """
    if channel is None:
        raise ValueError("channel must be a string, got None")
    limits.CHANNEL.check("channel", channel)
    limits.CHAT_ID.check("external_chat_id", external_chat_id)
    return clean_text(channel), None if external_chat_id is None else clean_text(external_chat_id)


def check_silence(name: str, value: timedelta, now: datetime | None = None) -> None:
    """Check a duration without a message.

    Raises:
        ValueError: The duration is negative or too long, or `now` is naive or too early.
    """
    check_duration(name, value)
    if not timedelta(0) <= value <= MAX_SILENCE:
        raise ValueError(f"{name} must be from zero to {MAX_SILENCE.days} days, got {value}")
    if now is not None:
        check_time("now", now, back=value)


async def close(session: AsyncSession, conversation_id: UUID, reason: str | None) -> Conversation | None:
    """Close a conversation and return it, or return None if it is closed already."""
    is_open = (*_live(conversation_id), Conversation.closed_at.is_(None))
    return await update_one(session, Conversation, *is_open, **_closed(reason, statement_time()))


async def close_stale(
    session: AsyncSession, idle_for: timedelta, *, limit: int, now: datetime | None
) -> list[Conversation]:
    """Close a batch of idle conversations; see `ConversationRepository.close_stale`."""
    check_limit(limit)
    check_silence("idle_for", idle_for, now)
    at = statement_time() if now is None else literal(now, UtcDateTime())
    idle = _idle(session, at - literal(idle_for, Interval()), limit)
    closed = await update_rows(session, Conversation, Conversation.id == idle.c.id, **_closed(IDLE, at))
    return sorted(closed, key=lambda one: (one.last_message_at or one.created_at, one.id))


async def set_summary(
    session: AsyncSession, conversation_id: UUID, summary: str, *, upto_seq: int, expected_upto: int
) -> Conversation:
    """Replace a summary unless another writer has; see `ConversationRepository.set_summary`."""
    for name, number in (("upto_seq", upto_seq), ("expected_upto", expected_upto)):
        if type(number) is not int or number > MAX_SEQ:
            raise ValueError(f"{name} must be an integer of at most 2^63 - 1, got {number!r}")
    if not 0 <= expected_upto < upto_seq:
        raise ValueError(
            f"upto_seq must be greater than expected_upto, got {upto_seq} after {expected_upto};"
            " a new summary must cover more messages than the last"
        )
    fits = (Conversation.summary_upto_seq == expected_upto, Conversation.last_seq >= upto_seq)
    new = {"summary": summary, "summary_upto_seq": upto_seq}
    if (written := await update_one(session, Conversation, *_live(conversation_id), *fits, **new)) is not None:
        return written
    # Refreshes the entity in the session too: the caller reads the current summary there, and begins again.
    there = select(Conversation).where(Conversation.tenant_id == session.tenant_id, *_live(conversation_id))
    found: Conversation | None = await session.scalar(there.execution_options(populate_existing=True))
    row = required(found, Conversation, conversation_id)
    if row.summary_upto_seq == expected_upto and upto_seq > row.last_seq:
        raise ValueError(f"upto_seq must be at most the conversation's last_seq, {row.last_seq}, got {upto_seq}")
    raise StaleDataError(
        f"the summary of conversation {conversation_id} goes up to {row.summary_upto_seq}, not {expected_upto}",
        hint="another writer has replaced the summary; read the conversation again, and continue from its"
        " summary_upto_seq",
    )


def _closed(reason: str | None, at: ColumnElement[datetime]) -> dict[str, Any]:
    return {"is_active": False, "closed_at": at, "close_reason": reason}


def _idle(session: AsyncSession, since: ColumnElement[datetime], limit: int) -> CTE:
    """Return a CTE that locks conversations without a message since an instant, the longest idle first.

    COALESCE is not leakproof, so that under row-level security the planner uses the condition on it neither as an index
    condition nor before the policy. But it uses the order of ix_conversations_idle: the subquery reads the first active
    conversations by idle time, with as many more as other workers may have locked, and the outer query compares them.
    """
    active = (Conversation.tenant_id == session.tenant_id, Conversation.is_active, Conversation.deleted_at.is_(None))
    first = select(Conversation.tenant_id, Conversation.id, last_active().label("since")).where(*active)
    oldest = first.order_by(last_active()).limit(limit + MAX_LIMIT).subquery("oldest")
    return (
        select(Conversation.id)
        .join(oldest, (oldest.c.tenant_id == Conversation.tenant_id) & (oldest.c.id == Conversation.id))
        # `last_active` is compared again with the row under its lock: a message may have arrived while waiting.
        .where(*active, oldest.c.since < since, last_active() < since)
        .order_by(oldest.c.since)
        .limit(limit)
        .with_for_update(skip_locked=True, of=Conversation)
        # MATERIALIZED, because the planner may execute a subquery of IN once for each row, each time with the LIMIT.
        .cte("idle")
        .prefix_with("MATERIALIZED")
    )


def check_token(turn: int | None) -> None:
    """Check that a value can be the token of a turn.

    Raises:
        ValueError: The value is not an integer, for example the `Turn` itself, or is out of range.
    """
    if turn is not None and (type(turn) is not int or not 0 <= turn <= MAX_SEQ):
        got = turn if type(turn) is int else f"a {type(turn).__name__}"
        raise ValueError(f"turn must be a token, an integer from 0 to 2^63 - 1, got {got}; pass `turn.token`")


def check_is_last(turn: int | None, last: int) -> None:
    """Check that a token is the last one that was issued; None passes.

    Raises:
        StaleDataError: Another worker has claimed the turn.
    """
    if turn is not None and turn != last:
        raise StaleDataError(
            f"turn must be the conversation's last token, {last}, got {turn}",
            hint="another worker answers now: discard the answer",
        )


async def lock_conversation(session: AsyncSession, conversation_id: UUID, turn: int | None) -> None:
    """Lock a conversation's row, and check the turn.

    This is a statement of its own: the snapshot of the next statement then includes what the previous holder of the
    lock committed.

    Raises:
        NotFoundError: The tenant has no such conversation.
        StaleDataError: Another worker has claimed the turn.
    """
    check_token(turn)
    conversation = await lock_one(session, Conversation, *_live(conversation_id))
    check_is_last(turn, required(conversation, Conversation, conversation_id).turn_token)


def _live(conversation_id: UUID) -> tuple[ColumnElement[bool], ...]:
    """Return the conditions of one live conversation, without that of the tenant."""
    check_id("conversation_id", conversation_id)
    return Conversation.id == conversation_id, Conversation.deleted_at.is_(None)
