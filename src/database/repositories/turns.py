"""The turn of a conversation: who answers now, leased for a while, under a token that only grows."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Final
from uuid import UUID

from sqlalchemy import ColumnElement, DateTime, func, or_, select, update

from src.database.errors import NotFoundError, StaleDataError
from src.database.models import Conversation
from src.database.tenancy import AsyncSession

__all__ = ["LEASE", "Turn", "claim", "is_there", "release", "renew"]

LEASE: Final = timedelta(seconds=60)
LONGEST_LEASE: Final = timedelta(days=1)


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
    now = _statement_time()
    claimed = (
        update(Conversation)
        .where(*this_one, or_(Conversation.turn_claimed_until.is_(None), Conversation.turn_claimed_until <= now))
        .values(turn_token=Conversation.turn_token + 1, turn_claimed_by=worker, turn_claimed_until=now + lease)
        .returning(
            Conversation.tenant_id,
            Conversation.id,
            Conversation.turn_token.label("token"),
            Conversation.turn_claimed_until.label("until"),
        )
        .cte("claimed")
    )
    of_it = (claimed.c.tenant_id == Conversation.tenant_id) & (claimed.c.id == Conversation.id)
    statement = select(claimed.c.token, claimed.c.until).select_from(Conversation).outerjoin(claimed, of_it)
    row = (await session.execute(statement.where(*this_one))).one_or_none()
    if row is None:
        raise NotFoundError(f"this tenant has no Conversation with id {conversation_id}")
    return None if row.token is None else Turn(conversation_id, worker, row.token, row.until)


async def renew(session: AsyncSession, turn: Turn, lease: timedelta) -> Turn:
    """Prolong a turn that is held under its token, also one whose lease ran out while nobody else took it."""
    _check_lease(lease)
    until: datetime | None = await session.scalar(
        update(Conversation)
        .where(
            *is_there(session, turn.conversation_id),
            Conversation.turn_token == turn.token,
            Conversation.turn_claimed_until.is_not(None),
        )
        .values(turn_claimed_until=_statement_time() + lease)
        .returning(Conversation.turn_claimed_until)
        .execution_options(synchronize_session=False)
    )
    if until is None:
        raise _lost(turn)
    return Turn(turn.conversation_id, turn.worker, turn.token, until)


async def release(session: AsyncSession, turn: Turn) -> None:
    """Give a turn back; twice is as once."""
    released = await session.scalar(
        update(Conversation)
        .where(*is_there(session, turn.conversation_id), Conversation.turn_token == turn.token)
        .values(turn_claimed_by=None, turn_claimed_until=None)
        .returning(Conversation.id)
        .execution_options(synchronize_session=False)
    )
    if released is None:
        raise _lost(turn)


def is_there(session: AsyncSession, conversation_id: UUID) -> tuple[ColumnElement[bool], ...]:
    """Say which conversation is meant: the acting tenant's, and none that is deleted."""
    return (
        Conversation.tenant_id == session.tenant_id,
        Conversation.id == conversation_id,
        Conversation.deleted_at.is_(None),
    )


def _statement_time() -> ColumnElement[datetime]:
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
