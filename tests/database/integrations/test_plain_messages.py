"""Stored messages in the formats of SDKs, read as text, tool calls and results."""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

import pytest

from src.database.integrations.plain_messages import PlainCall, PlainResult, plain_messages
from src.database.models.limits import Role
from tests.database.repositories.messages.test_tool_formats import FORMATS, Format


@dataclass
class Row:
    """The attributes of a stored message that are read."""

    role: Role
    content: str | None = None
    parts: list[Any] | None = None
    tool_call_id: str | None = None
    tool_name: str | None = None
    message_id: str = "m"
    model: str | None = None
    input_tokens: int | None = None
    output_tokens: int | None = None
    created_at: datetime = datetime(2026, 11, 30, tzinfo=UTC)
    extra: dict[str, Any] = field(default_factory=dict)


def conversation_in(of: Format, ids: list[str]) -> list[Row]:
    return [Row("assistant", parts=of.calls(ids)), *(Row(**one) for one in of.results(ids))]


@pytest.mark.parametrize("name", [name for name in FORMATS if not name.endswith("interface messages")])
def test_parallel_calls_and_their_results_are_read_from_each_format(name: str) -> None:
    [called, *answered] = plain_messages(conversation_in(FORMATS[name], ["a", "b"]))
    results = [result for message in answered for result in message.results]

    assert [call.name for call in called.calls] == ["tool_a", "tool_b"]
    assert {call.call_id for call in called.calls} == {result.call_id for result in results}
    if "id" in name or "gemini" not in name:
        assert len({call.call_id for call in called.calls}) == 2
    names = {call.call_id: call.name for call in called.calls}
    assert all(result.name in (names[result.call_id], "t") for result in results)
    assert all(
        call.arguments in ({}, {"id": "other"}, {"call_id": "other"}, {"tool_use_id": "other"}) for call in called.calls
    )
    assert {result.content for result in results} <= {
        "ok",
        "",
        "{}",
        '{"id": "other"}',
        '{"call_id": "other"}',
        '{"type": "json"}',
    }
    assert [message.text for message in (called, *answered)] == [None] * (1 + len(answered))


@pytest.mark.parametrize(
    ("row", "text"),
    [
        (Row("user", "hello"), "hello"),
        (Row("user", "the column", [{"type": "text", "text": "another"}]), "the column"),
        (Row("user", None, [{"type": "input_text", "text": "one"}, {"type": "input_text", "text": "two"}]), "one\ntwo"),
        (Row("user", None, [{"role": "user", "content": "whole message"}]), "whole message"),
        (Row("assistant", None, [{"type": "message", "content": [{"type": "output_text", "text": "hi"}]}]), "hi"),
        (Row("user", None, [{"kind": "request", "parts": [{"part_kind": "user-prompt", "content": "hi"}]}]), "hi"),
        (Row("user", None, [{"role": "user", "parts": [{"text": "gemini"}]}]), "gemini"),
        (Row("user", None, [{"type": "human", "data": {"content": "langchain", "type": "human"}}]), "langchain"),
        (Row("user", None, ["plain text"]), "plain text"),
        (Row("assistant", None, [{"type": "thinking", "thinking": "hm", "text": "no"}, {"type": "reasoning"}]), None),
        (Row("user", None, [{"type": "image_url", "image_url": {"url": "https://a.test"}}]), None),
        (Row("user", None, [{"type": "tool_result", "tool_use_id": "a", "content": "no"}, {"text": "yes"}]), "yes"),
        (Row("tool", "a result", tool_call_id="a"), None),
        (Row("system", "rules"), "rules"),
        (Row("user"), None),
    ],
)
def test_the_text_of_a_message(row: Row, text: str | None) -> None:
    [message] = plain_messages([row])

    assert message.text == text


def test_calls_and_results_in_the_columns() -> None:
    call, result, value = plain_messages(
        [
            Row("assistant", tool_call_id="a", tool_name="look"),
            Row("tool", '{"saw": 1}', tool_call_id="a"),
            Row("tool", None, [{"temperature": 20}], tool_call_id="a", tool_name="look"),
        ]
    )

    assert call.calls == [PlainCall("a", "look", {})]
    assert result.results == [PlainResult("a", "look", '{"saw": 1}')]
    assert value.results == [PlainResult("a", "look", '{"temperature": 20}')]


def test_calls_of_one_tool_without_ids_are_paired_in_their_order() -> None:
    calls = [{"functionCall": {"name": "look", "args": {"at": at}}} for at in (1, 2)]
    results = [{"functionResponse": {"name": "look", "response": {"saw": at}}} for at in (1, 2)]
    called, answered = plain_messages([Row("assistant", parts=calls), Row("user", parts=results)])

    assert [call.arguments for call in called.calls] == [{"at": 1}, {"at": 2}]
    assert [result.content for result in answered.results] == ['{"saw": 1}', '{"saw": 2}']
    assert [call.call_id for call in called.calls] == [result.call_id for result in answered.results]


def test_arguments_that_are_no_object_are_text() -> None:
    parts = [{"type": "function_call", "call_id": "a", "name": "f", "arguments": text} for text in ("[1", "[1]", "")]
    [message] = plain_messages([Row("assistant", parts=parts)])

    assert [call.arguments for call in message.calls] == ["[1"]  # an id that occurs again in a message is the same call


def test_a_result_without_a_call_and_a_call_without_a_name_are_read() -> None:
    orphan, nameless = plain_messages(
        [Row("tool", "lost", tool_call_id="z"), Row("assistant", parts=[{"call_id": "q", "arguments": "{}"}])]
    )

    assert orphan.results == [PlainResult("z", "", "lost")]
    assert nameless.calls == [PlainCall("q", "", {})]
