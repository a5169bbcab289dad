"""StoredMessageHistory: messages of pydantic-ai come back equal, once, in windows that keep tool calls whole."""

from __future__ import annotations

import asyncio
import traceback
from collections.abc import AsyncIterator
from uuid import UUID

import pytest
from pydantic_ai import Agent, BinaryContent, ImageUrl, ModelMessage, ModelRequest, ModelResponse, UserPromptPart
from pydantic_ai.messages import (
    RetryFeedbackPart,
    RetryInfo,
    SystemPromptPart,
    TextPart,
    ThinkingPart,
    ToolCallPart,
    ToolReturnPart,
)
from pydantic_ai.models.test import TestModel

from src.database import get_db, tenant_context
from src.database.errors import DuplicateKeyError
from src.database.integrations.pydantic_ai import StoredMessageHistory
from src.database.models import User
from src.database.repositories import UserRepository
from src.database.statements import NewMessage
from src.database.store import MessageRow, get_store


async def new_user(telegram_id: int) -> UUID:
    async with get_db() as session:
        return (await UserRepository(session).add(User(telegram_id=telegram_id))).id


@pytest.fixture
async def user_id(tenants: dict[str, UUID]) -> AsyncIterator[UUID]:
    with tenant_context(tenants["acme"]):
        yield await new_user(1)


@pytest.fixture
def history(user_id: UUID) -> StoredMessageHistory:
    return StoredMessageHistory("h", user_id)


def turn(number: int) -> list[ModelMessage]:
    """Return a turn with two parallel calls."""
    ids = f"a{number}", f"b{number}"
    return [
        ModelRequest(parts=[UserPromptPart(f"question {number}")]),
        ModelResponse(parts=[ToolCallPart("look", '{"at": 1}', tool_call_id=one) for one in ids], model_name="m"),
        ModelRequest(parts=[ToolReturnPart("look", {"saw": one}, tool_call_id=one) for one in ids]),
        ModelResponse(parts=[ThinkingPart("hm", signature="s"), TextPart(f"answer {number}")]),
    ]


async def rows_of(user_id: UUID) -> list[MessageRow]:
    conversation, _ = await get_store().open_conversation("h", user_id)
    return await get_store().last(conversation.id, 1000)


async def test_an_agent_continues_its_history(history: StoredMessageHistory) -> None:
    agent = Agent(TestModel(), system_prompt="Be brief.")
    first = await agent.run("Hello", message_history=await history.load())
    await history.add(first.new_messages())
    second = await agent.run("And now?", message_history=await history.load())
    await history.add(second.new_messages())

    assert await history.load() == second.all_messages()


async def test_every_kind_of_part_comes_back_equal(history: StoredMessageHistory) -> None:
    image = BinaryContent(b"\xff\x00", media_type="image/png")
    messages: list[ModelMessage] = [
        *turn(1),
        ModelRequest(parts=[SystemPromptPart("rules"), UserPromptPart(["see", ImageUrl("https://a.test/b.png")])]),
        ModelRequest(
            parts=[RetryFeedbackPart("not JSON", retry=RetryInfo(cause="no_output"))],
            instructions="be nice",
            metadata={"a": [1.5, None]},
        ),
        ModelRequest(parts=[ToolReturnPart("f", "\0 \ud800 \ufdd0", tool_call_id="x" * 300)]),
        ModelResponse(parts=[]),
    ]
    await history.add(messages)
    await history.add([ModelRequest(parts=[UserPromptPart([image])])])

    loaded = await history.load()
    assert loaded[:-1] == messages
    [part] = loaded[-1].parts
    assert isinstance(part, UserPromptPart)
    assert [one.data for one in part.content if isinstance(one, BinaryContent)] == [image.data]


async def test_the_columns_are_those_that_search_and_other_readers_need(
    history: StoredMessageHistory, user_id: UUID
) -> None:
    call = ModelResponse(parts=[TextPart("a"), ToolCallPart("f", {}, tool_call_id="c")], model_name="m")
    call.usage.input_tokens = 7
    result = ModelRequest(parts=[ToolReturnPart("f", {"x": 1}, tool_call_id="c")])
    prompt = ModelRequest(parts=[SystemPromptPart("rules"), UserPromptPart("hello")])
    await history.add([ModelRequest(parts=[SystemPromptPart("rules")]), prompt, call, result, *turn(1)[1:3]])

    rows = await rows_of(user_id)
    assert [(row.role, row.content, row.tool_call_id, row.tool_name) for row in rows] == [
        ("system", "rules", None, None),
        ("user", "hello", None, None),
        ("assistant", "a", "c", "f"),
        ("tool", '{"x":1}', "c", "f"),
        ("assistant", None, None, None),
        ("tool", '{"saw":"a1"}\n{"saw":"b1"}', None, None),
    ]
    assert (rows[2].model, rows[2].input_tokens, rows[2].output_tokens) == ("m", 7, None)
    assert {row.extra["format"] for row in rows} == {"pydantic-ai"}


async def test_concurrent_runs_are_all_stored_and_a_cleared_history_is_empty(history: StoredMessageHistory) -> None:
    await asyncio.gather(*(history.add(turn(number)) for number in range(4)))
    loaded = await history.load()
    assert [type(one) for one in loaded] == [ModelRequest, ModelResponse] * 8
    await history.clear()

    assert await history.load() == []


async def test_windows_keep_calls_with_their_results(history: StoredMessageHistory) -> None:
    messages = [one for number in range(3) for one in turn(number)]
    await history.add(messages)

    for limit in range(1, len(messages) + 1):
        window = await history.load(limit=limit)
        calls = [part.tool_call_id for one in window for part in one.parts if isinstance(part, ToolCallPart)]
        results = [part.tool_call_id for one in window for part in one.parts if isinstance(part, ToolReturnPart)]
        assert calls == results
        assert len(window) >= limit - 1
    with pytest.raises(ValueError, match="limit must be"):
        await history.load(limit=-1)


async def test_a_long_history_is_loaded_whole(history: StoredMessageHistory) -> None:
    messages = [one for number in range(260) for one in turn(number)]
    await history.add(messages)

    assert await history.load() == messages


async def test_tenants_and_users_share_no_history(history: StoredMessageHistory, tenants: dict[str, UUID]) -> None:
    await history.add(turn(1))
    with tenant_context(tenants["globex"]):
        theirs = StoredMessageHistory("h", await new_user(1), tenant_id=tenants["globex"])
    await theirs.add(turn(2))
    with pytest.raises(DuplicateKeyError):
        await StoredMessageHistory("h", await new_user(2)).load()

    assert len(await history.load()) == len(await theirs.load()) == 4
    assert await history.load() != await theirs.load()


@pytest.mark.parametrize("parts", [None, [{"kind": "request", "parts": [{"part_kind": "of tomorrow", "x": "secret"}]}]])
async def test_a_message_that_cannot_be_read_is_an_error_without_its_content(
    history: StoredMessageHistory, user_id: UUID, parts: list[object] | None
) -> None:
    await history.add(turn(1))
    [row, *_] = await rows_of(user_id)
    bad = NewMessage(message_id="bad", role="user", parts=parts, extra={"format": "pydantic-ai"})
    await get_store().append(row.conversation_id, bad)

    with pytest.raises(ValueError, match="parts of message 'bad' must be a message of pydantic-ai") as raised:
        await history.load()
    assert "secret" not in "".join(traceback.format_exception(raised.value))
