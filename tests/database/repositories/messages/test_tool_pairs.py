"""MessageHistoryRepository.recent: a tool's call and its results are kept together."""

from __future__ import annotations

import pytest

from src.database.models import Conversation
from src.database.repositories import MessageHistoryRepository
from tests.database.repositories.messages.conftest import call, message, result

CONVERSATION = [
    message("1"),
    call("2", "a", "b"),
    result("3", "a"),
    message("4"),
    result("5", "b"),
    message("6", role="assistant"),
]


async def keys(messages: MessageHistoryRepository, conversation: Conversation, **window: int) -> list[str]:
    return [one.message_id for one in await messages.recent(conversation.id, **window)]


@pytest.mark.parametrize(("limit", "expected"), [(6, "123456"), (5, "23456"), (4, "46"), (3, "46"), (2, "6"), (1, "6")])
async def test_a_result_whose_call_was_cut_off_is_left_out(
    messages: MessageHistoryRepository, conversation: Conversation, limit: int, expected: str
) -> None:
    await messages.append_many(conversation.id, CONVERSATION)

    assert await keys(messages, conversation, limit=limit) == list(expected)


@pytest.mark.parametrize(
    ("before_seq", "expected"), [(7, "123456"), (6, "12345"), (5, "14"), (4, "1"), (3, "1"), (2, "1"), (1, "")]
)
async def test_a_call_with_a_result_after_the_window_is_left_out_with_its_other_results(
    messages: MessageHistoryRepository, conversation: Conversation, before_seq: int, expected: str
) -> None:
    await messages.append_many(conversation.id, CONVERSATION)

    assert await keys(messages, conversation, before_seq=before_seq) == list(expected)


async def test_a_budget_cuts_no_pair(messages: MessageHistoryRepository, conversation: Conversation) -> None:
    await messages.append_many(
        conversation.id,
        [call("1", "a"), result("2", "a", token_count=5), message("3", token_count=5)],
    )

    assert await keys(messages, conversation, token_budget=10) == ["3"]
    assert await keys(messages, conversation, token_budget=100) == ["1", "2", "3"]


async def test_a_call_that_nobody_has_answered_stays(
    messages: MessageHistoryRepository, conversation: Conversation
) -> None:
    await messages.append_many(conversation.id, [message("1"), call("2", "a", "b"), result("3", "a")])

    assert await keys(messages, conversation) == ["1", "2", "3"]
    assert await keys(messages, conversation, before_seq=4) == ["1", "2", "3"]


async def test_an_id_that_is_used_again_is_matched_with_the_call_before_it(
    messages: MessageHistoryRepository, conversation: Conversation
) -> None:
    """Some models number their calls from 0 in each answer."""
    await messages.append_many(
        conversation.id,
        [call("1", "0"), result("2", "0"), message("3"), call("4", "0"), result("5", "0")],
    )

    assert await keys(messages, conversation, limit=4) == ["3", "4", "5"]
    assert await keys(messages, conversation, before_seq=5) == ["1", "2", "3"]
    assert await keys(messages, conversation, before_seq=4) == ["1", "2", "3"]


async def test_a_result_is_not_matched_with_an_earlier_call_where_its_own_is_left_out(
    messages: MessageHistoryRepository, conversation: Conversation
) -> None:
    await messages.append_many(
        conversation.id,
        [call("1", "0"), result("2", "0"), call("3", "0", "1"), result("4", "0"), result("5", "1")],
    )

    assert await keys(messages, conversation, before_seq=5) == ["1", "2"]


@pytest.mark.parametrize("name", ["id", "call_id", "tool_call_id", "toolCallId"])
async def test_a_call_names_its_id_as_any_of_the_formats_do(
    messages: MessageHistoryRepository, conversation: Conversation, name: str
) -> None:
    await messages.append_many(conversation.id, [call("1", "a", name=name), result("2", "a")])

    assert await keys(messages, conversation) == ["1", "2"]


async def test_an_assistants_message_with_the_tool_call_id_itself_is_a_call(
    messages: MessageHistoryRepository, conversation: Conversation
) -> None:
    await messages.append_many(
        conversation.id, [message("1", role="assistant", tool_call_id="a"), result("2", "a"), message("3")]
    )

    assert await keys(messages, conversation) == ["1", "2", "3"]
    assert await keys(messages, conversation, limit=2) == ["3"]


async def test_a_result_without_an_id_belongs_to_what_stands_before_it(
    messages: MessageHistoryRepository, conversation: Conversation
) -> None:
    await messages.append_many(conversation.id, [call("1"), result("2", None), result("3", None), message("4")])

    assert await keys(messages, conversation) == ["1", "2", "3", "4"]
    assert await keys(messages, conversation, limit=3) == ["4"]


async def test_parts_of_any_shape_are_no_calls(messages: MessageHistoryRepository, conversation: Conversation) -> None:
    odd = [None, 1, "a", ["a"], {"id": None}, {"id": ["a"]}, {"id": {"a": "a"}}, {"id": 7}]
    await messages.append_many(
        conversation.id,
        [message("1", role="assistant", parts=odd), message("2", parts=[{"id": "a"}]), result("3", "a")],
    )

    assert await keys(messages, conversation) == ["1", "2"], "nor is what a user sent a call"


async def test_an_id_that_had_to_be_cleaned_is_matched_too(
    messages: MessageHistoryRepository, conversation: Conversation
) -> None:
    await messages.append_many(conversation.id, [call("1", "a\0"), result("2", "a\0"), call("3", "b\0")])
    await messages.append(conversation.id, result("4", "b\0"))

    assert await keys(messages, conversation) == ["1", "2", "3", "4"]
    assert await keys(messages, conversation, before_seq=4) == ["1", "2"]


async def test_the_result_of_a_deleted_call_is_left_out(
    messages: MessageHistoryRepository, conversation: Conversation
) -> None:
    [first, *_] = await messages.append_many(conversation.id, [call("1", "a"), result("2", "a"), message("3")])
    await messages.delete(first.message.id)

    assert await keys(messages, conversation) == ["3"]


async def test_pages_leave_nothing_out(messages: MessageHistoryRepository, conversation: Conversation) -> None:
    await messages.append_many(conversation.id, CONVERSATION)

    assert [one.seq for one in await messages.before(conversation.id, 5, limit=2)] == [3, 4]
    assert [one.seq for one in await messages.after(conversation.id, 2, limit=2)] == [3, 4]
