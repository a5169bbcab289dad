"""The turn of a conversation: who answers now, leased for a while, under a token that only grows."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Final
from uuid import UUID

from sqlalchemy import BindParameter, ColumnElement, DateTime, func, or_, select, update
from sqlalchemy.orm import aliased

from src.database.base import check_id
from src.database.errors import NotFoundError, StaleDataError
from src.database.models import Conversation
from src.database.session import AsyncSession
from src.database.statements.updating import update_one

__all__ = [
    "LEASE",
    "Turn",
    "check_is_last",
    "check_token",
    "claim",
    "is_there",
    "lock_conversation",
    "release",
    "renew",
    "statement_time",
]

LEASE: Final = timedelta(seconds=60)
LONGEST_LEASE: Final = timedelta(days=1)
_BIGGEST: Final = 2**63 - 1


@dataclass(frozen=True, slots=True)
class Turn:
    """A claim on the next answer in a conversation; `until` is by the server's clock."""

    conversation_id: UUID
    worker: str
    token: int
    until: datetime


async def claim(session: AsyncSession, conversation_id: UUID, worker: str, lease: timedelta) -> Turn | None:
    """Take the turn where nobody holds it, in one statement that also says whether there is such a conversation."""
    if not worker:
        raise ValueError("worker must be a name, for people to read, got an empty text")
    _check_lease(lease)
    this_one = is_there(session, conversation_id)
    now = statement_time()
    claimed = (
        update(Conversation)
        .where(*this_one, or_(Conversation.turn_claimed_until.is_(None), Conversation.turn_claimed_until <= now))
        .values(turn_token=Conversation.turn_token + 1, turn_claimed_by=worker, turn_claimed_until=now + lease)
        .returning(Conversation)
        .cte("claimed")
    )
    changed = aliased(Conversation, claimed, name="changed")  # the session's row too becomes as it is now
    of_it = (changed.tenant_id == Conversation.tenant_id) & (changed.id == Conversation.id)
    statement = select(Conversation.id, changed).select_from(Conversation).outerjoin(changed, of_it)
    statement = statement.where(*this_one).execution_options(populate_existing=True)
    row = (await session.execute(statement)).one_or_none()
    if row is None:
        raise NotFoundError(f"this tenant has no Conversation with id {conversation_id}")
    return _turn_of(row[1], worker)


async def renew(session: AsyncSession, turn: Turn, lease: timedelta) -> Turn:
    """Prolong a turn that is held under its token, also one whose lease ran out while nobody else took it."""
    _check_lease(lease)
    held = (Conversation.turn_token == turn.token, Conversation.turn_claimed_until.is_not(None))
    this_one = is_there(session, turn.conversation_id)
    renewed = await update_one(session, Conversation, *this_one, *held, turn_claimed_until=statement_time() + lease)
    if (prolonged := _turn_of(renewed, turn.worker)) is None:
        raise _lost(turn)
    return prolonged


async def release(session: AsyncSession, turn: Turn) -> None:
    """Give a turn back; twice is as once."""
    held = (*is_there(session, turn.conversation_id), Conversation.turn_token == turn.token)
    nobodys = {"turn_claimed_by": None, "turn_claimed_until": None}
    if await update_one(session, Conversation, *held, **nobodys) is None:
        raise _lost(turn)


def check_token(turn: int | None) -> None:
    """Refuse what cannot be a turn's token, before it is compared with one.

    Raises:
        ValueError: It is no whole number: the `Turn` itself, above all.
    """
    if turn is not None and (type(turn) is not int or not 0 <= turn <= _BIGGEST):
        got = turn if type(turn) is int else f"a {type(turn).__name__}"
        raise ValueError(f"turn must be a token, a whole number from 0 to 2^63 - 1, got {got}; pass `turn.token`")


def check_is_last(turn: int | None, last: int) -> None:
    """Refuse a token after which another one was given out.

    Raises:
        StaleDataError: Another worker has claimed the turn since.
    """
    if turn is not None and turn != last:
        raise StaleDataError(
            f"turn must be the conversation's last, {last}, got {turn}",
            hint="another worker answers now: drop what was made under the lost turn",
        )


async def lock_conversation(session: AsyncSession, conversation_id: UUID, turn: int | None) -> Conversation:
    """Lock a conversation's row in a statement of its own: the next statement then sees what its last holder wrote.

    Raises:
        NotFoundError: The tenant has no such conversation.
        StaleDataError: Another worker has claimed the turn since.
    """
    check_token(turn)
    conversation: Conversation | None = await session.scalar(
        select(Conversation)
        .where(*is_there(session, conversation_id))
        .with_for_update()
        .execution_options(populate_existing=True)
    )
    if conversation is None:
        raise NotFoundError(f"this tenant has no Conversation with id {conversation_id}")
    check_is_last(turn, conversation.turn_token)
    return conversation


def is_there(session: AsyncSession, conversation_id: UUID | BindParameter[UUID]) -> tuple[ColumnElement[bool], ...]:
    """Say which conversation is meant: the acting tenant's, and none that is deleted."""
    if not isinstance(conversation_id, BindParameter):
        check_id("conversation_id", conversation_id)
    return (
        Conversation.tenant_id == session.tenant_id,
        Conversation.id == conversation_id,
        Conversation.deleted_at.is_(None),
    )


def _turn_of(held: Conversation | None, worker: str) -> Turn | None:
    """Return the turn that the row says, or None where there is no row."""
    if held is None or held.turn_claimed_until is None:
        return None
    return Turn(held.id, worker, held.turn_token, held.turn_claimed_until)


def statement_time() -> ColumnElement[datetime]:
    """The server's clock as the statement begins; by `now()`, when the transaction began, a lease would be shorter."""
    return func.statement_timestamp(type_=DateTime(timezone=True))


def _check_lease(lease: timedelta) -> None:
    if not timedelta(0) < lease <= LONGEST_LEASE:
        raise ValueError(f"lease must be more than zero and at most {LONGEST_LEASE}, got {lease}")


def _lost(turn: Turn) -> StaleDataError:
    return StaleDataError(
        f"the turn of conversation {turn.conversation_id} is not held under this token",
        hint="it ran out and another worker has it, or it was released; drop the answer, and claim the turn anew",
    )
