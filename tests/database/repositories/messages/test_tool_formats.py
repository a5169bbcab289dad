"""Windows of conversations in the formats of SDKs: only what the edge of a window cuts is left out."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import pytest

from src.database.models import Conversation
from src.database.repositories import MessageHistoryRepository, NewMessage
from src.database.statements import whole_pairs
from tests.database.repositories.messages.conftest import message

Calls = Sequence[str]
"""The ids of parallel calls; each calls the tool `tool_<id>`."""


class Format(NamedTuple):
    """The `parts` of an assistant's message with calls, and the messages with their results."""

    calls: Callable[[Calls], list[Any]]
    results: Callable[[Calls], list[dict[str, Any]]]


def of_users(parts: Callable[[str], Any], wrap: Callable[[list[Any]], Any] | None = None) -> Callable[[Calls], Any]:
    """One user's message has all results."""

    def results(ids: Calls) -> list[dict[str, Any]]:
        objects = [parts(one) for one in ids]
        return [{"role": "user", "parts": objects if wrap is None else [wrap(objects)]}]

    return results


def of_tools(part: Callable[[str], Any], *, has_column: bool = False) -> Callable[[Calls], Any]:
    """Each result is a message of the tool."""

    def results(ids: Calls) -> list[dict[str, Any]]:
        columns = [{"tool_call_id": one} if has_column else {} for one in ids]
        return [{"role": "tool", "parts": [part(one)], **more} for one, more in zip(ids, columns, strict=True)]

    return results


def completions_call(one: str) -> dict[str, Any]:
    return {"id": one, "type": "function", "function": {"name": f"tool_{one}", "arguments": '{"id": "other"}'}}


def langchain_call(one: str) -> dict[str, Any]:
    return {"name": f"tool_{one}", "args": {"id": "other"}, "id": one, "type": "tool_call"}


def anthropic_call(one: str) -> dict[str, Any]:
    return {"type": "tool_use", "id": one, "name": f"tool_{one}", "input": {"tool_use_id": "other"}}


def anthropic_result(one: str) -> dict[str, Any]:
    return {"type": "tool_result", "tool_use_id": one, "content": [{"type": "text", "text": "ok", "call_id": "other"}]}


def pydantic_call(one: str) -> dict[str, Any]:
    return {"part_kind": "tool-call", "tool_name": f"tool_{one}", "args": {"call_id": "other"}, "tool_call_id": one}


def pydantic_result(one: str) -> dict[str, Any]:
    return {"part_kind": "tool-return", "tool_name": f"tool_{one}", "content": {"id": "other"}, "tool_call_id": one}


def adk_event(role: str, parts: list[Any]) -> dict[str, Any]:
    return {"id": "other", "author": "guide", "content": {"role": role, "parts": parts}, "actions": {"stateDelta": {}}}


def gemini(name: str, one: str, value: str, *, has_id: bool) -> dict[str, Any]:
    """A part as `model_dump` of google-genai writes it."""
    nested = {"id": one if has_id else None, "name": f"tool_{one}", value: {"call_id": "other"}}
    return {"text": None, "function_call": None, "function_response": None, name: nested}


FORMATS = {
    "chat.completions, whole messages": Format(
        lambda ids: [{"role": "assistant", "content": None, "tool_calls": [completions_call(one) for one in ids]}],
        of_tools(lambda one: {"role": "tool", "tool_call_id": one, "content": "ok"}),
    ),
    "chat.completions, calls": Format(
        lambda ids: [completions_call(one) for one in ids], of_tools(lambda _: {"content": "ok"}, has_column=True)
    ),
    "chat.completions before tool_calls": Format(
        lambda ids: [{"role": "assistant", "function_call": {"name": f"tool_{one}", "arguments": "{}"}} for one in ids],
        of_tools(lambda one: {"role": "function", "name": f"tool_{one}", "content": "ok"}),
    ),
    "responses": Format(
        lambda ids: [
            {"type": "reasoning", "id": "rs_1", "summary": []},
            *({"type": "function_call", "id": f"fc_{one}", "call_id": one, "name": f"tool_{one}"} for one in ids),
        ],
        of_tools(lambda one: {"type": "function_call_output", "call_id": one, "output": "ok"}),
    ),
    "responses, results of the user": Format(
        lambda ids: [{"type": "function_call", "call_id": one, "name": f"tool_{one}"} for one in ids],
        of_users(lambda one: {"type": "function_call_output", "call_id": one, "output": "ok"}),
    ),
    "anthropic, blocks": Format(lambda ids: [anthropic_call(one) for one in ids], of_users(anthropic_result)),
    "anthropic, whole messages": Format(
        lambda ids: [{"role": "assistant", "content": [{"type": "text"}, *map(anthropic_call, ids)]}],
        of_users(anthropic_result, lambda blocks: {"role": "user", "content": blocks}),
    ),
    "gemini, parts with ids": Format(
        lambda ids: [gemini("function_call", one, "args", has_id=True) for one in ids],
        of_users(lambda one: gemini("function_response", one, "response", has_id=True)),
    ),
    "gemini, whole messages without ids": Format(
        lambda ids: [
            {"role": "model", "parts": [gemini("function_call", one, "args", has_id=False) for one in ids]},
        ],
        of_users(
            lambda one: gemini("function_response", one, "response", has_id=False),
            lambda parts: {"role": "user", "parts": parts[::-1]},
        ),
    ),
    "google-adk": Format(
        lambda ids: [adk_event("model", [{"functionCall": {"id": one, "name": f"tool_{one}"}} for one in ids])],
        lambda ids: [
            {
                "role": "tool",
                "parts": [adk_event("user", [{"functionResponse": {"id": one, "response": {}}} for one in ids])],
            }
        ],
    ),
    "gemini, REST": Format(
        lambda ids: [{"functionCall": {"name": f"tool_{one}", "args": {}}} for one in ids],
        of_users(lambda one: {"functionResponse": {"name": f"tool_{one}", "response": {}}}),
    ),
    "pydantic-ai, parts": Format(lambda ids: [pydantic_call(one) for one in ids], of_users(pydantic_result)),
    "pydantic-ai, whole messages": Format(
        lambda ids: [{"kind": "response", "parts": [pydantic_call(one) for one in ids], "usage": {}}],
        of_users(pydantic_result, lambda parts: {"kind": "request", "parts": parts}),
    ),
    "pydantic-ai, a retry": Format(
        lambda ids: [pydantic_call(one) for one in ids],
        of_users(lambda one: {**pydantic_result(one), "part_kind": "retry-prompt"}),
    ),
    "langchain, messages_to_dict": Format(
        lambda ids: [
            {
                "type": "ai",
                "data": {
                    "type": "ai",
                    "id": "run-1",
                    "content": [anthropic_call(one) for one in ids],
                    "tool_calls": [langchain_call(one) for one in ids],
                    "additional_kwargs": {"tool_calls": [completions_call(one) for one in ids]},
                },
            }
        ],
        of_tools(lambda one: {"type": "tool", "data": {"type": "tool", "tool_call_id": one, "content": "ok"}}),
    ),
    "langchain, dumpd": Format(
        lambda ids: [
            {
                "lc": 1,
                "type": "constructor",
                "id": ["langchain", "schema", "messages", "AIMessage"],
                "kwargs": {"type": "ai", "tool_calls": [langchain_call(one) for one in ids]},
            }
        ],
        of_tools(lambda one: {"lc": 1, "type": "constructor", "kwargs": {"type": "tool", "tool_call_id": one}}),
    ),
    "ai sdk, model messages": Format(
        lambda ids: [
            {
                "role": "assistant",
                "content": [{"type": "tool-call", "toolCallId": one, "toolName": f"tool_{one}"} for one in ids],
            }
        ],
        of_tools(
            lambda one: {
                "role": "tool",
                "content": [{"type": "tool-result", "toolCallId": one, "toolName": "t", "output": {"type": "json"}}],
            }
        ),
    ),
    "ai sdk, interface messages": Format(
        lambda ids: [
            {
                "id": "msg_1",
                "role": "assistant",
                "parts": [
                    {"type": "data-chart", "data": {"tool_call_id": "other"}},
                    *({"type": "tool-x", "toolCallId": one, "state": "output-available", "output": 1} for one in ids),
                ],
            }
        ],
        lambda _: [],
    ),
}


def conversation_in(of: Format) -> list[tuple[NewMessage, int]]:
    """Messages of a conversation in a format, each with the number of its group: a pair, or a message of its own."""
    rows: list[tuple[dict[str, Any], int]] = [({"role": "user"}, 0)]
    for group, ids in ((1, ["a"]), (3, ["b", "c"])):
        rows.append(({"role": "assistant", "content": None, "parts": of.calls(ids)}, group))
        rows.extend(({"content": None, **one}, group) for one in of.results(ids))
        rows.append(({"role": "assistant"}, group + 10))
        rows.append(({"role": "user"}, group + 20))
    return [(message(f"k{number}", **row), group) for number, (row, group) in enumerate(rows)]


@pytest.mark.parametrize("name", FORMATS)
async def test_only_pairs_that_the_edge_cuts_are_left_out(
    messages: MessageHistoryRepository, conversation: Conversation, name: str
) -> None:
    stored = conversation_in(FORMATS[name])
    await messages.append_many(conversation.id, [one for one, _ in stored])

    for limit in range(1, len(stored) + 1):
        cut = {group for _, group in stored[: len(stored) - limit]}
        expected = [one.message_id for one, group in stored[len(stored) - limit :] if group not in cut]
        assert [one.message_id for one in await messages.recent(conversation.id, limit=limit)] == expected, limit
    for end in range(1, len(stored) + 1):
        cut = {group for _, group in stored[end:]}
        expected = [one.message_id for one, group in stored[:end] if group not in cut]
        window = await messages.recent(conversation.id, before_seq=end + 1)
        assert [one.message_id for one in window] == expected, end


@pytest.mark.parametrize("name", FORMATS)
def test_new_results_answer_the_call_before_them(name: str) -> None:
    """A turn returns the messages before its new ones, which may be the results of the last call."""
    stored = [one for one, _ in conversation_in(FORMATS[name])]
    called_at = max(number for number, one in enumerate(stored) if one.role == "assistant" and one.parts is not None)

    before, following = stored[: called_at + 1], stored[called_at + 1 :]
    assert whole_pairs(before, following=following) == before
    if FORMATS[name].results(["a"]):
        assert whole_pairs(before, following=[message("other")]) == before[:-1]
