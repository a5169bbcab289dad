"""MessageHistoryRepository.recent: a tool call and its results stay together; incomplete pairs are left out."""

from __future__ import annotations

from typing import Any

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


async def keys(messages: MessageHistoryRepository, conversation: Conversation, **window: Any) -> list[str]:
    return [one.message_id for one in await messages.recent(conversation.id, **window)]


@pytest.mark.parametrize(("limit", "expected"), [(6, "123456"), (5, "23456"), (4, "46"), (3, "46"), (2, "6"), (1, "6")])
async def test_a_result_without_its_call_is_left_out(
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


async def test_a_call_that_is_still_running_stays(
    messages: MessageHistoryRepository, conversation: Conversation
) -> None:
    await messages.append_many(conversation.id, [message("1"), call("2", "a", "b"), result("3", "a")])

    assert await keys(messages, conversation) == ["1", "2", "3"]
    assert await keys(messages, conversation, before_seq=4) == ["1", "2", "3"]
    assert await keys(messages, conversation, token_budget=100) == ["1", "2", "3"]


@pytest.mark.parametrize("later", ["user", "assistant", "system", "developer"])
async def test_a_call_without_a_result_is_left_out_once_a_later_message_exists(
    messages: MessageHistoryRepository, conversation: Conversation, later: Any
) -> None:
    await messages.append_many(conversation.id, [message("1"), call("2", "a"), message("3", role=later)])

    assert await keys(messages, conversation) == ["1", "3"]
    assert await keys(messages, conversation, limit=2) == ["3"]
    assert await keys(messages, conversation, token_budget=100) == ["1", "3"]
    assert await keys(messages, conversation, before_seq=4) == ["1", "3"]
    assert await keys(messages, conversation, before_seq=3) == ["1"]


async def test_a_parallel_call_without_a_result_removes_the_other_call_too(
    messages: MessageHistoryRepository, conversation: Conversation
) -> None:
    await messages.append_many(
        conversation.id,
        [message("1"), call("2", "a", "b"), result("3", "b"), message("4"), call("5", "c"), result("6", "c")],
    )

    assert await keys(messages, conversation) == ["1", "4", "5", "6"]
    assert await keys(messages, conversation, before_seq=4) == ["1"]


async def test_a_call_is_running_again_if_the_later_message_is_deleted(
    messages: MessageHistoryRepository, conversation: Conversation
) -> None:
    await messages.append_many(conversation.id, [message("1"), call("2", "a"), message("3")])
    await messages.pop(conversation.id)

    assert await keys(messages, conversation) == ["1", "2"]
    assert await keys(messages, conversation, before_seq=3) == ["1", "2"]


async def test_a_call_that_is_repeated_under_the_same_id_does_not_answer_the_first_one(
    messages: MessageHistoryRepository, conversation: Conversation
) -> None:
    await messages.append_many(conversation.id, [message("1"), call("2", "0"), call("3", "0"), result("4", "0")])

    assert await keys(messages, conversation) == ["1", "3", "4"]


async def test_results_without_ids_answer_the_calls_in_their_order(
    messages: MessageHistoryRepository, conversation: Conversation
) -> None:
    await messages.append_many(
        conversation.id,
        [call("1", "a", "b"), result("2", None), result("3", None), call("4", "c", "d"), result("5", None)],
    )
    assert await keys(messages, conversation) == ["1", "2", "3", "4", "5"]

    await messages.append(conversation.id, message("6"))
    assert await keys(messages, conversation) == ["1", "2", "3", "6"]


CALLS: dict[str, tuple[dict[str, Any], dict[str, Any] | None]] = {
    "chat.completions": ({"id": "a", "type": "function", "function": {"name": "f", "arguments": "{}"}}, None),
    "responses": ({"id": "fc_1", "call_id": "a", "type": "function_call", "name": "f", "arguments": "{}"}, None),
    "anthropic": ({"id": "a", "type": "tool_use", "name": "f", "input": {}}, None),
    "anthropic, results in a user's message": (
        {"id": "a", "type": "tool_use", "name": "f", "input": {}},
        {"type": "tool_result", "tool_use_id": "a", "content": "1"},
    ),
    "langchain": ({"id": "a", "type": "tool_call", "name": "f", "args": {}}, None),
    "pydantic-ai": ({"part_kind": "tool-call", "tool_name": "f", "args": "{}", "tool_call_id": "a"}, None),
    "pydantic-ai, results in a user's message": (
        {"part_kind": "tool-call", "tool_name": "f", "args": "{}", "tool_call_id": "a"},
        {"part_kind": "tool-return", "tool_name": "f", "content": "1", "tool_call_id": "a"},
    ),
    "ai sdk": ({"type": "tool-weather", "toolCallId": "a", "state": "input-available", "input": {}}, None),
    "without a type": ({"id": "a", "name": "f", "arguments": "{}"}, None),
}


@pytest.mark.parametrize("name", CALLS)
async def test_a_call_of_any_format_is_left_out_unless_it_is_answered(
    messages: MessageHistoryRepository, conversation: Conversation, name: str
) -> None:
    part, answer = CALLS[name]
    called = message("1", "let me see", role="assistant", parts=[{"type": "text", "text": "let me see"}, part])
    answered = result("2", "a") if answer is None else message("2", None, parts=[answer])
    await messages.append_many(conversation.id, [called, answered, message("3")])
    assert await keys(messages, conversation) == ["1", "2", "3"]
    assert await keys(messages, conversation, limit=2) == ["3"]

    stored = await messages.get_by_message_id("2")
    assert stored is not None
    await messages.delete(stored.id)
    assert await keys(messages, conversation) == ["3"]


@pytest.mark.parametrize(
    "part",
    [
        {"id": "msg_1", "type": "message", "role": "assistant", "content": []},
        {"id": "rs_1", "type": "reasoning", "summary": []},
        {"id": "ws_1", "type": "web_search_call", "status": "completed"},
        {"id": "srv_1", "type": "server_tool_use", "name": "web_search", "input": {}},
        {"type": "tool-weather", "toolCallId": "a", "state": "output-available", "input": {}, "output": None},
        {"type": "dynamic-tool", "toolCallId": "a", "state": "output-error", "input": {}, "errorText": "no"},
        {"id": "file", "name": "report.pdf"},
        {"id": "nothing else"},
    ],
    ids=lambda part: str(part.get("type") or part["id"]),
)
async def test_messages_that_need_no_result_are_kept(
    messages: MessageHistoryRepository, conversation: Conversation, part: dict[str, Any]
) -> None:
    await messages.append_many(
        conversation.id, [message("1", role="assistant", parts=[part]), message("2"), call("3", "c"), result("4", "c")]
    )

    assert await keys(messages, conversation) == ["1", "2", "3", "4"]


async def test_a_providers_own_tool_is_answered_in_the_same_message(
    messages: MessageHistoryRepository, conversation: Conversation
) -> None:
    parts = [
        {"part_kind": "builtin-tool-call", "tool_name": "search", "tool_call_id": "a"},
        {"part_kind": "builtin-tool-return", "tool_name": "search", "tool_call_id": "a", "content": "1"},
    ]
    await messages.append_many(conversation.id, [message("1", role="assistant", parts=parts), message("2")])

    assert await keys(messages, conversation) == ["1", "2"]


async def test_a_users_message_with_a_result_and_words_is_left_out_with_its_call(
    messages: MessageHistoryRepository, conversation: Conversation
) -> None:
    parts = [{"type": "tool_result", "tool_use_id": "a"}, {"type": "text", "text": "and thank you"}]
    await messages.append_many(conversation.id, [call("1", "a"), message("2", parts=parts), message("3")])

    assert await keys(messages, conversation) == ["1", "2", "3"]
    assert await keys(messages, conversation, limit=2) == ["3"]


async def test_unanswered_calls_are_kept_for_a_caller_that_answers_them(
    messages: MessageHistoryRepository, conversation: Conversation
) -> None:
    await messages.append_many(
        conversation.id, [call("1", "a", "b"), result("2", "a"), message("3"), result("4", "c"), call("5", "d")]
    )

    kept = await messages.recent(conversation.id, unanswered="keep")
    assert [one.message_id for one in kept] == ["1", "2", "3", "5"]
    assert await keys(messages, conversation) == ["3", "5"]
    kept = await messages.recent(conversation.id, before_seq=4, unanswered="keep")
    assert [one.message_id for one in kept] == ["1", "2", "3"]
    with pytest.raises(ValueError, match='unanswered must be "drop" or "keep", got \'answer\''):
        await messages.recent(conversation.id, unanswered="answer")  # type: ignore[arg-type]


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
        conversation.id,
        [
            *(message("1", role="assistant", tool_call_id="a"), result("2", "a"), message("3")),
            *(message("4", role="assistant", tool_call_id="b"), message("5")),
        ],
    )

    assert await keys(messages, conversation) == ["1", "2", "3", "5"]
    assert await keys(messages, conversation, limit=4) == ["3", "5"]


async def test_a_result_without_an_id_belongs_to_the_message_before_it(
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

    assert await keys(messages, conversation) == ["1", "2"], "a user's message is no call"


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
