"""The runner of ADK over StoredSessionService, beside the SDK's service in memory."""

from __future__ import annotations

from typing import Any

import pytest
from google.adk.agents import BaseAgent
from google.adk.events import Event, EventActions
from google.adk.runners import Runner
from google.adk.sessions import BaseSessionService, InMemorySessionService
from google.genai.types import Content, Part
from sqlalchemy import URL

from src.database.integrations.google_adk import StoredSessionService

CHAT: Any = {"app_name": "app", "user_id": "ada", "session_id": "chat"}


@pytest.fixture(params=["the SDK's", "stored"])
def either(request: pytest.FixtureRequest, sdk_url: URL) -> BaseSessionService:
    return StoredSessionService(provider="adk") if request.param == "stored" else InMemorySessionService()


async def test_a_user_id_that_is_none_is_named_by_the_run(sdk_url: URL) -> None:
    with pytest.raises(ValueError, match="user_id must be the id of a User as text"):
        await run(StoredSessionService(), Counting(name="counter"), "Hello")


class Counting(BaseAgent):
    """An agent that says how many events it has read, and counts its runs in the state."""

    async def _run_async_impl(self, ctx: Any) -> Any:
        text = f"{self.name} has read {len(ctx.session.events)} events."
        runs = ctx.session.state.get("user:runs", 0) + 1
        actions = EventActions(state_delta={"user:runs": runs, "temp:seen": True})
        content = Content(role="model", parts=[Part(text=text)])
        yield Event(invocation_id=ctx.invocation_id, author=self.name, content=content, actions=actions)


async def run(service: BaseSessionService, agent: BaseAgent, text: str) -> list[str]:
    runner = Runner(app_name="app", agent=agent, session_service=service, auto_create_session=True)
    message = Content(role="user", parts=[Part(text=text)])
    events = runner.run_async(user_id="ada", session_id="chat", new_message=message)
    return [event.content.parts[0].text async for event in events if event.content]  # type: ignore[index, misc]


async def test_the_runner_of_the_sdk_works_over_it(either: BaseSessionService) -> None:
    agent = Counting(name="counter")
    assert await run(either, agent, "Hello") == ["counter has read 1 events."]
    assert await run(either, agent, "Again") == ["counter has read 3 events."]

    found = await either.get_session(**CHAT)
    assert found is not None
    assert found.state == {"user:runs": 2}
