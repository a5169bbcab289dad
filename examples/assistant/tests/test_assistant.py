"""The service, by the fixtures of thea_database.pytest_plugin."""

import json
from collections.abc import AsyncIterator, Awaitable, Callable
from datetime import timedelta

import pytest
from assistant.app import app
from assistant.tasks import Task, TaskRepository
from assistant.worker import work_once
from httpx import ASGITransport, AsyncClient
from sqlalchemy import URL

from thea_database import AsyncSession, tenant_context
from thea_database.models import Tenant
from thea_database.repositories import UserRepository
from thea_database.store import EventRow
from thea_database.testing import MakeEvent, MakeUser, ReminderClock


@pytest.fixture
async def client(tenant: Tenant) -> AsyncIterator[AsyncClient]:
    """A client of the API, for the tenant of the test."""
    async with AsyncClient(
        transport=ASGITransport(app), base_url="http://assistant", headers={"X-Tenant": tenant.slug}
    ) as client:
        yield client


async def test_a_task_is_created_read_and_done(client: AsyncClient, db_session: AsyncSession) -> None:
    created = await client.post("/users/42/tasks", json={"title": "Buy milk"})
    done = await client.post(f"/tasks/{created.json()['id']}/done")
    page = (await client.get("/tasks")).json()

    assert (created.status_code, created.json()["is_done"]) == (201, False)
    assert page == {"items": [done.json()], "next_cursor": None}
    assert page["items"][0]["is_done"] is True
    assert await TaskRepository(db_session).count() == 1


async def test_another_tenant_sees_no_task(
    client: AsyncClient, db_session: AsyncSession, other_tenant: Tenant, assert_isolated: Callable[..., Awaitable[None]]
) -> None:
    created = await client.post("/users/42/tasks", json={"title": "Buy milk"})
    path, as_other = f"/tasks/{created.json()['id']}/done", {"X-Tenant": other_tenant.slug}

    assert (await client.get("/tasks", headers=as_other)).json()["items"] == []
    assert (await client.post(path, headers=as_other)).status_code == 404
    assert (await client.get("/tasks", headers={"X-Tenant": "unknown"})).status_code == 403
    await assert_isolated(lambda session: TaskRepository(session).page())


async def test_a_users_data_includes_the_tasks(make_user: MakeUser, db_session: AsyncSession) -> None:
    user = await make_user()
    await TaskRepository(db_session).add(Task(user_id=user.id, title="Buy milk"))

    tables = [row["table"] async for row in UserRepository(db_session).export(user.id)]
    await UserRepository(db_session).erase(user.id)

    assert "tasks" in tables
    assert await TaskRepository(db_session).count() == 0


async def test_an_answer_is_streamed_once_and_stored(client: AsyncClient, committed_database: URL) -> None:
    first = await client.post("/users/42/messages/1", params={"text": "Hello"})
    again = await client.post("/users/42/messages/1", params={"text": "Hello"})

    pieces = [json.loads(line.removeprefix("data: ")) for line in first.text.splitlines() if line]
    assert "".join(pieces) == "You have sent 1 messages. The last is: Hello "
    assert again.text == ""
    stored = await client.get("/users/42/messages")
    assert [(message["state"], message["content"]) for message in stored.json()] == [
        ("complete", "Hello"),
        ("complete", "".join(pieces)),
    ]


async def test_a_reminder_of_each_tenant_is_sent_once(
    make_event: MakeEvent, reminder_clock: ReminderClock, committed_database: URL, other_tenant: Tenant
) -> None:
    sent: list[EventRow] = []

    async def send(event: EventRow) -> None:
        sent.append(event)

    mine = await make_event(reminder_offset=600)
    await reminder_clock.advance(timedelta(days=1) - timedelta(minutes=5))
    with tenant_context(other_tenant.id):
        other = await make_event(reminder_offset=600)
        await reminder_clock.advance(timedelta(days=1) - timedelta(minutes=5))
    await work_once(send)
    await work_once(send)

    assert [event.id for event in sent] == [mine.id, other.id]
