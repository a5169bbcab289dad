"""A conversation that began in one SDK, or in the service, continues in another one: what each format carries.

docs/agent-sdks.md has the table of these tests.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterable
from typing import Any, Final, NamedTuple
from uuid import UUID

import pytest
from google.adk.events import Event
from google.genai import types as gemini
from langchain_core.messages import AIMessage, BaseMessage, HumanMessage, SystemMessage, ToolCall, ToolMessage
from pydantic_ai import Agent, BinaryContent, ModelMessage, ModelRequest, ModelResponse, UserPromptPart
from pydantic_ai.messages import SystemPromptPart, TextPart, ThinkingPart, ToolCallPart, ToolReturnPart
from pydantic_ai.models.test import TestModel
from pydantic_ai.usage import RequestUsage

from src.database.base import uuid7
from src.database.integrations.google_adk import StoredSessionService
from src.database.integrations.langchain import StoredChatMessageHistory
from src.database.integrations.openai_agents import StoredSession
from src.database.integrations.plain_messages import PlainCall, PlainMessage, PlainResult, plain_messages
from src.database.integrations.pydantic_ai import StoredConversations, StoredMessageHistory
from src.database.integrations.stored_conversation import StoredConversation
from src.database.statements import NewMessage

SESSION: Final = "s"
IMAGE: Final = "data:image/png;base64,YWI="


class Writer(NamedTuple):
    """The messages of one SDK with the same content."""

    turn: Callable[[UUID], Awaitable[object]]
    """A system's message, a question, two parallel calls, their results, and an answer with reasoning.

    ADK has no system's messages.
    """
    image: Callable[[UUID], Awaitable[object]]
    """A user's message with a text and an image."""


def openai(*items: Any) -> Callable[[UUID], Awaitable[object]]:
    return lambda user_id: StoredSession(SESSION, user_id).add_items(list(items))


def pydantic(*messages: ModelMessage) -> Callable[[UUID], Awaitable[object]]:
    return lambda user_id: StoredMessageHistory(SESSION, user_id).add(messages)


def langchain(*messages: BaseMessage) -> Callable[[UUID], Awaitable[object]]:
    return lambda user_id: StoredChatMessageHistory(SESSION, user_id).aadd_messages(messages)


ADK: Final = StoredSessionService(session_id_of=lambda _app_name, _user_id, session_id: session_id)


def adk(*contents: gemini.Content) -> Callable[[UUID], Awaitable[object]]:
    async def append(user_id: UUID) -> None:
        one: Any = {"app_name": "guide", "user_id": str(user_id), "session_id": SESSION}
        session = await ADK.get_session(**one) or await ADK.create_session(**one)
        for number, content in enumerate(contents):
            await ADK.append_event(session, Event(author="guide" if number else "user", content=content))

    return append


def service(*messages: dict[str, Any]) -> Callable[[UUID], Awaitable[object]]:
    def append(user_id: UUID) -> Awaitable[object]:
        new = [NewMessage(message_id=str(uuid7()), **one) for one in messages]
        return StoredConversation(SESSION, user_id).append(new)

    return append


def openai_call(call_id: str) -> dict[str, Any]:
    return {"type": "function_call", "id": f"fc_{call_id}", "call_id": call_id, "name": "look", "arguments": '{"at":1}'}


def gemini_call(call_id: str) -> gemini.FunctionCall:
    return gemini.FunctionCall(id=call_id, name="look", args={"at": 1})


def gemini_result(call_id: str) -> gemini.FunctionResponse:
    return gemini.FunctionResponse(id=call_id, name="look", response={"result": f"seen {call_id}"})


WRITERS: Final = {
    "openai-agents": Writer(
        openai(
            {"role": "system", "content": "Be brief."},
            {"role": "user", "content": "Where?"},
            {"type": "reasoning", "id": "rs_1", "summary": [{"type": "summary_text", "text": "secret"}]},
            openai_call("a"),
            openai_call("b"),
            {"type": "function_call_output", "call_id": "a", "output": "seen a"},
            {"type": "function_call_output", "call_id": "b", "output": [{"type": "input_text", "text": "seen b"}]},
            {"type": "message", "id": "m", "role": "assistant", "status": "completed",
             "content": [{"type": "output_text", "text": "There.", "annotations": []}]},
        ),
        openai({"role": "user", "content": [
            {"type": "input_text", "text": "See:"}, {"type": "input_image", "detail": "auto", "image_url": IMAGE},
        ]}),
    ),
    "pydantic-ai": Writer(
        pydantic(
            ModelRequest(parts=[SystemPromptPart("Be brief.")]),
            ModelRequest(parts=[UserPromptPart("Where?")]),
            ModelResponse(
                parts=[ThinkingPart("secret"), *(ToolCallPart("look", {"at": 1}, tool_call_id=one) for one in "ab")],
                model_name="m",
                usage=RequestUsage(input_tokens=7, output_tokens=3),
            ),
            ModelRequest(parts=[ToolReturnPart("look", f"seen {one}", tool_call_id=one) for one in "ab"]),
            ModelResponse(parts=[TextPart("There.")]),
        ),
        pydantic(ModelRequest(parts=[UserPromptPart(["See:", BinaryContent(b"ab", media_type="image/png")])])),
    ),
    "langchain": Writer(
        langchain(
            SystemMessage("Be brief."),
            HumanMessage("Where?"),
            AIMessage(
                [{"type": "thinking", "thinking": "secret"}],
                tool_calls=[ToolCall(type="tool_call", id=one, name="look", args={"at": 1}) for one in "ab"],
            ),
            *(ToolMessage(f"seen {one}", tool_call_id=one) for one in "ab"),
            AIMessage("There."),
        ),
        langchain(
            HumanMessage([{"type": "text", "text": "See:"}, {"type": "image_url", "image_url": {"url": IMAGE}}]),
        ),
    ),
    "google-adk": Writer(
        adk(
            gemini.Content(role="user", parts=[gemini.Part(text="Where?")]),
            gemini.Content(
                role="model",
                parts=[
                    gemini.Part(text="secret", thought=True),
                    *(gemini.Part(function_call=gemini_call(one)) for one in "ab"),
                ],
            ),
            gemini.Content(
                role="user",
                parts=[gemini.Part(function_response=gemini_result(one)) for one in "ab"],
            ),
            gemini.Content(role="model", parts=[gemini.Part(text="There.")]),
        ),
        adk(
            gemini.Content(
                role="user",
                parts=[gemini.Part(text="See:"), gemini.Part.from_bytes(data=b"ab", mime_type="image/png")],
            )
        ),
    ),
    "the service, columns": Writer(
        service(
            {"role": "system", "content": "Be brief."},
            {"role": "user", "content": "Where?"},
            {"role": "assistant", "parts": [openai_call("a"), openai_call("b")], "model": "m", "input_tokens": 7},
            {"role": "tool", "tool_call_id": "a", "content": "seen a"},
            {"role": "tool", "tool_call_id": "b", "content": "seen b"},
            {"role": "assistant", "content": "There."},
        ),
        service({"role": "user", "content": "See:", "attachments": [{"kind": "photo"}]}),
    ),
    "the service, Anthropic": Writer(
        service(
            {"role": "system", "content": "Be brief."},
            {"role": "user", "parts": [{"type": "text", "text": "Where?"}]},
            {"role": "assistant", "parts": [
                {"type": "thinking", "thinking": "secret", "signature": "s"},
                *({"type": "tool_use", "id": one, "name": "look", "input": {"at": 1}} for one in "ab"),
            ]},
            {"role": "user", "parts": [
                {"type": "tool_result", "tool_use_id": one, "content": [{"type": "text", "text": f"seen {one}"}]}
                for one in "ab"
            ]},
            {"role": "assistant", "parts": [{"type": "text", "text": "There."}]},
        ),
        service({"role": "user", "parts": [
            {"type": "text", "text": "See:"}, {"type": "image", "source": {"type": "base64", "data": "YWI="}},
        ]}),
    ),
}  # fmt: skip


class Content(NamedTuple):
    """The content of a conversation, in any format."""

    texts: list[tuple[str, str]]
    calls: list[tuple[str, str, Any]]
    results: list[tuple[str, str]]


TURN: Final = Content(
    [("system", "Be brief."), ("user", "Where?"), ("assistant", "There.")],
    [("a", "look", {"at": 1}), ("b", "look", {"at": 1})],
    [("a", "seen a"), ("b", "seen b")],
)


async def in_openai(user_id: UUID) -> tuple[Content, str]:
    items: list[Any] = await StoredSession(SESSION, user_id).get_items()
    return content_of(plain(items, role_of_item)), str(items)


def role_of_item(item: dict[str, Any]) -> Any:
    return item.get("role") or ("tool" if item["type"].endswith("_output") else "assistant")


async def in_pydantic(user_id: UUID) -> tuple[Content, str]:
    messages = await StoredMessageHistory(SESSION, user_id).load()
    texts = {UserPromptPart: "user", SystemPromptPart: "system", TextPart: "assistant"}
    parts = [part for message in messages for part in message.parts]
    content = Content(
        [
            (texts[type(part)], text_of(part.content))
            for part in parts
            if isinstance(part, UserPromptPart | SystemPromptPart | TextPart)
        ],
        [(one.tool_call_id, one.tool_name, one.args_as_dict()) for one in parts if isinstance(one, ToolCallPart)],
        [(one.tool_call_id, str(one.content)) for one in parts if isinstance(one, ToolReturnPart)],
    )
    assert all(one.tool_name == "look" for one in parts if isinstance(one, ToolReturnPart))
    return content, str(messages)


async def in_langchain(user_id: UUID) -> tuple[Content, str]:
    messages = await StoredChatMessageHistory(SESSION, user_id).aget_messages()
    roles = {HumanMessage: "user", SystemMessage: "system", AIMessage: "assistant"}
    calls = [call for one in messages if isinstance(one, AIMessage) for call in one.tool_calls]
    content = Content(
        [(roles[type(one)], str(one.text)) for one in messages if type(one) in roles and one.text],
        [(call["id"] or "", call["name"], call["args"]) for call in calls],
        [(one.tool_call_id, str(one.content)) for one in messages if isinstance(one, ToolMessage)],
    )
    assert [len(one.tool_calls) for one in messages if isinstance(one, AIMessage) and one.tool_calls] in ([], [2])
    return content, str(messages)


async def in_adk(user_id: UUID) -> tuple[Content, str]:
    session = await ADK.get_session(app_name="guide", user_id=str(user_id), session_id=SESSION)
    assert session is not None
    roles = {"user": "user", "model": "assistant"}
    contents = [event.content for event in session.events if event.content]
    parts = [(content.role or "", part) for content in contents for part in content.parts or ()]
    calls = [part.function_call for _, part in parts if part.function_call]
    results = [part.function_response for _, part in parts if part.function_response]
    content = Content(
        [(roles[role], part.text) for role, part in parts if part.text and not part.thought],
        [(call.id or "", call.name or "", call.args) for call in calls],
        [(one.id or "", (one.response or {})["result"]) for one in results],
    )
    assert all(one.name == "look" for one in results)
    assert [len(event.get_function_calls()) for event in session.events if event.get_function_calls()] in ([], [2])
    return content, session.model_dump_json()


def text_of(content: Any) -> str:
    return content if isinstance(content, str) else content[0]


def plain(items: Iterable[Any], role: Callable[[Any], Any]) -> list[PlainMessage]:
    rows = [NewMessage(message_id=f"{number}", role=role(item), parts=[item]) for number, item in enumerate(items)]
    return list(plain_messages(rows))  # type: ignore[arg-type] # a new message has no time


def content_of(messages: list[PlainMessage]) -> Content:
    calls: list[PlainCall] = [call for message in messages for call in message.calls]
    results: list[PlainResult] = [result for message in messages for result in message.results]
    return Content(
        [(message.role, message.text) for message in messages if message.text],
        [(call.call_id, call.name, call.arguments) for call in calls],
        [(result.call_id, result.content) for result in results],
    )


READERS: Final = {
    "openai-agents": in_openai,
    "pydantic-ai": in_pydantic,
    "langchain": in_langchain,
    "google-adk": in_adk,
}


def texts_of_turn(writer: str, reader: str) -> list[tuple[str, str]]:
    """Return the texts of a turn: ADK writes no system's message, and reads one as the user's."""
    system = [] if writer == "google-adk" else [("user" if reader == "google-adk" else "system", "Be brief.")]
    return [*system, *TURN.texts[1:]]


@pytest.mark.parametrize("reader", READERS)
@pytest.mark.parametrize("writer", WRITERS)
async def test_texts_parallel_calls_results_and_ids_are_read_by_each_sdk(
    writer: str, reader: str, user_id: UUID
) -> None:
    await WRITERS[writer].turn(user_id)

    content, _ = await READERS[reader](user_id)
    assert content == TURN._replace(texts=texts_of_turn(writer, reader))


@pytest.mark.parametrize("reader", READERS)
@pytest.mark.parametrize("writer", WRITERS)
async def test_images_reasoning_and_ids_of_items_are_read_by_their_own_sdk_only(
    writer: str, reader: str, user_id: UUID
) -> None:
    await WRITERS[writer].image(user_id)
    await WRITERS[writer].turn(user_id)

    content, dump = await READERS[reader](user_id)
    assert content.texts[0] == ("user", "See:")
    assert ("image" in dump) == (writer == reader)
    assert ("secret" in dump) == (writer == reader)
    assert ("fc_" in dump) == (writer == reader == "openai-agents")


@pytest.mark.parametrize("writer", ["pydantic-ai", "the service, columns"])
async def test_the_model_and_the_tokens_are_in_columns_that_pydantic_ai_reads(writer: str, user_id: UUID) -> None:
    await WRITERS[writer].turn(user_id)

    rows = await StoredConversation(SESSION, user_id).last(None)
    answer = next(
        message for message in await StoredMessageHistory(SESSION, user_id).load() if message.kind == "response"
    )
    assert next((row.model, row.input_tokens) for row in rows if row.role == "assistant") == ("m", 7)
    assert (answer.model_name, answer.usage.input_tokens) == ("m", 7)


async def test_a_system_prompt_beside_a_question_is_that_of_its_own_sdk(user_id: UUID) -> None:
    await pydantic(ModelRequest(parts=[SystemPromptPart("Be brief."), UserPromptPart("Where?")]))(user_id)

    assert await StoredSession(SESSION, user_id).get_items() == [{"role": "user", "content": "Where?"}]
    assert (await in_pydantic(user_id))[0].texts == [("system", "Be brief."), ("user", "Where?")]


@pytest.mark.parametrize("writer", WRITERS)
async def test_an_agent_continues_each_conversation(writer: str, user_id: UUID) -> None:
    await WRITERS[writer].turn(user_id)
    store, agent = StoredConversations(user_id), Agent(TestModel(custom_output_text="Done."))
    before = await store.load_entries(SESSION) or []
    new = await store.save(await agent.run("Go on", conversation=await store.load(SESSION)))

    assert len(new) == 2
    assert await store.load_entries(SESSION) == [*before, *new]
    after = [("user", "Go on"), ("assistant", "Done.")]
    for reader, read in READERS.items():
        assert (await read(user_id))[0].texts == [*texts_of_turn(writer, reader), *after]


async def test_arguments_that_are_no_object_are_read_by_each_sdk(user_id: UUID) -> None:
    call = {**openai_call("a"), "arguments": "[1"}
    await service({"role": "assistant", "parts": [call]}, {"role": "tool", "tool_call_id": "a", "content": "bad"})(
        user_id
    )

    [called, _] = await StoredChatMessageHistory(SESSION, user_id).aget_messages()
    assert isinstance(called, AIMessage)
    assert [one["args"] for one in called.invalid_tool_calls] == ["[1"]
    [item, _] = await StoredSession(SESSION, user_id).get_items()
    assert dict(item)["arguments"] == "[1"
    [response, _] = await StoredMessageHistory(SESSION, user_id).load()
    assert [part.args for part in response.parts if isinstance(part, ToolCallPart)] == ["[1"]
