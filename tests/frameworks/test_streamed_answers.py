"""examples/streamed_answers.py: what SSE, a WebSocket and a background task store, and which connections they hold."""

from __future__ import annotations

import asyncio
import contextlib
import json
from collections.abc import AsyncIterator, Callable
from typing import Any
from uuid import UUID

import httpx
import psycopg
import pytest
from sqlalchemy import URL
from starlette.testclient import TestClient
from starlette.websockets import WebSocketDisconnect

from examples import streamed_answers
from src.config import Settings
from src.database import engine, get_db, tenant_context
from src.database.base import uuid7
from src.database.repositories import ConversationRepository, UserRepository

ACME = {"X-Tenant": "acme"}


@pytest.fixture
async def chat(tenants: dict[str, UUID], cloned_database: URL, use_database: Callable[..., Settings]) -> UUID:
    """A conversation of the tenant acme, and pools that count their connections."""
    use_database(cloned_database, ENVIRONMENT="staging")
    with tenant_context(tenants["acme"]):
        async with get_db() as session:
            user, _ = await UserRepository(session).get_or_create_by_telegram_id(1)
            conversation, _ = await ConversationRepository(session).get_or_start(user.id, "web", "1")
    await engine.dispose()
    return conversation.id


@pytest.fixture
async def client() -> AsyncIterator[httpx.AsyncClient]:
    transport = httpx.ASGITransport(streamed_answers.app)
    async with httpx.AsyncClient(transport=transport, base_url="http://test", headers=ACME) as client:
        yield client
    await asyncio.gather(*streamed_answers.writers, return_exceptions=True)
    await engine.dispose()


def stored(superuser: psycopg.Connection, chat: UUID) -> list[tuple[str, str]]:
    query = "SELECT content, state FROM message_history WHERE conversation_id = %s ORDER BY seq"
    return superuser.execute(query, [chat]).fetchall()


async def test_an_answer_is_streamed_and_stored(
    client: httpx.AsyncClient, chat: UUID, superuser: psycopg.Connection
) -> None:
    answer = await client.post(f"/chats/{chat}/answers", params={"question": "Hi\nthere"})

    assert answer.headers["content-type"].startswith("text/event-stream")
    events = [json.loads(event.removeprefix("data: ")) for event in answer.text.split("\n\n") if event]
    assert events == ["You said: ", "Hi\nthere"]
    assert stored(superuser, chat) == [("Hi\nthere", "complete"), ("You said: Hi\nthere", "complete")]


async def test_no_connection_is_held_while_the_model_writes(
    client: httpx.AsyncClient, chat: UUID, monkeypatch: pytest.MonkeyPatch
) -> None:
    held: list[int] = []
    all_of_them = asyncio.Barrier(3)

    async def model(_question: str) -> AsyncIterator[str]:
        pool: Any = engine.pool
        await all_of_them.wait()
        held.append(pool.checkedout())
        await all_of_them.wait()
        yield "Yes"

    monkeypatch.setattr(streamed_answers, "model", model)
    await asyncio.gather(*(client.post(f"/chats/{chat}/answers", params={"question": "?"}) for _ in range(3)))

    assert held == [0, 0, 0]


async def test_an_answer_is_stored_although_the_client_leaves(
    client: httpx.AsyncClient, chat: UUID, superuser: psycopg.Connection, monkeypatch: pytest.MonkeyPatch
) -> None:
    has_begun = asyncio.Event()

    async def model(question: str) -> AsyncIterator[str]:
        has_begun.set()
        await asyncio.sleep(0.05)
        yield f"You said: {question}"

    monkeypatch.setattr(streamed_answers, "model", model)
    request = asyncio.create_task(client.post(f"/chats/{chat}/answers", params={"question": "Hi"}))
    await has_begun.wait()
    request.cancel()
    with contextlib.suppress(asyncio.CancelledError):
        await request
    await asyncio.gather(*streamed_answers.writers)

    assert stored(superuser, chat)[1] == ("You said: Hi", "complete")


async def test_an_answer_is_interrupted_if_the_model_fails(
    client: httpx.AsyncClient, chat: UUID, superuser: psycopg.Connection, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def model(_question: str) -> AsyncIterator[str]:
        yield "I think"
        raise ArithmeticError

    monkeypatch.setattr(streamed_answers, "model", model)
    with pytest.raises(ArithmeticError):
        await client.post(f"/chats/{chat}/answers", params={"question": "Hi"})

    assert stored(superuser, chat)[1] == ("I think", "interrupted")


async def test_a_chat_of_another_tenant_is_not_found(client: httpx.AsyncClient, chat: UUID) -> None:
    other = {"X-Tenant": "globex"}

    assert (await client.post(f"/chats/{chat}/answers?question=Hi", headers=other)).status_code == 404


async def test_a_background_task_has_a_session_and_the_tenant(
    client: httpx.AsyncClient, chat: UUID, superuser: psycopg.Connection
) -> None:
    assert (await client.post(f"/chats/{chat}/close")).status_code == 202

    [closed] = superuser.execute("SELECT closed_at IS NOT NULL FROM conversations WHERE id = %s", [chat]).fetchall()
    assert closed == (True,)


def test_a_websocket_answers_each_question(chat: UUID, superuser: psycopg.Connection) -> None:
    with TestClient(streamed_answers.app) as client, client.websocket_connect(f"/chats/{chat}", headers=ACME) as socket:
        for question in ("Hi", "Bye"):
            socket.send_text(question)
            assert [socket.receive_text(), socket.receive_text()] == ["You said: ", question]

    assert [content for content, _ in stored(superuser, chat)] == ["Hi", "You said: Hi", "Bye", "You said: Bye"]


def test_a_websocket_of_an_unknown_chat_is_closed(chat: UUID) -> None:
    with (
        TestClient(streamed_answers.app) as client,
        client.websocket_connect(f"/chats/{uuid7()}", headers=ACME) as socket,
    ):
        socket.send_text("Hi")
        with pytest.raises(WebSocketDisconnect) as closed:
            socket.receive_text()

    assert closed.value.code == 1008
