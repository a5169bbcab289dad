"""Append with `expected_last_seq`: of two writers that read the same messages, one appends."""

from __future__ import annotations

import asyncio
from uuid import UUID

import pytest

from src.database.errors import IdempotencyConflictError, StaleDataError
from tests.database.store.paths import Path, new_message


@pytest.mark.parametrize("count", [1, 3])
async def test_only_the_expected_number_is_accepted(path: Path, conversation_id: UUID, count: int) -> None:
    first, second = ([new_message(batch * 10 + number) for number in range(count)] for batch in (1, 2))
    await path.append_many(conversation_id, first, expected_last_seq=0)

    for stale in (0, count + 1):
        with pytest.raises(
            StaleDataError, match=f"^nothing was appended: last_seq is {count}, expected {stale}"
        ) as caught:
            await path.append_many(conversation_id, second, expected_last_seq=stale)
        assert "read the messages after the expected seq" in str(caught.value)
    appended = await path.append_many(conversation_id, second, expected_last_seq=count)

    assert [one.seq for one in appended] == list(range(count + 1, 2 * count + 1))
    assert len(await path.recent(conversation_id)) == 2 * count


@pytest.mark.parametrize("count", [1, 3])
async def test_a_call_that_is_repeated_returns_duplicates(path: Path, conversation_id: UUID, count: int) -> None:
    messages = [new_message(number) for number in range(count)]
    await path.append_many(conversation_id, messages, expected_last_seq=0)
    await path.append_many(conversation_id, [new_message(99)])

    again = await path.append_many(conversation_id, messages, expected_last_seq=0)

    assert [(one.seq, one.inserted) for one in again] == [(seq, False) for seq in range(1, count + 1)]
    with pytest.raises(IdempotencyConflictError):
        await path.append_many(conversation_id, [new_message(0, "other content")], expected_last_seq=0)


async def test_a_call_of_which_a_part_is_stored_is_stale(path: Path, conversation_id: UUID) -> None:
    await path.append_many(conversation_id, [new_message(1)])

    with pytest.raises(StaleDataError):
        await path.append_many(conversation_id, [new_message(1), new_message(2)], expected_last_seq=0)
    appended = await path.append_many(conversation_id, [new_message(1), new_message(2)], expected_last_seq=1)

    assert [(one.seq, one.inserted) for one in appended] == [(1, False), (2, True)]


async def test_of_8_concurrent_writers_one_appends(path: Path, conversation_id: UUID) -> None:
    results = await asyncio.gather(
        *(path.append_many(conversation_id, [new_message(writer)], expected_last_seq=0) for writer in range(8)),
        return_exceptions=True,
    )

    assert [type(one) for one in results].count(list) == 1
    assert sum(isinstance(one, StaleDataError) for one in results) == 7
    assert [row[3] for row in await path.recent(conversation_id)] == [1]


@pytest.mark.parametrize("number", [-1, True, 2**63, "1"])
async def test_a_value_that_is_no_number_is_rejected(path: Path, conversation_id: UUID, number: int) -> None:
    with pytest.raises(ValueError, match="expected_last_seq must be an integer from 0 to"):
        await path.append_many(conversation_id, [new_message(1)], expected_last_seq=number)
