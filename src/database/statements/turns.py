"""Lease the turn of a conversation: the right of one worker to answer.

A lease limits the time of a claim, and its token grows with each claim, so that a write with an older token is refused
(a fencing token).
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import Awaitable, Callable
from contextlib import suppress
from dataclasses import dataclass
from datetime import datetime, timedelta
from functools import partial
from typing import Any, Final, NamedTuple
from uuid import UUID

from src.database.base import check_duration, check_id
from src.database.connect import run_shielded
from src.database.errors import DatabaseError, LockNotAvailable, StaleDataError
from src.database.models import Conversation
from src.database.observability import names_statements
from src.database.session import AsyncSession
from src.database.statements.call import Call, Sender
from src.database.statements.in_session import InSession
from src.database.statements.rows import required

LEASE: Final = timedelta(seconds=60)
LONGEST_LEASE: Final = timedelta(days=1)
_CLAIM: Final[Call[Any]] = Call("app_claim_turn", 4)
_KEEP: Final[Call[Any]] = Call("app_keep_turn", 4)
_PAUSES: Final = (0.05, 1.0)
"""The shortest and the longest pause between two attempts, in seconds."""


@dataclass(frozen=True, slots=True)
class Turn:
    """A claim on the next answer in a conversation; `until` is in the server's time."""

    conversation_id: UUID
    worker: str
    token: int
    until: datetime


class Attempt(NamedTuple):
    """The result of an attempt to claim a turn; `until` is the end of the lease of this claim, or of another one."""

    turn: Turn | None
    until: datetime | None
    at: datetime


@names_statements
async def attempt(sender: Sender, conversation_id: UUID, worker: str, lease: timedelta) -> Attempt:
    """Claim the turn, unless another claim holds it."""
    check_id("conversation_id", conversation_id)
    if not worker:
        raise ValueError("worker must be the name of the worker, got an empty string")
    _check_lease(lease)
    [row] = await sender.call(_CLAIM, conversation_id, worker, lease)
    outcome, token, until, at = row
    required(None if outcome == "no_conversation" else row, Conversation, conversation_id)
    return Attempt(Turn(conversation_id, worker, token, until) if outcome == "claimed" else None, until, at)


async def claim_turn(
    sender: Sender, conversation_id: UUID, worker: str, lease: timedelta, wait_seconds: float | None
) -> Turn | None:
    """Claim the turn by calls that are committed each; see `ConversationRepository.claim_turn`.

    A claim that the server commits although the caller is cancelled is released.
    """
    return await _wait(partial(_claim_whole, sender, conversation_id, worker, lease), conversation_id, wait_seconds)


async def _claim_whole(sender: Sender, *claim: Any) -> Attempt:
    attempts: list[Attempt] = []

    async def run() -> None:
        attempts.append(await attempt(sender, *claim))

    try:
        await run_shielded(run())
    except asyncio.CancelledError:
        if attempts and (turn := attempts[0].turn) is not None:
            with suppress(DatabaseError):  # the claim ends with its lease
                await release_turn(sender, turn)
        raise
    return attempts[0]


async def claim_in_session(
    session: AsyncSession, conversation_id: UUID, worker: str, lease: timedelta, wait_seconds: float | None
) -> Turn | None:
    """Claim the turn in a session's transaction, and update the session's entity.

    While it waits, the session has no transaction, and so no connection.
    """
    if wait_seconds and (session.in_transaction() or session.sync_session.has_changes()):
        raise ValueError(
            "wait_seconds needs a session without a transaction and without changes, because the transaction would hold"
            " a connection while the call waits; commit first"
        )
    sender = InSession(session)

    async def claim() -> Attempt:
        attempted = await attempt(sender, conversation_id, worker, lease)
        if (turn := attempted.turn) is not None:
            _refresh(sender, turn, attempted.at, by=worker, until=turn.until)
        elif wait_seconds:
            await session.commit()  # not rollback(), which would expire the session's entities
        return attempted

    return await _wait(claim, conversation_id, wait_seconds)


async def renew_turn(sender: Sender, turn: Turn, lease: timedelta) -> Turn:
    """Renew the lease of a turn from now on; see `ConversationRepository.renew_turn`."""
    _check_lease(lease)
    [(at, until)] = await _keep(sender, turn, lease)
    if isinstance(sender, InSession):
        _refresh(sender, turn, at, by=turn.worker, until=until)
    return Turn(turn.conversation_id, turn.worker, turn.token, until)


async def release_turn(sender: Sender, turn: Turn) -> None:
    """Release a turn. A second call changes nothing."""
    [(at, _)] = await _keep(sender, turn, None)
    if isinstance(sender, InSession):
        _refresh(sender, turn, at, by=None, until=None)


async def _keep(sender: Sender, turn: Turn, lease: timedelta | None) -> list[Any]:
    check_id("conversation_id", turn.conversation_id)
    rows = await sender.call(_KEEP, turn.conversation_id, turn.token, lease)
    if rows[0][0] is None:
        raise StaleDataError(
            f"the turn of conversation {turn.conversation_id} is not held under this token",
            hint="another worker has claimed the turn, or it was released; discard the answer, and claim again",
        )
    return rows


def _refresh(sender: InSession, turn: Turn, at: datetime, *, by: str | None, until: datetime | None) -> None:
    claim = {"turn_token": turn.token, "turn_claimed_by": by, "turn_claimed_until": until}
    sender.refresh(Conversation, turn.conversation_id, updated_at=at, **claim)


async def _wait(
    claim: Callable[[], Awaitable[Attempt]], conversation_id: UUID, wait_seconds: float | None
) -> Turn | None:
    """Repeat attempts until one of them claims the turn. Nothing is held between two attempts.

    The pauses grow and are random, so that waiting workers do not all ask at the same time.

    Raises:
        LockNotAvailable: Another claim holds the turn at the end of the time.
        ValueError: `wait_seconds` is out of range.
    """
    _check_wait(wait_seconds)
    clock = asyncio.get_running_loop().time
    deadline = clock() + (wait_seconds or 0)
    pause, longest = _PAUSES
    while (attempted := await claim()).turn is None and wait_seconds:
        if (left := deadline - clock()) <= 0:
            ends = "" if attempted.until is None else f"; its lease ends at {attempted.until}"
            raise LockNotAvailable(
                f"the turn of conversation {conversation_id} is claimed by another worker{ends}",
                hint="wait longer with `wait_seconds`, or let the other worker answer",
            )
        await asyncio.sleep(min(left, pause * random.uniform(0.5, 1.5)))  # noqa: S311 - no secret
        pause = min(pause * 2, longest)
    return attempted.turn


def _check_lease(lease: timedelta) -> None:
    check_duration("lease", lease)
    if not timedelta(0) < lease <= LONGEST_LEASE:
        raise ValueError(f"lease must be more than zero and at most {LONGEST_LEASE}, got {lease}")


def _check_wait(wait_seconds: float | None) -> None:
    longest = LONGEST_LEASE.total_seconds()
    if wait_seconds is None:
        return
    if type(wait_seconds) not in {int, float} or not 0 <= wait_seconds <= longest:  # NaN is not
        raise ValueError(f"wait_seconds must be from 0 to {longest:.0f} seconds, or None, got {wait_seconds!r}")
