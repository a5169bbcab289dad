"""Turns and claims have the same results through the store and through the repositories."""

from __future__ import annotations

import asyncio
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID

import pytest

from src.database import get_db
from src.database.models import Event
from src.database.repositories import (
    ConversationRepository,
    EventRepository,
    MessageHistoryRepository,
)
from src.database.store import get_store
from tests.database.repositories.skewed import skew_clock
from tests.database.store.paths import Path, new_message


async def test_calls_and_results_stay_together(path: Path, conversation_id: UUID) -> None:
    call = new_message("call", None, role="assistant", parts=[{"type": "tool_call", "id": "t1"}])
    result = new_message("result", "42", role="tool", tool_call_id="t1")
    await path.append_many(conversation_id, [new_message(1), call])

    assert [row[3] for row in await path.recent(conversation_id, limit=1)] == [2]
    taken = await path.turn(1, "1", [result, new_message(4, role="assistant")])

    assert taken.recent == [1, 2], "the call's result is among the new messages"
    assert [row[3] for row in await path.recent(conversation_id, limit=2)] == [4], (
        "the window cuts off the call of the result"
    )
    assert [row[3] for row in await path.recent(conversation_id, limit=3)] == [2, 3, 4]
    assert [row.seq for row in await get_store().last(conversation_id, 2)] == [3, 4], "exactly the last messages"
    async with get_db() as session:
        assert [row.seq for row in await MessageHistoryRepository(session).last(conversation_id, 2)] == [3, 4]


async def test_a_call_without_a_result_is_left_out_once_the_conversation_continues(
    path: Path, conversation_id: UUID
) -> None:
    call = new_message(
        "call", None, role="assistant", parts=[{"type": "tool_call", "id": name} for name in ("t1", "t2")]
    )
    result = new_message("result", "42", role="tool", tool_call_id="t1")
    await path.append_many(conversation_id, [new_message(1), call, result])
    running = [row[3] for row in await path.recent(conversation_id)]

    taken = await path.turn(1, "1", [new_message(4)])

    assert running == [1, 2, 3], "only the result of the other call may follow"
    assert taken.recent == [1]
    assert [row[3] for row in await path.recent(conversation_id)] == [1, 4]
    assert [row[3] for row in await path.recent(conversation_id, token_budget=1000)] == [1, 4]
    assert [row.seq for row in (await get_store().page(conversation_id)).items] == [1, 2, 3, 4], (
        "a page has all messages"
    )


async def test_a_turn_creates_missing_rows_and_continues_with_existing_ones(path: Path) -> None:
    first = await path.turn(5, "c", [new_message(1), new_message(2, role="assistant")])
    second = await path.turn(5, "c", [new_message(3)])
    elsewhere = await path.turn(5, None, [new_message(4)])
    unnamed = await path.turn(5, None, [new_message(5)])

    assert (first.user_created, first.conversation_started, first.recent) == (True, True, [])
    assert [one.seq for one in first.appended] == [1, 2]
    assert (second.user_created, second.conversation_started, second.recent) == (False, False, [1, 2])
    assert second.conversation_id == first.conversation_id
    assert (elsewhere.conversation_started, elsewhere.user_id) == (True, first.user_id)
    assert elsewhere.conversation_id != first.conversation_id
    assert (unnamed.conversation_id, unnamed.recent) == (elsewhere.conversation_id, [1])


async def test_a_turn_that_is_sent_again_is_a_duplicate(path: Path) -> None:
    first = await path.turn(5, "c", [new_message(0)])
    await path.turn(5, "c", [new_message(1), new_message(2)])
    again = await path.turn(5, "c", [new_message(1), new_message(2)])

    assert [(one.seq, one.inserted) for one in again.appended] == [(2, False), (3, False)]
    assert again.recent == [1]
    assert again.conversation_id == first.conversation_id


async def test_an_idle_conversation_is_closed_and_a_new_one_starts(path: Path) -> None:
    early = datetime.now(UTC) - timedelta(hours=2)
    first = await path.turn(5, "c", [new_message(1, created_at=early)])
    async with get_db() as session:  # without a later message, idleness counts from the creation of the row
        created = (await ConversationRepository(session).get(first.conversation_id)).created_at
    kept = await path.turn(
        5, "c", [new_message(2, created_at=early)], idle=datetime.now(UTC) - early + timedelta(minutes=1)
    )
    renewed = await path.turn(5, "c", [new_message(3)], idle=timedelta(hours=1))

    assert created > early
    assert kept.conversation_id == first.conversation_id
    assert renewed.conversation_started
    assert (renewed.recent, renewed.appended[0].seq) == ([], 1)
    async with get_db() as session:
        closed = await ConversationRepository(session).get(first.conversation_id)
    assert (closed.is_active, closed.close_reason, closed.last_seq) == (False, "idle", 2)


@pytest.mark.parametrize("skew", [timedelta(minutes=10), timedelta(minutes=-10)], ids=["ahead", "behind"])
async def test_idleness_is_measured_by_the_servers_clock(
    path: Path, monkeypatch: pytest.MonkeyPatch, skew: timedelta
) -> None:
    now, idle = datetime.now(UTC), timedelta(minutes=30)
    ages = {"short": timedelta(minutes=25), "long": timedelta(minutes=35)}
    skew_clock(monkeypatch, skew)

    started = {}
    for chat, age in ages.items():
        await path.turn(5, chat, [new_message(f"{chat}1", created_at=now - age)])
        turn = await path.turn(5, chat, [new_message(f"{chat}2", created_at=now)], idle=idle)
        started[chat] = turn.conversation_started

    assert started == {"short": False, "long": True}


async def test_concurrent_turns_create_one_user_and_one_conversation_without_gaps(path: Path) -> None:
    turns = await asyncio.gather(*(path.turn(9, "9", [new_message(f"t{number}")]) for number in range(24)))

    assert sorted(turn.appended[0].seq for turn in turns) == list(range(1, 25))
    assert len({turn.conversation_id for turn in turns}) == 1
    assert sum(turn.user_created for turn in turns) == 1
    assert sum(turn.conversation_started for turn in turns) == 1
    for turn in turns:
        before = turn.appended[0].seq - 1
        assert turn.recent == list(range(max(1, before - 19), before + 1)), "no gap although calls are concurrent"


async def a_reminder(user_id: UUID, due: timedelta, **values: Any) -> UUID:
    at = datetime.now(UTC) + due
    async with get_db() as session:
        event = Event(user_id=user_id, title="x", start_datetime=at + timedelta(hours=1), **values)
        event.reminder_offset = 3600
        return (await EventRepository(session).add(event)).id


async def test_a_due_reminder_is_claimed_once(path: Path) -> None:
    user_id, _ = await path.get_or_create_user(1)
    due = [await a_reminder(user_id, timedelta(minutes=-number)) for number in (3, 2, 1)]
    await a_reminder(user_id, timedelta(hours=1))

    first = await path.claim("a", limit=2)
    claims = await asyncio.gather(*(path.claim(f"w{number}") for number in range(4)))

    assert [event[0] for event in first] == due[:2], "the longest due are claimed first"
    assert [event[4] for event in first] == [1, 1]
    assert [event[0] for claim in claims for event in claim] == due[2:]


async def test_a_series_whose_reminder_fails_continues_with_its_next_occurrence(path: Path) -> None:
    user_id, _ = await path.get_or_create_user(1)
    series = await a_reminder(user_id, timedelta(days=-1, minutes=5), rrule="FREQ=DAILY")
    async with get_db() as session:
        event = await EventRepository(session).get(series)
        before = event.reminder_datetime
        event.reminder_datetime = datetime.now(UTC) - timedelta(hours=2)
        event.reminder_attempts = 5

    assert await path.claim("a") == []

    async with get_db() as session:
        event = await EventRepository(session).get(series)
    assert event.reminder_attempts == 0
    assert event.reminder_datetime is not None
    assert before is not None
    assert event.reminder_datetime > datetime.now(UTC) - timedelta(hours=1)


@pytest.mark.parametrize("wrong", [{"limit": 0}, {"lease": timedelta(0)}, {"lease": timedelta(days=1000)}])
async def test_an_invalid_claim_is_refused(path: Path, wrong: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match="must be"):
        await path.claim("a", **wrong)
    with pytest.raises(ValueError, match="worker"):
        await path.claim("")


async def test_a_naive_time_is_refused(path: Path, conversation_id: UUID) -> None:
    naive = datetime(2026, 1, 1)  # noqa: DTZ001 - the test passes a naive time
    for wrong in (new_message(1, created_at=naive), new_message(1, edited_at=naive)):
        with pytest.raises(ValueError, match="aware"):
            await path.append_many(conversation_id, [wrong])
