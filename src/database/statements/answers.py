"""Extend a streamed answer, end it, and interrupt answers whose writers no longer respond.

Each write is one UPDATE whose conditions check the state, the content and the turn, so that no lock is held between two
statements. A message is read only if no row satisfies the conditions, or if the piece or the message has halves of
surrogate pairs.
"""

from __future__ import annotations

from datetime import timedelta
from operator import attrgetter
from typing import Any, Final, Literal

from sqlalchemy import ColumnElement, Text, case, func, literal, literal_column, null, select

from src.database.base import clean_text
from src.database.errors import NotFoundError, StaleDataError
from src.database.json_values import encode_json
from src.database.models import Conversation, MessageHistory, limits
from src.database.session import AsyncSession
from src.database.statements.conversations import MAX_SILENCE, check_is_last, check_token
from src.database.statements.pagination import check_limit
from src.database.statements.rows import statement_time, update_one, update_rows
from src.database.statements.split_characters import SPLIT, has_halves, is_the_same, sent_form, stored_form
from src.database.statements.windows import conversation_is_live

_MAX_CHARACTERS: Final = 2**30
"""More than a PostgreSQL text holds: its limit is 1 GB."""
_MAX_ATTEMPTS: Final = 10
"""The number of attempts to add a piece to a content that another writer keeps changing."""
# A literal, as in the predicate of ix_message_history_unfinished: with a parameter, the planner cannot prove that the
# partial index contains the rows.
_IS_INCOMPLETE: Final[ColumnElement[bool]] = MessageHistory.state == literal_column("'incomplete'")


async def extend(
    session: AsyncSession, message_id: str, content: str, *, offset: int, turn: int | None
) -> MessageHistory:
    """Add a piece to the content of an incomplete message, once; see `MessageHistoryRepository.extend`."""
    if type(offset) is not int or not 0 <= offset <= _MAX_CHARACTERS:
        raise ValueError(f"offset must be the number of characters before the piece, 0 to 2^30, got {offset!r}")
    if not has_halves(content):
        extended = await _extend_stored(session, message_id, clean_text(content), offset, turn)
        if extended is not None:
            return extended
    for _ in range(_MAX_ATTEMPTS):
        message = await _read(session, message_id, turn)
        split = message.extra.get(SPLIT)
        sent = sent_form(message.content or "", split)
        known = len(sent) - offset
        follows = known >= 0 and is_the_same(content[:known], sent[offset : offset + len(content)])
        if message.state != "incomplete":
            if follows and known >= len(content):
                return message
            raise _has_ended(message)
        if not follows:
            raise StaleDataError(
                f"the piece at {offset} does not continue the stored text, which has {len(sent)} characters",
                hint="send again from the offset of the first missing piece; only one writer may extend a message",
            )
        extended = await _replace(session, message, sent + content[known:], turn)
        if extended is not None:
            return extended
    raise StaleDataError(
        f"in each of {_MAX_ATTEMPTS} attempts, another writer changed the message between the read and the write",
        hint="only one writer may extend a message",
    )


async def end(
    session: AsyncSession, message_id: str, state: Literal["complete", "interrupted"], turn: int | None, **values: Any
) -> MessageHistory:
    """End an incomplete message; see `MessageHistoryRepository.mark_complete` and `mark_interrupted`."""
    limits.check_limits(limits.MESSAGES, values)
    given = {name: value for name, value in values.items() if value is not None}
    known = {name: clean_text(value) if isinstance(value, str) else value for name, value in given.items()}
    ended = await _change(session, message_id, turn, state=state, **known)
    if ended is not None:
        return ended
    message = await _read(session, message_id, turn)
    # As they are stored, because a tuple in `parts` is read as a list.
    stored = {name: encode_json(getattr(message, name), name) for name in known}
    if message.state == state and stored == {name: encode_json(value, name) for name, value in known.items()}:
        return message
    raise _has_ended(message)


async def interrupt_stale(session: AsyncSession, *, older_than: timedelta, limit: int) -> list[MessageHistory]:
    """Interrupt incomplete messages without a recent change; see `MessageHistoryRepository.interrupt_stale`."""
    check_limit(limit)
    if older_than <= timedelta(0):
        raise ValueError(f"older_than must be positive, got {older_than}")
    if older_than > MAX_SILENCE:
        raise ValueError(f"older_than must be at most {MAX_SILENCE.days} days, got {older_than.days}")
    stale = (
        select(MessageHistory.id)
        .where(
            MessageHistory.tenant_id == session.tenant_id,
            MessageHistory.deleted_at.is_(None),
            MessageHistory.updated_at < statement_time() - older_than,
            _IS_INCOMPLETE,
            conversation_is_live(session.tenant_id),
        )
        .order_by(MessageHistory.conversation_id, MessageHistory.seq)
        .limit(limit)
        .with_for_update(skip_locked=True)
        .cte("stale")
        .prefix_with("MATERIALIZED")
    )
    is_stale = MessageHistory.id == stale.c.id
    interrupt = {"state": "interrupted", "updated_at": statement_time()}
    interrupted = await update_rows(session, MessageHistory, is_stale, **interrupt)
    return sorted(interrupted, key=attrgetter("conversation_id", "seq"))


async def _extend_stored(
    session: AsyncSession, message_id: str, piece: str, offset: int, turn: int | None
) -> MessageHistory | None:
    """Add a piece to a message in one statement, or return None if the conditions of the statement do not hold.

    Neither the piece nor the message has halves of surrogate pairs: the server counts characters as the sender does.
    """
    stored = func.coalesce(MessageHistory.content, "")
    # The characters behind the offset: the piece, or its beginning, if it was sent before, and pieces after it.
    known = func.char_length(stored) - offset
    return await _change(
        session,
        message_id,
        turn,
        ~MessageHistory.extra.has_key(literal(SPLIT, Text)),
        known >= 0,
        func.substr(stored, offset + 1, len(piece)) == func.left(piece, known),
        content=stored.concat(func.substr(piece, known + 1)),
        token_count=case((known < len(piece), null()), else_=MessageHistory.token_count),
    )


async def _replace(
    session: AsyncSession, message: MessageHistory, sent: str, turn: int | None
) -> MessageHistory | None:
    """Replace the content by the text sent so far, unless another writer has changed the message since it was read."""
    content, split = stored_form(sent)
    extra = {name: value for name, value in message.extra.items() if name != SPLIT}
    return await _change(
        session,
        message.message_id,
        turn,
        MessageHistory.content.is_not_distinct_from(message.content),
        MessageHistory.extra == dict(message.extra),
        content=content,
        extra=extra | ({SPLIT: split} if split else {}),
        token_count=message.token_count if content == (message.content or "") else None,
    )


async def _change(
    session: AsyncSession, message_id: str, turn: int | None, *where: ColumnElement[bool], **values: Any
) -> MessageHistory | None:
    """Update a message and return it, or return None: it is not incomplete, a condition fails, or the turn is lost."""
    check_token(turn)
    if turn is not None:
        where += (_has_turn(session, message_id, turn),)
    where += (*_is_live(session, message_id), MessageHistory.state == "incomplete")
    return await update_one(session, MessageHistory, *where, **values, updated_at=statement_time())


def _has_turn(session: AsyncSession, message_id: str, turn: int) -> ColumnElement[bool]:
    """Return the condition that this is the current token of the turn, which locks the conversation's row.

    Without the lock, another worker could claim the turn between the check and the commit.
    """
    conversation = select(MessageHistory.conversation_id).where(
        MessageHistory.tenant_id == session.tenant_id, MessageHistory.message_id == message_id
    )
    current = (
        select(Conversation.id)
        .where(
            Conversation.tenant_id == session.tenant_id,
            Conversation.id == conversation.scalar_subquery(),
            Conversation.deleted_at.is_(None),
            Conversation.turn_token == turn,
        )
        # FOR NO KEY UPDATE conflicts with a claim's UPDATE, but not with the FOR KEY SHARE locks of foreign keys.
        .with_for_update(key_share=True)
        .cte("current")
        .prefix_with("MATERIALIZED")
    )
    return MessageHistory.conversation_id.in_(select(current.c.id))


async def _read(session: AsyncSession, message_id: str, turn: int | None) -> MessageHistory:
    """Return the message as it is stored.

    Raises:
        NotFoundError: The tenant has no such message.
        StaleDataError: Another worker has claimed the turn.
    """
    last = select(Conversation.turn_token).where(
        Conversation.tenant_id == session.tenant_id, Conversation.id == MessageHistory.conversation_id
    )
    statement = select(MessageHistory, last.scalar_subquery()).where(*_is_live(session, message_id))
    row = (await session.execute(statement.execution_options(populate_existing=True))).one_or_none()
    if row is None:
        raise NotFoundError("this tenant has no message with this message_id")
    message: MessageHistory = row[0]
    check_is_last(turn, row[1])
    return message


def _is_live(session: AsyncSession, message_id: str) -> list[ColumnElement[bool]]:
    return [
        MessageHistory.tenant_id == session.tenant_id,
        MessageHistory.message_id == message_id,
        MessageHistory.deleted_at.is_(None),
        conversation_is_live(session.tenant_id),
    ]


def _has_ended(message: MessageHistory) -> StaleDataError:
    return StaleDataError(
        f"message {message.id} is {message.state}; only an incomplete message can be extended or ended",
        hint="the message's writer or `interrupt_stale` has ended it; append the rest as another message",
    )
