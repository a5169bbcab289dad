"""The turn of a conversation, claimed with and without waiting, and deletion: the same on both paths."""

from __future__ import annotations

import asyncio
import time
from datetime import timedelta
from typing import Any
from uuid import UUID

import pytest
from sqlalchemy import text

from src.database import get_db
from src.database.base import uuid7
from src.database.errors import LockNotAvailable, NotFoundError, StaleDataError
from src.database.models import Conversation
from src.database.repositories import ConversationRepository
from src.database.statements import turns
from tests.database.store.paths import ByStore, Path, new_message

SHORT = timedelta(seconds=0.2)
BUSY = text(
    "SELECT count(*) FROM pg_stat_activity"
    " WHERE datname = current_database() AND pid <> pg_backend_pid() AND state <> 'idle'"
)


async def row_of(conversation_id: UUID) -> Conversation:
    async with get_db() as session:
        return await ConversationRepository(session).get(conversation_id)


async def test_one_claim_holds_the_turn_until_it_is_released(path: Path, conversation_id: UUID) -> None:
    turn = await path.claim_turn(conversation_id, "first")
    assert turn is not None
    assert await path.claim_turn(conversation_id, "second") is None
    assert await path.claim_turn(conversation_id, "second", wait_seconds=0) is None
    renewed = await path.renew_turn(turn, lease=timedelta(minutes=5))
    assert renewed.until > turn.until + timedelta(minutes=3)
    row = await row_of(conversation_id)
    assert (row.turn_claimed_by, row.turn_claimed_until, row.turn_token) == ("first", renewed.until, turn.token)

    await path.release_turn(turn)
    await path.release_turn(turn)

    with pytest.raises(StaleDataError, match="is not held under this token"):
        await path.renew_turn(turn)
    next_turn = await path.claim_turn(conversation_id, "second")
    assert next_turn is not None
    assert next_turn.token == turn.token + 1
    with pytest.raises(StaleDataError):
        await path.release_turn(turn)
    with pytest.raises(StaleDataError):
        await path.append_many(conversation_id, [new_message("k")], turn=turn.token)


async def test_a_waiting_claim_gets_the_turn_that_is_released(path: Path, conversation_id: UUID) -> None:
    turn = await path.claim_turn(conversation_id, "first")
    assert turn is not None
    waiting = asyncio.create_task(path.claim_turn(conversation_id, "second", wait_seconds=10))
    await asyncio.sleep(0.15)
    assert not waiting.done()
    async with get_db() as session:
        busy = [await session.scalar(BUSY) for _ in range(20)]
    assert 0 in busy  # between two attempts, no connection is held

    await path.release_turn(turn)

    claimed = await waiting
    assert claimed is not None
    assert claimed.token == turn.token + 1


async def test_a_waiting_claim_gets_the_turn_whose_lease_ends(path: Path, conversation_id: UUID) -> None:
    await path.claim_turn(conversation_id, "first", lease=SHORT)

    assert await path.claim_turn(conversation_id, "second", wait_seconds=10) is not None


async def test_several_waiting_workers_get_the_turn_one_after_the_other(path: Path, conversation_id: UUID) -> None:
    async def answer(worker: int) -> int:
        turn = await path.claim_turn(conversation_id, str(worker), wait_seconds=20)
        assert turn is not None
        await path.append_many(conversation_id, [new_message(worker)], turn=turn.token)
        await path.release_turn(turn)
        return turn.token

    tokens = await asyncio.gather(*(answer(worker) for worker in range(4)))

    assert sorted(tokens) == [1, 2, 3, 4]


async def test_the_end_of_the_wait_names_the_end_of_the_lease(path: Path, conversation_id: UUID) -> None:
    turn = await path.claim_turn(conversation_id, "a secret name")
    assert turn is not None
    before = time.monotonic()

    with pytest.raises(LockNotAvailable) as caught:
        await path.claim_turn(conversation_id, "second", wait_seconds=0.2)

    assert 0.2 <= time.monotonic() - before < 5
    assert str(turn.until) in str(caught.value)
    assert "secret" not in str(caught.value)


async def test_a_cancelled_waiter_holds_no_claim(path: Path, conversation_id: UUID) -> None:
    turn = await path.claim_turn(conversation_id, "first")
    assert turn is not None
    waiting = [asyncio.create_task(path.claim_turn(conversation_id, "w", wait_seconds=30)) for _ in range(3)]
    await asyncio.sleep(0.1)
    for one in waiting:
        one.cancel()
    await asyncio.gather(*waiting, return_exceptions=True)
    await path.release_turn(turn)

    assert await path.claim_turn(conversation_id, "next") is not None


async def test_a_claim_that_is_committed_while_it_is_cancelled_is_released(
    pooled: object, conversation_id: UUID, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The cancellation arrives after the server's answer, and before the caller has it."""
    attempt = turns.attempt

    async def slow(*arguments: Any) -> Any:
        attempted = await attempt(*arguments)
        await asyncio.sleep(0.2)
        return attempted

    monkeypatch.setattr(turns, "attempt", slow)
    claiming = asyncio.create_task(ByStore().claim_turn(conversation_id, "w"))
    await asyncio.sleep(0.1)
    while not (await row_of(conversation_id)).turn_claimed_by:  # noqa: ASYNC110 - the server has no event for it
        await asyncio.sleep(0.01)
    claiming.cancel()
    with pytest.raises(asyncio.CancelledError):
        await claiming

    assert (await row_of(conversation_id)).turn_claimed_by is None


async def test_a_session_with_a_transaction_does_not_wait(pooled: object, conversation_id: UUID) -> None:
    async with get_db() as session:
        conversations = ConversationRepository(session)
        row = await conversations.get(conversation_id)
        with pytest.raises(ValueError, match="wait_seconds needs a session without a transaction"):
            await conversations.claim_turn(conversation_id, "w", wait_seconds=1)
        await session.commit()
        turn = await conversations.claim_turn(conversation_id, "w", wait_seconds=1)

        assert turn is not None
        assert (row.turn_claimed_by, row.turn_claimed_until, row.turn_token) == ("w", turn.until, turn.token)


@pytest.mark.parametrize(
    ("options", "rule"),
    [
        ({"wait_seconds": -1}, "wait_seconds must be from 0 to 86400 seconds"),
        ({"wait_seconds": float("nan")}, "wait_seconds must be"),
        ({"wait_seconds": float("inf")}, "wait_seconds must be"),
        ({"wait_seconds": True}, "wait_seconds must be"),
        ({"wait_seconds": "1"}, "wait_seconds must be"),
        ({"lease": timedelta(0)}, "lease must be more than zero"),
        ({"worker": ""}, "worker must be the name of the worker"),
    ],
)
async def test_arguments_of_a_claim_are_checked(
    path: Path, conversation_id: UUID, options: dict[str, Any], rule: str
) -> None:
    with pytest.raises(ValueError, match=rule):
        await path.claim_turn(conversation_id, **{"worker": "w", **options})


async def test_a_deleted_conversation_is_gone_for_each_call(path: Path, conversation_id: UUID) -> None:
    turn = await path.claim_turn(conversation_id, "w")
    assert turn is not None

    await path.delete(conversation_id)

    for call in (path.delete(conversation_id), path.delete(uuid7()), path.claim_turn(conversation_id, "w")):
        with pytest.raises(NotFoundError):
            await call
    with pytest.raises(StaleDataError):
        await path.release_turn(turn)
    async with get_db() as session:
        restored = await ConversationRepository(session).restore(conversation_id)
    assert restored.deleted_at is None


async def test_an_entity_of_the_session_is_deleted_too(pooled: object, conversation_id: UUID) -> None:
    async with get_db() as session:
        conversations = ConversationRepository(session)
        row = await conversations.get(conversation_id)
        await conversations.delete(conversation_id)

        assert row.deleted_at is not None
        assert row.deleted_at == row.updated_at


async def test_another_tenants_conversation_is_not_found(path: Path, others_conversation: UUID) -> None:
    with pytest.raises(NotFoundError):
        await path.claim_turn(others_conversation, "w")
    with pytest.raises(NotFoundError):
        await path.delete(others_conversation)
