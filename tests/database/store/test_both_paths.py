"""The calls of every turn have the same results through the store and through the repositories."""

from __future__ import annotations

import asyncio
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID

import pytest
from sqlalchemy import URL

from src.database import get_db
from src.database.base import uuid7
from src.database.errors import IdempotencyConflictError, NotFoundError, StaleDataError
from src.database.repositories import (
    ConversationRepository,
    MessageHistoryRepository,
    UserRepository,
)
from tests.database.store.paths import ROW, ByRepositories, ByStore, Path, new_message


async def test_a_user_is_created_once(path: Path) -> None:
    assert await path.user(7) is None

    made = await asyncio.gather(*(path.get_or_create_user(7, display_name="Ada", locale="es-MX") for _ in range(8)))

    assert len({user_id for user_id, _ in made}) == 1
    assert sum(created for _, created in made) == 1
    assert await path.user(7) == (made[0][0], 7, "Ada", "es-MX", "UTC", {})


async def test_a_deleted_users_id_is_free_again(path: Path) -> None:
    first, _ = await path.get_or_create_user(7)
    async with get_db() as session:
        await UserRepository(session).delete(first)

    assert await path.user(7) is None
    second, created = await path.get_or_create_user(7)

    assert created
    assert second != first


@pytest.mark.parametrize(
    "wrong", [{"timezone": "Mars/Olympus"}, {"locale": "no locale"}, {"display_name": ""}, {"username": "x" * 65}]
)
async def test_an_invalid_profile_is_refused(path: Path, wrong: dict[str, str]) -> None:
    with pytest.raises(ValueError, match=f"{next(iter(wrong))} must be"):
        await path.get_or_create_user(7, **wrong)


@pytest.mark.parametrize("name", ["parts", "attachments"])
async def test_a_message_that_jsonb_cannot_store_is_rejected_before_anything_is_sent(
    path: Path, conversation_id: UUID, name: str
) -> None:
    wrong: dict[str, Any] = {name: [{"a": float("nan")}]}
    messages = [*map(new_message, range(3)), new_message("wrong", **wrong)]
    rule = rf"^message 'wrong': {name} must have only finite numbers, got nan at {name}\[0\]\.a$"

    with pytest.raises(ValueError, match=rule):
        await path.append_many(conversation_id, messages)
    with pytest.raises(ValueError, match=rule):
        await path.turn(9, "1", messages)

    assert await path.recent(conversation_id) == []
    if isinstance(path, ByStore):
        assert await path.user(9) is None


@pytest.mark.parametrize("wrong", [0, -1, 2**63, True, "7", None])
async def test_an_invalid_telegram_id_is_refused(path: Path, wrong: int) -> None:
    with pytest.raises(ValueError, match="telegram_id"):
        await path.user(wrong)
    with pytest.raises(ValueError, match="telegram_id"):
        await path.get_or_create_user(wrong)
    with pytest.raises(ValueError, match="telegram_id"):
        await path.turn(wrong, "1", [new_message(1)])


async def test_messages_are_numbered_in_their_order_and_once_each(path: Path, conversation_id: UUID) -> None:
    first = await path.append_many(conversation_id, [new_message(1), new_message(2)])
    again = await path.append_many(conversation_id, [new_message(2), new_message(3), new_message(3)])

    assert [(one.message_id, one.seq, one.inserted) for one in first] == [("1", 1, True), ("2", 2, True)]
    assert [(one.message_id, one.seq, one.inserted) for one in again] == [
        ("2", 2, False), ("3", 3, True), ("3", 3, False)
    ]  # fmt: skip
    assert await path.append_many(conversation_id, []) == []


async def test_a_row_has_every_attribute_of_its_message(pooled: URL, conversation_id: UUID) -> None:
    [parent] = await ByStore().append_many(conversation_id, [new_message("parent")])
    async with get_db() as session:
        parent_id = (await MessageHistoryRepository(session).get_by_message_id(parent.message_id)).id  # type: ignore[union-attr]
    full = new_message(
        "a\0b",
        "caf\ud800é",
        role="assistant",
        parts=[{"type": "text", "text": "\0\ud83d", "large": 1e23}],
        attachments=[{"kind": "photo"}],
        parent_id=parent_id,
        tool_call_id="call",
        tool_name="tool",
        model="m",
        input_tokens=1,
        output_tokens=2,
        token_count=3,
        state="incomplete",
        created_at=datetime(2026, 1, 2, tzinfo=UTC),
        edited_at=datetime(2026, 1, 3, tzinfo=UTC),
        extra={"a": [1, None]},
    )
    await ByStore().append_many(conversation_id, [full])

    by_store, by_repositories = await ByStore().recent(conversation_id), await ByRepositories().recent(conversation_id)

    assert by_store == by_repositories
    row = dict(zip(ROW, by_store[1], strict=True))
    assert row["message_id"] == "a\N{REPLACEMENT CHARACTER}b"
    assert row["content"] == "caf\N{REPLACEMENT CHARACTER}é"
    assert row["parts"] == [{"type": "text", "text": "\0\ud83d", "large": 1e23}]
    assert (row["extra"], row["state"], row["token_count"]) == ({"a": [1, None]}, "incomplete", 3)


async def test_a_key_of_another_message_is_a_conflict_and_nothing_is_written(path: Path, conversation_id: UUID) -> None:
    await path.append_many(conversation_id, [new_message(1)])

    for clash in (
        [new_message(1, "other")],
        [new_message(2), new_message(1, role="assistant")],
        [new_message(3), new_message(3, "other")],
    ):
        with pytest.raises(IdempotencyConflictError):
            await path.append_many(conversation_id, clash)
        with pytest.raises(IdempotencyConflictError):
            await path.turn(1, "1", clash)

    assert [row[3] for row in await path.recent(conversation_id)] == [1]


async def test_a_key_of_another_chat_is_a_conflict(path: Path, conversation_id: UUID) -> None:
    await path.turn(2, "2", [new_message(1)])

    with pytest.raises(IdempotencyConflictError):
        await path.append_many(conversation_id, [new_message(1)])


async def test_a_key_of_an_earlier_conversation_of_the_chat_is_a_duplicate(path: Path) -> None:
    before = await path.turn(1, "1", [new_message(1)])
    async with get_db() as session:
        await ConversationRepository(session).close(before.conversation_id)

    after = await path.turn(1, "1", [new_message(1), new_message(2)])

    assert after.conversation_started
    assert [(one.conversation_id, one.seq, one.inserted) for one in after.appended] == [
        (before.conversation_id, 1, False),
        (after.conversation_id, 1, True),
    ]


async def test_a_missing_conversation_raises_not_found_error(
    path: Path, conversation_id: UUID, others_conversation: UUID
) -> None:
    await path.append_many(conversation_id, [new_message(1)])
    async with get_db() as session:
        await ConversationRepository(session).delete(conversation_id)

    for missing in (uuid7(), others_conversation, conversation_id):
        for key in (1, 2):  # a stored key and a new one
            with pytest.raises(NotFoundError):
                await path.append_many(missing, [new_message(key)])
        assert await path.recent(missing) == []


async def test_a_caller_that_has_lost_the_turn_appends_nothing(path: Path, conversation_id: UUID) -> None:
    async with get_db() as session:
        turn = await ConversationRepository(session).claim_turn(conversation_id, "worker", lease=timedelta(minutes=1))
    assert turn is not None
    await path.append_many(conversation_id, [new_message(1)], turn=turn.token)

    for key in (1, 2):
        with pytest.raises(StaleDataError):
            await path.append_many(conversation_id, [new_message(key)], turn=turn.token - 1)

    assert len(await path.recent(conversation_id)) == 1


async def test_a_deleted_message_keeps_its_key_and_is_not_read(path: Path, conversation_id: UUID) -> None:
    await path.append_many(conversation_id, [new_message(1), new_message(2)])
    async with get_db() as session:
        await MessageHistoryRepository(session).pop(conversation_id)

    [again] = await path.append_many(conversation_id, [new_message(2)])

    assert (again.seq, again.inserted, again.is_there) == (2, False, False)
    assert [row[3] for row in await path.recent(conversation_id)] == [1]


async def test_recent_returns_the_last_messages_by_number_or_by_tokens(path: Path, conversation_id: UUID) -> None:
    await path.append_many(conversation_id, [new_message(number, "x" * 8, token_count=None) for number in range(1, 8)])

    assert [row[3] for row in await path.recent(conversation_id, limit=3)] == [5, 6, 7]
    assert [row[3] for row in await path.recent(conversation_id, token_budget=5)] == [6, 7]
    assert await path.recent(conversation_id, token_budget=1) == []
    for wrong in ({"limit": 0}, {"limit": 1001}, {"token_budget": -1}, {"limit": True}):
        with pytest.raises(ValueError, match="must be"):
            await path.recent(conversation_id, **wrong)


async def test_16_writers_with_duplicates_leave_no_gap_and_lose_nothing(path: Path, conversation_id: UUID) -> None:
    async def write(writer: int) -> list[bool]:
        done = []
        for number in range(10):
            key = f"shared{number}" if number % 5 == 0 else f"{writer}:{number}"
            [stored] = await path.append_many(conversation_id, [new_message(key)])
            done.append(stored.inserted)
        return done

    inserted = sum(sum(one) for one in await asyncio.gather(*map(write, range(16))))

    rows = await path.recent(conversation_id, limit=1000)
    assert inserted == len(rows) == 16 * 8 + 2
    assert [row[3] for row in rows] == list(range(1, len(rows) + 1))


@pytest.mark.slow
async def test_concurrent_calls_on_both_paths_number_without_a_gap(pooled: URL, conversation_id: UUID) -> None:
    paths = (ByStore(), ByRepositories())
    keys = [f"k{number // 2}" for number in range(80)]  # each key is appended on both paths
    stored = await asyncio.gather(
        *(paths[number % 2].append_many(conversation_id, [new_message(key)]) for number, key in enumerate(keys))
    )

    assert sum(one.inserted for [one] in stored) == 40
    assert sorted({one.seq for [one] in stored}) == list(range(1, 41))
