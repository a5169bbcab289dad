"""StoredSessionService answers random calls as the SDK's service in memory does."""

from __future__ import annotations

import copy
import random
from collections.abc import Callable
from typing import Any

import pytest
from google.adk.errors.already_exists_error import AlreadyExistsError
from google.adk.events import Event, EventActions
from google.adk.sessions import BaseSessionService, InMemorySessionService, Session
from google.adk.sessions.base_session_service import GetSessionConfig
from google.genai.types import Content, Part
from sqlalchemy import URL

from src.database.integrations.google_adk import StoredSessionService

KEYS = [
    "a",
    "b",
    "app:a",
    "app:b",
    "user:a",
    "user:b",
    "temp:a",
    "app:",
    "user:",
    ":",
    "",
    "x" * 600,
    "\U0001f600",
    "app:\0",
]
STATES = [1, None, "", "\0", [1, {"a": None}], {"k": {"deep": [1.5]}}, True]


class Twins:
    """The SDK's service in memory and ours, which must answer each call in the same way."""

    def __init__(self, seed: int) -> None:
        self.random = random.Random(seed)  # noqa: S311 - not a secret
        self.services = (InMemorySessionService(), StoredSessionService(provider="adk"))

    def state(self) -> dict[str, Any]:
        return {key: self.random.choice(STATES) for key in self.random.sample(KEYS, self.random.randint(0, 4))}

    async def step(self, number: int) -> None:
        place: Any = {"app_name": self.random.choice(["app", "other"]), "user_id": self.random.choice(["ada", "bob"])}
        one: Any = {**place, "session_id": self.random.choice(["1", "a/b", '"'])}
        state, count, since = self.state(), self.random.choice([None, 0, 1, 3]), self.random.choice([None, number / 2])
        config = GetSessionConfig(num_recent_events=count, after_timestamp=since)
        event = Event(
            author=self.random.choice(["user", "guide"]),
            content=Content(role="user", parts=[Part(text=str(number))]),
            actions=EventActions(state_delta=state),
            timestamp=float(number),
        )
        calls: list[Callable[[BaseSessionService], Any]] = [
            lambda service: service.create_session(**one, state=copy.deepcopy(state)),
            lambda service: service.get_session(**one, config=config),
            lambda service: service.list_sessions(**place),
            lambda service: service.list_sessions(app_name=place["app_name"]),
            lambda service: service.get_user_state(**place),
            lambda service: service.delete_session(**one),
            *[lambda service: append(service, one, event.model_copy(deep=True))] * 4,
        ]
        call = self.random.choice(calls)
        expected, got = [await answer(call(service)) for service in self.services]
        assert got == expected, (one, state)


async def append(service: BaseSessionService, one: Any, event: Event) -> Session | None:
    if (session := await service.get_session(**one)) is not None:
        await service.append_event(session, event)
    return session


async def answer(call: Any) -> Any:
    """Return an answer without times and classes, which differ between services."""
    try:
        got = await call
    except AlreadyExistsError as error:
        return type(error)
    sessions = got.sessions if hasattr(got, "sessions") else [got]
    if not isinstance(sessions[0] if sessions else None, Session):
        return got if sessions else []
    return sorted((one.model_dump(exclude={"last_update_time"}) for one in sessions), key=repr)


@pytest.mark.parametrize("seed", range(8))
async def test_random_calls_are_answered_as_by_the_service_of_the_sdk(sdk_url: URL, seed: int) -> None:
    twins = Twins(seed)
    for number in range(40):
        await twins.step(number)
