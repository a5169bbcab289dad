"""MessageHistoryRepository: an answer is stored while it is generated, and followers get it when it is complete."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from datetime import timedelta

import pytest
from sqlalchemy import text

from src.database.errors import NotFoundError, StaleDataError
from src.database.models import Conversation, MessageHistory
from src.database.repositories import MessageHistoryRepository
from tests.database.repositories.messages.conftest import message

MINUTE = timedelta(minutes=1)


@pytest.fixture
async def answer(messages: MessageHistoryRepository, conversation: Conversation) -> MessageHistory:
    """An incomplete message between two others."""
    batch = [message("1"), message("answer", None, role="assistant", state="incomplete"), message("3")]
    return (await messages.append_many(conversation.id, batch))[1].message


async def set_last_change(messages: MessageHistoryRepository, key: str, age: timedelta) -> None:
    """Set the time of the last change of a message back."""
    written = "now() - CAST(:age AS interval)"
    await messages.session.execute(
        text(f"UPDATE message_history SET updated_at = {written} WHERE tenant_id = :tenant AND message_id = :key"),  # noqa: S608 - a literal
        {"age": age, "tenant": messages.session.tenant_id, "key": key},
    )


async def test_pieces_are_put_together(messages: MessageHistoryRepository, answer: MessageHistory) -> None:
    pieces = ["Ho", "la, ", "", "🙂 señor", "\0"]
    sent = 0
    for piece in pieces:
        await messages.extend("answer", piece, offset=sent)
        sent += len(piece)

    assert answer.content == "Hola, 🙂 señor\ufffd"
    assert len(answer.content) == sent


async def test_a_piece_that_is_sent_twice_is_added_once(
    messages: MessageHistoryRepository, answer: MessageHistory
) -> None:
    for piece, offset in [("Hola", 0), ("Hola", 0), (", Ada", 4), (", Ada", 4), ("Hola", 0), ("la, ", 2), ("", 9)]:
        await messages.extend("answer", piece, offset=offset)

    assert answer.content == "Hola, Ada"


async def test_the_missing_rest_of_a_partly_stored_piece_is_added(
    messages: MessageHistoryRepository, answer: MessageHistory
) -> None:
    await messages.extend("answer", "Hola, A", offset=0)

    await messages.extend("answer", ", Ada!", offset=4)

    assert answer.content == "Hola, Ada!"


@pytest.mark.parametrize(("piece", "offset"), [("!", 5), ("", 5), ("x", 3), ("hola", 0), ("Hola!!", 1), ("olé", 1)])
async def test_a_piece_that_does_not_follow_is_rejected(
    messages: MessageHistoryRepository, answer: MessageHistory, piece: str, offset: int
) -> None:
    await messages.extend("answer", "Hola", offset=0)

    with pytest.raises(StaleDataError, match=f"the piece at {offset} does not continue") as caught:
        await messages.extend("answer", piece, offset=offset)

    assert "Hola" not in str(caught.value)
    assert answer.content == "Hola"


@pytest.mark.parametrize("offset", [-1, 2**31, 1.0, True])
async def test_an_invalid_offset_is_rejected(
    messages: MessageHistoryRepository, answer: MessageHistory, offset: int
) -> None:
    with pytest.raises(ValueError, match="offset must be"):
        await messages.extend("answer", "x", offset=offset)


async def test_complete_sets_the_given_attributes(messages: MessageHistoryRepository, answer: MessageHistory) -> None:
    await messages.extend("answer", "Hola", offset=0)

    parts = [{"type": "tool_use", "id": "a\0", "input": {}}]
    ended = await messages.mark_complete("answer", parts=parts, model="m", input_tokens=7, output_tokens=2)

    assert (ended.state, ended.content, ended.model, ended.input_tokens, ended.output_tokens, ended.token_count) == (
        "complete", "Hola", "m", 7, 2, None
    )  # fmt: skip
    assert ended.parts == [{"type": "tool_use", "id": "a\0", "input": {}}]
    assert (await messages.mark_complete("answer", parts=parts, model="m")).state == "complete", "a retry"
    with pytest.raises(StaleDataError, match="is complete"):
        await messages.mark_complete("answer", model="another")


async def test_interrupted_keeps_the_content(messages: MessageHistoryRepository, answer: MessageHistory) -> None:
    await messages.extend("answer", "Ho", offset=0)

    ended = await messages.mark_interrupted("answer", output_tokens=1)

    assert (ended.state, ended.content, ended.output_tokens) == ("interrupted", "Ho", 1)
    assert (await messages.mark_interrupted("answer")).state == "interrupted", "a retry"


async def test_an_ended_message_does_not_change(messages: MessageHistoryRepository, answer: MessageHistory) -> None:
    steps: dict[str, Callable[[], Awaitable[MessageHistory]]] = {
        "complete": lambda: messages.mark_interrupted("answer"),
        "interrupted": lambda: messages.mark_complete("answer"),
    }
    await messages.extend("answer", "Hola", offset=0)
    await messages.mark_complete("answer")
    for state, step in steps.items():
        await messages.session.execute(
            text("UPDATE message_history SET state = :state WHERE tenant_id = :tenant AND message_id = 'answer'"),
            {"state": state, "tenant": messages.session.tenant_id},
        )
        with pytest.raises(StaleDataError, match=f"is {state}"):
            await step()
        with pytest.raises(StaleDataError, match=f"is {state}"):
            await messages.extend("answer", "!", offset=4)
        assert (await messages.extend("answer", "la", offset=2)).content == "Hola", "a retry of a stored piece"


async def test_a_missing_message_cannot_be_extended(messages: MessageHistoryRepository, answer: MessageHistory) -> None:
    await messages.delete(answer.id)

    for key in ("answer", "nothing"):
        for step in (messages.extend(key, "", offset=0), messages.mark_complete(key), messages.mark_interrupted(key)):
            with pytest.raises(NotFoundError):
                await step


async def test_tokens_below_zero_are_rejected(messages: MessageHistoryRepository, answer: MessageHistory) -> None:
    with pytest.raises(ValueError, match="output_tokens must be a whole number from 0 to 2147483647, got -1"):
        await messages.mark_complete("answer", output_tokens=-1)


async def test_the_first_piece_sent_again_after_the_answer_grew_is_a_duplicate(
    messages: MessageHistoryRepository, conversation: Conversation, answer: MessageHistory
) -> None:
    await messages.extend("answer", "Hola", offset=0)

    again = await messages.append(conversation.id, message("answer", None, role="assistant", state="incomplete"))

    assert not again.inserted
    assert again.message.content == "Hola"


async def test_tail_stops_before_an_incomplete_message_and_continues_after_its_end(
    messages: MessageHistoryRepository, conversation: Conversation, answer: MessageHistory
) -> None:
    async def tail(after_seq: int, limit: int = 100) -> list[int]:
        return [one.seq for one in await messages.tail(conversation.id, after_seq, limit=limit)]

    assert await tail(0) == [1]
    assert await tail(1) == []
    assert await tail(2) == [3]
    await messages.mark_interrupted("answer")
    assert await tail(0) == [1, 2, 3]
    assert await tail(1, limit=1) == [2]
    assert await tail(3) == []


async def test_tail_does_not_wait_for_an_incomplete_message_that_was_deleted(
    messages: MessageHistoryRepository, conversation: Conversation, answer: MessageHistory
) -> None:
    await messages.delete(answer.id)

    assert [one.seq for one in await messages.tail(conversation.id, 0)] == [1, 3]


async def test_a_restored_incomplete_message_is_interrupted(
    messages: MessageHistoryRepository, conversation: Conversation, answer: MessageHistory
) -> None:
    other = (await messages.append(conversation.id, message("4", None, role="assistant", state="incomplete"))).message
    await messages.delete(answer.id)
    seen = [one.seq for one in await messages.tail(conversation.id, 0)]

    await messages.restore(answer.id)
    await messages.restore(other.id)

    assert seen == [1, 3]
    assert (answer.state, other.state) == ("interrupted", "incomplete"), "the second message was not deleted"
    with pytest.raises(StaleDataError, match="is interrupted"):
        await messages.extend("answer", "late", offset=0)


async def test_a_count_of_tokens_is_forgotten_with_the_content_that_it_counted(
    messages: MessageHistoryRepository, conversation: Conversation, answer: MessageHistory
) -> None:
    await messages.extend("answer", "Hola", offset=0)
    await messages.update(answer.id, token_count=1)
    for piece, offset in [("", 4), ("la", 2), ("Hola", 0)]:
        assert (await messages.extend("answer", piece, offset=offset)).token_count == 1, "nothing was added"

    await messages.extend("answer", "Hola" + ", Ada" * 1000, offset=0)

    assert answer.token_count is None
    assert await messages.recent(conversation.id, token_budget=100, before_seq=3) == []


async def test_interrupts_messages_that_have_not_changed_for_too_long(
    messages: MessageHistoryRepository, conversation: Conversation, answer: MessageHistory
) -> None:
    await messages.append(conversation.id, message("alive", role="assistant", state="incomplete"))
    deleted = (await messages.append(conversation.id, message("deleted", state="incomplete"))).message
    await messages.delete(deleted.id)
    for key, age in (("answer", 3 * MINUTE), ("alive", MINUTE), ("deleted", 3 * MINUTE), ("1", 3 * MINUTE)):
        await set_last_change(messages, key, age)

    assert [one.message_id for one in await messages.interrupt_stale(older_than=2 * MINUTE)] == ["answer"]
    assert await messages.interrupt_stale(older_than=2 * MINUTE) == []
    assert [one.seq for one in await messages.tail(conversation.id, 0)] == [1, 2, 3]
    with pytest.raises(StaleDataError, match="is interrupted"):
        await messages.extend("answer", "too late", offset=0)


async def test_a_piece_keeps_a_message_from_being_interrupted(
    messages: MessageHistoryRepository, answer: MessageHistory
) -> None:
    await set_last_change(messages, "answer", 3 * MINUTE)

    await messages.extend("answer", "", offset=0)

    assert await messages.interrupt_stale(older_than=2 * MINUTE) == []


async def test_interrupts_no_more_than_the_limit(
    messages: MessageHistoryRepository, conversation: Conversation
) -> None:
    await messages.append_many(conversation.id, [message(str(n), state="incomplete") for n in range(5)])
    for n in range(5):
        await set_last_change(messages, str(n), MINUTE)

    counts = [len(await messages.interrupt_stale(older_than=MINUTE / 2, limit=2)) for _ in range(4)]

    assert counts == [2, 2, 1, 0]


@pytest.mark.parametrize("age", [timedelta(0), -MINUTE])
async def test_an_invalid_age_is_rejected(messages: MessageHistoryRepository, age: timedelta) -> None:
    with pytest.raises(ValueError, match="older_than must be positive"):
        await messages.interrupt_stale(older_than=age)


async def test_an_age_that_no_message_has_is_rejected(messages: MessageHistoryRepository) -> None:
    with pytest.raises(ValueError, match="older_than must be at most 36500 days"):
        await messages.interrupt_stale(older_than=timedelta.max)


async def test_silence_counts_until_now_and_not_until_the_transaction_began(
    messages: MessageHistoryRepository, answer: MessageHistory
) -> None:
    await messages.extend("answer", "Ho", offset=0)
    await asyncio.sleep(0.1)

    assert await messages.interrupt_stale(older_than=timedelta(milliseconds=50)) == [answer]
