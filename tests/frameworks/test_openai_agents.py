"""StoredSession: the contract of the SDK's sessions, also for concurrent writers, tenants and lost connections."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any
from uuid import UUID

import pytest
from agents import Session, SessionSettings
from agents.extensions.memory import EncryptedSession
from agents.memory import OpenAIResponsesCompactionSession
from sqlalchemy import URL

from src.config import Settings
from src.database import get_db, get_engine, tenant_context
from src.database.base import uuid7
from src.database.errors import CommitOutcomeUnknown, ConnectionFailed, DuplicateKeyError, ForeignKeyError
from src.database.integrations import stored_conversation
from src.database.integrations.openai_agents import StoredSession
from src.database.models import Tenant
from src.database.repositories import ConversationRepository
from src.database.statements import NewMessage
from src.database.store import get_store
from tests.acceptance.counting_relay import relaying
from tests.conftest import SOCKETS
from tests.faults.cutting_relay import SOCKET, cutting

CALL: Any = {
    "type": "function_call",
    "call_id": "call_1",
    "name": "weather",
    "arguments": '{"city": "Lima"}',
    "id": "fc_1",
}
RESULT: Any = {"type": "function_call_output", "call_id": "call_1", "output": "Sunny"}
ANSWER: Any = {
    "type": "message",
    "id": "msg_1",
    "role": "assistant",
    "status": "completed",
    "content": [{"type": "output_text", "text": "It is sunny.", "annotations": []}],
}
ITEMS: list[Any] = [
    {"role": "user", "content": "Weather?"},
    {"role": "user", "content": [{"type": "input_text", "text": "Here"}, {"type": "input_image", "image_url": "x:"}]},
    {"type": "reasoning", "id": "rs_1", "summary": [], "encrypted_content": "gAAA", "content": None},
    CALL,
    RESULT,
    ANSWER,
    {"role": "developer", "content": ""},
    {"type": "web_search_call", "id": "ws_1", "status": "completed", "action": {"type": "search", "query": "?"}},
    {"type": "computer_call_output", "call_id": "c" * 300, "output": {"type": "computer_screenshot"}},
    {"type": "mcp_call", "id": "mcp_1", "name": "n", "server_label": "s", "arguments": "{}", "output": "secret"},
    {"role": "assistant", "content": [{"type": "refusal", "refusal": "No."}]},
    {
        "role": "critic",
        "content": "NUL \0, lone surrogate \ud800, \ufdd0, \U0001f600",
        "\0": {"n": [1, 1.5, None, True]},
    },
    {"__enc__": 1, "payload": "gAAA"},
    {},
]


def said(*numbers: int) -> list[Any]:
    return [{"role": "user", "content": str(number)} for number in numbers]


async def stored(session_id: str) -> list[Any]:
    async with get_db() as session:
        conversation = await ConversationRepository(session).get_by_session_id(session_id)
    assert conversation is not None
    return list(await get_store().last(conversation.id))


@pytest.fixture
def session(user_id: UUID) -> StoredSession:
    return StoredSession("chat", user_id)


def test_it_fulfils_the_protocol_of_the_sdk(session: StoredSession) -> None:
    assert isinstance(session, Session)
    assert session.session_settings == SessionSettings()


async def test_items_come_back_equal_and_in_order(session: StoredSession, user_id: UUID) -> None:
    await session.add_items(ITEMS[:3])
    await session.add_items(ITEMS[3:])

    assert await session.get_items() == ITEMS
    assert await StoredSession("chat", user_id).get_items() == ITEMS


async def test_the_columns_of_a_message_have_the_role_the_text_and_the_call(session: StoredSession) -> None:
    await session.add_items(ITEMS)

    rows = [(row.role, row.content, row.tool_call_id, row.tool_name) for row in await stored("chat")]
    assert rows[:6] == [
        ("user", "Weather?", None, None),
        ("user", "Here", None, None),
        ("assistant", None, None, None),
        ("assistant", None, "call_1", "weather"),
        ("tool", "Sunny", "call_1", None),
        ("assistant", "It is sunny.", None, None),
    ]
    assert [row[0] for row in rows[6:]] == ["developer", "assistant", "tool", *["assistant"] * 5]
    assert [row[1] for row in rows[6:11]] == ["", None, None, None, "No."]


async def test_a_window_keeps_calls_and_results_together(session: StoredSession) -> None:
    await session.add_items([*said(1), CALL, RESULT, ANSWER])
    [first, *_] = await stored("chat")

    sizes = [len(await get_store().recent(first.conversation_id, limit=limit)) for limit in (1, 2, 3, 4)]

    assert sizes == [1, 1, 3, 4]


async def test_a_limit_returns_exactly_the_last_items(session: StoredSession) -> None:
    await session.add_items(said(1, 2, 3, 4))

    assert await session.get_items(2) == said(3, 4)
    assert await session.get_items(limit=9) == said(1, 2, 3, 4)
    assert await session.get_items(0) == []
    with pytest.raises(ValueError, match="limit must be a whole number, at least 0"):
        await session.get_items(-1)


async def test_the_limit_of_the_settings_is_the_default(user_id: UUID) -> None:
    session = StoredSession("chat", user_id, session_settings=SessionSettings(limit=2))
    await session.add_items(said(1, 2, 3))

    assert await session.get_items() == said(2, 3)
    assert await session.get_items(1) == said(3)


async def test_more_items_than_one_call_takes_are_stored_together_and_read(session: StoredSession) -> None:
    items = said(*range(1100))
    await session.add_items(items)

    assert await session.get_items() == items
    assert await session.get_items(1050) == items[50:]
    assert await session.get_items(2_147_483_647) == items


async def test_one_invalid_item_of_many_stores_none(session: StoredSession) -> None:
    with pytest.raises(ValueError, match=r"parts must .* at parts\[0\]\.x$"):
        await session.add_items([*said(*range(1100)), {"x": b"bytes"}])  # type: ignore[list-item]

    assert await session.get_items() == []


async def test_clear_empties_the_session_and_seq_continues(session: StoredSession) -> None:
    await session.add_items(said(1, 2))
    await session.clear_session()
    assert await session.get_items() == []

    await session.add_items(said(3))
    assert await session.get_items() == said(3)
    assert [row.seq for row in await stored("chat")] == [3]


async def test_pop_removes_and_returns_the_last_item(session: StoredSession) -> None:
    await session.add_items([*said(1), CALL])

    assert await session.pop_item() == CALL
    assert await session.get_items() == said(1)
    assert [await session.pop_item(), await session.pop_item()] == [*said(1), None]


async def test_concurrent_pops_return_each_item_once(session: StoredSession, user_id: UUID) -> None:
    sessions = [session, *(StoredSession("chat", user_id) for _ in range(3))]
    await session.add_items(said(*range(10)))

    popped: list[Any] = await asyncio.gather(*(sessions[number % 4].pop_item() for number in range(12)))

    assert sorted(item["content"] for item in popped if item) == sorted(map(str, range(10)))
    assert popped.count(None) == 2


async def test_an_empty_session(session: StoredSession) -> None:
    await session.add_items([])
    assert await session.get_items() == []
    await session.clear_session()

    assert await session.get_items() == []
    assert await session.pop_item() is None


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (("", uuid7()), "session_id must be a string that is not empty"),
        (("chat", "7"), "user_id must be a uuid.UUID"),
    ],
)
def test_wrong_ids_are_rejected(arguments: tuple[Any, Any], expected: str) -> None:
    with pytest.raises(ValueError, match=expected):
        StoredSession(*arguments)


async def test_an_item_that_is_no_dict_is_rejected(session: StoredSession) -> None:
    with pytest.raises(ValueError, match="items must be dicts"):
        await session.add_items(["secret"])  # type: ignore[list-item]


async def test_messages_that_the_service_has_stored_are_read_as_texts(session: StoredSession, user_id: UUID) -> None:
    conversation, _ = await get_store().open_conversation("chat", user_id)
    await get_store().append(conversation.id, NewMessage(message_id="m:1", role="user", content="Hi"))

    assert await session.get_items() == [{"role": "user", "content": "Hi"}]


async def test_a_call_is_one_round_trip_after_the_first(
    user_id: UUID, sdk_url: URL, use_database: Callable[..., Settings]
) -> None:
    session = StoredSession("chat", user_id)
    async with relaying(SOCKETS) as relay:
        use_database(relay.lead_to(sdk_url))
        for _ in range(2):  # the first calls open the conversation and prepare the statements
            trips = {}
            calls: tuple[tuple[str, Callable[[], Awaitable[object]]], ...] = (
                ("add", lambda: session.add_items(said(1, 2))),
                ("get", lambda: session.get_items(20)),
                ("nothing", lambda: session.add_items([])),
                ("pop", session.pop_item),
                ("clear", session.clear_session),
            )
            for name, call in calls:
                relay.sent.clear()
                await call()
                trips[name] = len(relay.sent)
        await get_engine("store").dispose()

    assert trips == {"add": 1, "get": 1, "nothing": 0, "pop": 1, "clear": 1}


async def test_two_tenants_have_a_session_each_of_one_id(sdk_url: URL) -> None:
    tenants = [uuid7(), uuid7()]
    async with get_db() as session:
        session.add_all(Tenant(id=one, slug=str(one), name="x") for one in tenants)
    sessions = []
    for number, tenant in enumerate(tenants):
        with tenant_context(tenant):
            user, _ = await get_store().get_or_create_user(1)
        sessions.append(StoredSession("chat", user.id, tenant_id=tenant))
        await sessions[-1].add_items(said(number))

    assert [await one.get_items() for one in sessions] == [said(0), said(1)]
    await sessions[0].clear_session()
    assert [await one.get_items() for one in sessions] == [[], said(1)]


async def test_a_session_that_is_used_in_another_tenant_finds_no_items_there(
    session: StoredSession, sdk_url: URL
) -> None:
    other = uuid7()
    async with get_db() as admin:
        admin.add(Tenant(id=other, slug=str(other), name="x"))
    await session.add_items(said(1))

    with tenant_context(other):
        calls = (session.get_items(), session.pop_item(), session.clear_session(), session.add_items(said(2)))
        for call in calls:
            with pytest.raises(ForeignKeyError, match="no User with id"):
                await call
    assert await session.get_items() == said(1)


async def test_the_session_id_of_another_user_is_refused(session: StoredSession) -> None:
    await session.add_items(said(1))
    other, _ = await get_store().get_or_create_user(2)

    with pytest.raises(DuplicateKeyError, match="taken by a conversation of another user"):
        await StoredSession("chat", other.id).get_items()


async def test_concurrent_first_calls_open_one_conversation_and_lose_no_item(user_id: UUID) -> None:
    sessions = [StoredSession("chat", user_id) for _ in range(8)]

    async def write(number: int) -> None:
        for turn in range(5):
            await sessions[number].add_items(said(number * 100 + turn, number * 100 + turn))

    await asyncio.gather(*map(write, range(8)))
    items = await sessions[0].get_items()

    assert len(items) == 80
    assert items[::2] == items[1::2], "the items of one call are consecutive"


async def test_a_clear_beside_appends_leaves_no_part_of_a_call(session: StoredSession, user_id: UUID) -> None:
    other = StoredSession("chat", user_id)
    for _ in range(10):
        await asyncio.gather(*(session.add_items(said(number, number)) for number in range(3)), other.clear_session())
        items = await session.get_items()
        assert items[::2] == items[1::2]


async def test_a_deleted_conversation_is_opened_again(session: StoredSession, user_id: UUID) -> None:
    await session.add_items(said(1))
    [row] = await stored("chat")
    for act in (lambda: session.add_items(said(2)), session.clear_session, session.pop_item):
        async with get_db() as db:
            conversation = await ConversationRepository(db).get_by_session_id("chat")
            assert conversation is not None
            await ConversationRepository(db).delete(conversation.id)
        await act()
    await StoredSession("chat", user_id).add_items(said(3))

    assert await session.get_items() == said(3)
    assert (await stored("chat"))[0].conversation_id != row.conversation_id


async def test_items_that_another_process_stores_after_a_deletion_are_read(
    session: StoredSession, user_id: UUID
) -> None:
    await session.add_items(said(1))
    async with get_db() as db:
        await ConversationRepository(db).delete((await stored("chat"))[0].conversation_id)
    await StoredSession("chat", user_id).add_items(said(2))

    assert await session.get_items() == said(2)


@pytest.mark.parametrize("count", [2, 7])
async def test_a_cancelled_call_stores_all_items_or_none_before_the_caller_continues(
    session: StoredSession, count: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(stored_conversation, "MAX_LIMIT", 3)  # seven items are three batches
    await session.add_items(said(-1))
    for delay in (0, 0.0005, 0.002, 0.01):
        await session.clear_session()
        adding = asyncio.create_task(session.add_items(said(*range(count))))
        await asyncio.sleep(delay)
        adding.cancel()
        await asyncio.wait([adding])

        then = await session.get_items(3)
        await asyncio.sleep(0.05)
        assert then in ([], said(*range(count))[-3:])
        assert await session.get_items(3) == then


async def test_items_are_stored_once_although_the_answer_of_the_server_is_lost(
    user_id: UUID, sdk_url: URL, use_database: Callable[..., Settings]
) -> None:
    session = StoredSession("chat", user_id)
    async with cutting(SOCKETS) as relay:
        use_database(relay.lead_to(sdk_url, pool_max="1"))
        await session.add_items(said(1, 2))
        relay.cut(1, "after", of=b"BIND")

        await session.add_items(said(3, 4))

        assert relay.made == 1
        assert await session.get_items() == said(1, 2, 3, 4)
        await get_engine("store").dispose()


async def test_an_outcome_that_stays_unknown_is_reported(
    user_id: UUID, sdk_url: URL, use_database: Callable[..., Settings], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(stored_conversation, "_PAUSES_SECONDS", (0.0, 0.0))
    session = StoredSession("chat", user_id)
    async with cutting(SOCKETS) as relay:
        use_database(relay.lead_to(sdk_url, pool_max="1"))
        await session.add_items(said(1, 2))
        relay.cut(1, "after", of=b"BIND")
        relay.when_cut = (relay.folder / SOCKET).unlink

        with pytest.raises(CommitOutcomeUnknown):
            await session.add_items(said(3, 4))
        with pytest.raises(ConnectionFailed):  # nothing was sent
            await session.add_items(said(5, 6))
        await get_engine("store").dispose()
    use_database(sdk_url)

    assert await session.get_items() == said(1, 2, 3, 4)


async def test_the_encrypting_session_of_the_sdk_works_over_it(session: StoredSession) -> None:
    encrypted = EncryptedSession("chat", session, "a key of the test")
    await encrypted.add_items(ITEMS[:6])
    await session.add_items(said(1))  # not encrypted: the wrapper skips this item

    assert await encrypted.get_items() == ITEMS[:6]
    assert await encrypted.get_items(2) == ITEMS[4:6]
    assert await encrypted.pop_item() == ITEMS[5]
    assert {row.content for row in await stored("chat")} == {None}
    await encrypted.clear_session()
    assert await encrypted.get_items() == []


class Compacting:
    """The client of the API: returns one item for all."""

    def __init__(self) -> None:
        self.responses = self

    async def compact(self, **_options: Any) -> Any:
        class Answer:
            output = said(99)

        return Answer()


async def test_the_compacting_session_of_the_sdk_replaces_the_items(session: StoredSession) -> None:
    client: Any = Compacting()
    compacting = OpenAIResponsesCompactionSession("chat", session, client=client)
    await compacting.add_items([*said(1), ANSWER])

    await compacting.run_compaction({"force": True, "compaction_mode": "input"})

    assert await session.get_items() == said(99)
    assert await compacting.get_items() == said(99)
