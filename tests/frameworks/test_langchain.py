"""StoredChatMessageHistory: messages come back equal; tenants, concurrent writers and RunnableWithMessageHistory."""

from __future__ import annotations

import asyncio
from typing import Any
from uuid import UUID

import pytest
from langchain_core.messages import (
    AIMessage,
    AIMessageChunk,
    BaseMessage,
    ChatMessage,
    FunctionMessage,
    HumanMessage,
    RemoveMessage,
    SystemMessage,
    ToolMessage,
)
from langchain_core.runnables import RunnableLambda
from langchain_core.runnables.history import RunnableWithMessageHistory
from sqlalchemy import URL

from src.database import get_db, tenant_context
from src.database.base import uuid7
from src.database.errors import ForeignKeyError
from src.database.integrations.langchain import StoredChatMessageHistory
from src.database.models import Tenant
from src.database.statements import NewMessage
from src.database.store import get_store

CALLS: Any = [
    {"name": "weather", "args": {"city": "Lima"}, "id": "call_1", "type": "tool_call"},
    {"name": "time", "args": {}, "id": "call_2", "type": "tool_call"},
]
MESSAGES: list[BaseMessage] = [
    SystemMessage("Be kind.", id="s1"),
    HumanMessage([{"type": "text", "text": "Weather?"}, {"type": "image", "url": "x:"}], name="Ada"),
    AIMessage(
        "",
        tool_calls=CALLS,
        additional_kwargs={"refusal": None, "deep": {"n": [1, 1.5]}},
        response_metadata={"model_name": "m"},
        usage_metadata={"input_tokens": 1, "output_tokens": 2, "total_tokens": 3},
    ),
    ToolMessage("Sunny \0", tool_call_id="call_1", artifact={"celsius": 30}),
    ToolMessage("Noon", tool_call_id="call_2", name="time", status="error"),
    AIMessage([{"type": "reasoning", "reasoning": "Hm"}, {"type": "text", "text": "It is \ud800 sunny."}], id="run-1"),
    AIMessage("", tool_calls=CALLS[:1]),
    FunctionMessage(content="Rain", name="weather"),
    ChatMessage(content="Hello", role="critic"),
    ChatMessage(content="Hello", role="developer"),
    AIMessageChunk(content="Part"),
    RemoveMessage("s1"),
]


def said(*numbers: int) -> list[BaseMessage]:
    return [HumanMessage(str(number)) for number in numbers]


@pytest.fixture
def history(user_id: UUID) -> StoredChatMessageHistory:
    return StoredChatMessageHistory("chat", user_id)


async def test_messages_come_back_equal_and_in_order(history: StoredChatMessageHistory, user_id: UUID) -> None:
    await history.aadd_messages(MESSAGES[:2])
    await history.aadd_messages(MESSAGES[2:])
    await history.aadd_messages([])

    assert await history.aget_messages() == MESSAGES
    assert await StoredChatMessageHistory("chat", user_id, limit=2).aget_messages() == MESSAGES[-2:]


async def test_the_columns_of_a_message_have_the_role_the_text_and_the_call(
    history: StoredChatMessageHistory, user_id: UUID
) -> None:
    await history.aadd_messages(MESSAGES)

    conversation, _ = await get_store().open_conversation("chat", user_id)
    rows = [(row.role, row.content, row.tool_call_id, row.tool_name) for row in await get_store().last(conversation.id)]
    assert rows == [
        ("system", "Be kind.", None, None),
        ("user", "Weather?", None, None),
        ("assistant", "", None, None),
        ("tool", "Sunny \ufffd", "call_1", None),
        ("tool", "Noon", "call_2", "time"),
        ("assistant", "It is \ufffd sunny.", None, None),
        ("assistant", "", "call_1", "weather"),
        ("tool", "Rain", None, "weather"),
        ("user", "Hello", None, None),
        ("developer", "Hello", None, None),
        ("assistant", "Part", None, None),
        ("system", "", None, None),
    ]
    assert len(await get_store().recent(conversation.id, limit=9)) == 7, "without two results whose call is missing"


async def test_clear_deletes_all_messages(history: StoredChatMessageHistory) -> None:
    await history.aclear()
    await history.aadd_messages(said(1))
    await history.aclear()
    assert await history.aget_messages() == []

    await history.aadd_messages(said(2))
    assert await history.aget_messages() == said(2)


class Unknown(HumanMessage):
    type: Any = "unknown"


@pytest.mark.parametrize(
    ("message", "expected"),
    [
        (Unknown(content="secret"), "Got unexpected message type: unknown"),
        (ToolMessage("secret", tool_call_id="1", artifact=b"secret"), r"got bytes at parts\[0\]\.data\.artifact$"),
    ],
)
async def test_a_message_that_could_not_be_read_back_is_rejected_before_any_is_stored(
    history: StoredChatMessageHistory, message: BaseMessage, expected: str
) -> None:
    with pytest.raises(ValueError, match=expected):
        await history.aadd_messages([*said(1), message])

    assert await history.aget_messages() == []


async def test_the_synchronous_methods_name_the_asynchronous_ones(history: StoredChatMessageHistory) -> None:
    with pytest.raises(RuntimeError, match=r"await history\.aget_messages"):
        _ = history.messages
    with pytest.raises(RuntimeError, match=r"await history\.aadd_messages"):
        history.add_user_message("Hi")
    with pytest.raises(RuntimeError, match=r"await history\.aclear"):
        history.clear()

    assert str(history) == "<StoredChatMessageHistory 'chat'>"
    assert await history.aget_messages() == []


async def test_two_tenants_have_a_history_each_of_one_id(history: StoredChatMessageHistory) -> None:
    other = uuid7()
    async with get_db() as session:
        session.add(Tenant(id=other, slug=str(other), name="x"))
    with tenant_context(other):
        user, _ = await get_store().get_or_create_user(1)
        with pytest.raises(ForeignKeyError):
            await history.aget_messages()
    others = StoredChatMessageHistory("chat", user.id, tenant_id=other)
    await history.aadd_messages(said(1))
    await others.aadd_messages(said(2))

    assert (await history.aget_messages(), await others.aget_messages()) == (said(1), said(2))


async def test_concurrent_writers_lose_no_message(user_id: UUID) -> None:
    histories = [StoredChatMessageHistory("chat", user_id) for _ in range(8)]
    await asyncio.gather(*(one.aadd_messages(said(n, n)) for n, one in enumerate(histories)))

    texts = [str(message.text) for message in await histories[0].aget_messages()]
    assert texts[::2] == texts[1::2]
    assert sorted(texts[::2]) == [str(n) for n in range(8)]


async def test_a_message_that_the_service_has_stored_is_read_as_text(
    history: StoredChatMessageHistory, user_id: UUID
) -> None:
    conversation, _ = await get_store().open_conversation("chat", user_id)
    await get_store().append(conversation.id, NewMessage(message_id="m:1", role="assistant", content="Hi"))

    assert await history.aget_messages() == [AIMessage("Hi")]


@pytest.mark.filterwarnings("ignore:RunnableWithMessageHistory is deprecated")
async def test_a_runnable_with_history_reads_and_appends_once(user_id: UUID, sdk_url: URL) -> None:
    def answer(messages: list[BaseMessage]) -> AIMessage:
        return AIMessage(f"I have read {len(messages)}")

    chain: Any = RunnableWithMessageHistory(
        RunnableLambda(answer), lambda session_id: StoredChatMessageHistory(session_id, user_id)
    )
    config: Any = {"configurable": {"session_id": "chat"}}
    answers = [await chain.ainvoke([HumanMessage(text)], config) for text in ("Hi", "Bye")]

    assert [one.text for one in answers] == ["I have read 1", "I have read 3"]
    stored = await StoredChatMessageHistory("chat", user_id).aget_messages()
    assert [one.text for one in stored] == ["Hi", "I have read 1", "Bye", "I have read 3"]
    async for _ in chain.astream([HumanMessage("More")], config):
        pass
    assert len(await StoredChatMessageHistory("chat", user_id).aget_messages()) == 6
