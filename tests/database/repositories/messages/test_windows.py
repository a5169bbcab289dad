"""MessageHistoryRepository: windows by count, by position and by tokens."""

from __future__ import annotations

import pytest
from sqlalchemy import event, text

from src.database.base import uuid7
from src.database.models import Conversation, MessageHistory, User
from src.database.repositories import ConversationRepository, MessageHistoryRepository
from src.database.session import AsyncSession
from tests.database.repositories.messages.conftest import message

BAD_LIMITS = [0, -1, 1001]


def seqs(messages: list[MessageHistory]) -> list[int]:
    return [one.seq for one in messages]


@pytest.fixture
async def ten(session: AsyncSession, messages: MessageHistoryRepository, conversation: Conversation) -> Conversation:
    """A conversation of ten messages, beside another one."""
    other, _ = await ConversationRepository(session).get_or_start(conversation.user_id, "telegram", "2")
    await messages.append_many(other.id, [message(f"other {n}") for n in range(1, 21)])
    await messages.append_many(conversation.id, [message(str(n)) for n in range(1, 11)])
    return conversation


async def test_recent_returns_the_last_messages_oldest_first(
    messages: MessageHistoryRepository, ten: Conversation
) -> None:
    assert seqs(await messages.recent(ten.id, limit=3)) == [8, 9, 10]
    assert seqs(await messages.recent(ten.id, limit=1000)) == list(range(1, 11))
    assert seqs(await messages.recent(ten.id, limit=2, before_seq=5)) == [3, 4]


async def test_recent_skips_deleted_messages(messages: MessageHistoryRepository, ten: Conversation) -> None:
    last = await messages.get_by_message_id("10")
    assert last is not None
    await messages.delete(last.id)

    assert seqs(await messages.recent(ten.id, limit=2)) == [8, 9]
    assert not (await messages.append(ten.id, message("10"))).inserted


@pytest.mark.parametrize("limit", BAD_LIMITS)
async def test_a_limit_out_of_range_is_rejected(
    messages: MessageHistoryRepository, ten: Conversation, limit: int
) -> None:
    for window in (
        messages.recent(ten.id, limit=limit),
        messages.recent(ten.id, limit=limit, token_budget=1),
        messages.before(ten.id, 5, limit=limit),
        messages.after(ten.id, 5, limit=limit),
        messages.tail(ten.id, 5, limit=limit),
    ):
        with pytest.raises(ValueError, match="limit must be from 1 to 1000"):
            await window


@pytest.mark.parametrize("number", [-1, 2**63, True, 1.0])
async def test_an_invalid_position_is_rejected(
    messages: MessageHistoryRepository, ten: Conversation, number: int
) -> None:
    for name, window in {
        "token_budget": messages.recent(ten.id, token_budget=number),
        "before_seq": messages.recent(ten.id, before_seq=number),
        "seq": messages.before(ten.id, number),
        "seq ": messages.after(ten.id, number),
        " seq": messages.around(ten.id, number),
        "seq  ": messages.tail(ten.id, number),
    }.items():
        with pytest.raises(ValueError, match=f"{name.strip()} must be an integer from 0"):
            await window


@pytest.mark.parametrize(
    ("budget", "expected"), [(0, []), (9, []), (10, [10]), (39, [8, 9, 10]), (10**12, [*range(1, 11)])]
)
async def test_a_budget_is_filled_from_the_end_and_never_exceeded(
    messages: MessageHistoryRepository, conversation: Conversation, budget: int, expected: list[int]
) -> None:
    await messages.append_many(conversation.id, [message(str(n), token_count=10) for n in range(1, 11)])

    assert seqs(await messages.recent(conversation.id, token_budget=budget)) == expected


async def test_a_budget_and_a_limit_both_apply(messages: MessageHistoryRepository, ten: Conversation) -> None:
    assert seqs(await messages.recent(ten.id, token_budget=10**6, limit=2)) == [9, 10]
    assert seqs(await messages.recent(ten.id, token_budget=2, limit=5, before_seq=8)) == [6, 7]


@pytest.mark.parametrize(
    ("content", "parts", "tokens"),
    [
        (None, None, 0),
        ("", None, 0),
        ("1", None, 1),
        ("1234", None, 1),
        ("12345", None, 2),
        ("ñ🙂ñ🙂", None, 1),
        ("12", [1], 2),  # as text: [1]
        ("x" * 4000, None, 1000),
    ],
)
async def test_a_message_that_was_not_counted_counts_a_token_for_four_characters(
    messages: MessageHistoryRepository,
    conversation: Conversation,
    content: str | None,
    parts: list[int] | None,
    tokens: int,
) -> None:
    await messages.append(conversation.id, message("a", content, parts=parts))

    assert seqs(await messages.recent(conversation.id, token_budget=tokens)) == [1]
    assert not tokens or await messages.recent(conversation.id, token_budget=tokens - 1) == []


@pytest.mark.slow
async def test_a_budget_considers_at_most_a_thousand_messages(
    messages: MessageHistoryRepository, conversation: Conversation
) -> None:
    for batch in range(2):
        await messages.append_many(conversation.id, [message(f"{batch}:{n}", token_count=1) for n in range(600)])

    assert len(await messages.recent(conversation.id, token_budget=10**6)) == 1000
    assert len(await messages.recent(conversation.id, token_budget=1100)) == 1000


async def test_a_budget_does_not_read_the_whole_of_a_long_conversation(
    session: AsyncSession, messages: MessageHistoryRepository, conversation: Conversation
) -> None:
    """By the plan's own count: the window stops with the limit, however long the conversation is."""
    for batch in range(3):
        await messages.append_many(conversation.id, [message(f"{batch}:{n}", token_count=1) for n in range(1000)])
    sent: list[tuple[str, tuple[object, ...]]] = []
    connection = (await session.connection()).sync_connection
    assert connection is not None
    event.listen(connection, "before_cursor_execute", lambda *cursor: sent.append((cursor[2], cursor[3])))
    await messages.recent(conversation.id, token_budget=100)
    statement, values = sent[-1]

    driver = (await (await session.connection()).get_raw_connection()).driver_connection
    assert driver is not None
    plan = await driver.fetch(f"EXPLAIN (ANALYZE, TIMING OFF, COSTS OFF) {statement}", *values)

    lines = [line[0] for line in plan]
    [scan] = [line for line in lines if "Scan" in line and "message_history" in line]
    assert "Index Scan Backward using uq_message_history_tenant_id_conversation_id_seq" in scan, lines
    assert 1000 <= float(scan.split("rows=")[1].split()[0].rstrip(")")) <= 1001, lines


async def test_pages_go_both_ways_and_meet(messages: MessageHistoryRepository, ten: Conversation) -> None:
    assert seqs(await messages.before(ten.id, 4, limit=2)) == [2, 3]
    assert seqs(await messages.before(ten.id, 2, limit=2)) == [1]
    assert await messages.before(ten.id, 1, limit=2) == []
    assert seqs(await messages.after(ten.id, 0, limit=4)) == [1, 2, 3, 4]
    assert seqs(await messages.after(ten.id, 8, limit=4)) == [9, 10]
    assert await messages.after(ten.id, 10) == []
    assert await messages.after(uuid7(), 0) == []


async def test_around_returns_the_anchor_and_both_sides(messages: MessageHistoryRepository, ten: Conversation) -> None:
    assert seqs(await messages.around(ten.id, 5, before=2, after=3)) == [3, 4, 5, 6, 7, 8]
    assert seqs(await messages.around(ten.id, 1, before=2, after=1)) == [1, 2]
    assert seqs(await messages.around(ten.id, 10, before=0, after=5)) == [10]
    assert seqs(await messages.around(ten.id, 99, before=2, after=2)) == [9, 10], "the anchor may be missing"
    assert seqs(await messages.around(ten.id, 0, before=1000, after=1000)) == list(range(1, 11))
    with pytest.raises(ValueError, match="before must be from 0 to 1000, got 1001"):
        await messages.around(ten.id, 5, before=1001)
    with pytest.raises(ValueError, match="before must be from 0 to 1000, got True"):
        await messages.around(ten.id, 5, before=True)
    with pytest.raises(ValueError, match="after must be from 0 to 1000, got -1"):
        await messages.around(ten.id, 5, after=-1)


async def test_pages_skip_deleted_messages(messages: MessageHistoryRepository, ten: Conversation) -> None:
    await messages.pop(ten.id)
    fifth = await messages.get_by_message_id("5")
    assert fifth is not None
    await messages.delete(fifth.id)

    assert seqs(await messages.before(ten.id, 7, limit=3)) == [3, 4, 6]
    assert seqs(await messages.after(ten.id, 3, limit=3)) == [4, 6, 7]
    assert seqs(await messages.around(ten.id, 5, before=1, after=1)) == [4, 6]
    assert seqs(await messages.tail(ten.id, 8)) == [9]


async def test_a_window_refreshes_the_messages_of_the_session(
    session: AsyncSession, messages: MessageHistoryRepository, ten: Conversation, user: User
) -> None:
    [known] = await messages.recent(ten.id, limit=1)

    await session.execute(
        text("UPDATE message_history SET content = 'adios' WHERE tenant_id = :tenant AND id = :id"),
        {"tenant": session.tenant_id, "id": known.id},
    )

    assert [one.content for one in await messages.recent(ten.id, limit=1)] == ["adios"]
