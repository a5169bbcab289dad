"""StoredSessionService: the contract of ADK's session services, with races, tenants and lost connections."""

from __future__ import annotations

import asyncio
import copy
import json
from collections.abc import Callable
from typing import Any
from uuid import UUID

import pytest
from google.adk.errors import StaleSessionError
from google.adk.errors.already_exists_error import AlreadyExistsError
from google.adk.errors.session_not_found_error import SessionNotFoundError
from google.adk.events import Event, EventActions
from google.adk.sessions import BaseSessionService, InMemorySessionService, Session
from google.adk.sessions.base_session_service import GetSessionConfig
from google.genai.types import (
    Content,
    FunctionCall,
    FunctionResponse,
    GenerateContentResponseUsageMetadata,
    Part,
    Transcription,
)
from sqlalchemy import URL

from src.config import Settings
from src.database import get_db, get_engine, tenant_context
from src.database.base import uuid7
from src.database.errors import CommitOutcomeUnknown, ForeignKeyError
from src.database.integrations import stored_conversation
from src.database.integrations.google_adk import StoredSessionService, session_id_of
from src.database.integrations.openai_agents import StoredSession
from src.database.models import Tenant
from src.database.repositories import ConversationRepository, UserRepository
from src.database.store import get_store
from tests.acceptance.counting_relay import relaying
from tests.conftest import SOCKETS
from tests.faults.cutting_relay import SOCKET, cutting

CHAT: Any = {"app_name": "app", "user_id": "ada", "session_id": "chat"}
CALLS = [Part(function_call=FunctionCall(id=one, name="look", args={"at": 1})) for one in "ab"]
RESULTS = [Part(function_response=FunctionResponse(id=one, name="look", response={"result": "seen"})) for one in "ab"]
EVENTS: list[dict[str, Any]] = [
    {"author": "user", "content": Content(role="user", parts=[Part(text="Where?"), Part(text="NUL \0 \U0001f600")])},
    {"author": "guide", "content": Content(role="model", parts=[Part(text="secret", thought=True), *CALLS])},
    {"author": "guide", "content": Content(role="user", parts=RESULTS)},
    {"author": "guide", "content": Content(role="user", parts=RESULTS[:1])},
    {
        "author": "guide",
        "content": Content(role="model", parts=[Part(text="There.")]),
        "model_version": "gemini",
        "usage_metadata": GenerateContentResponseUsageMetadata(prompt_token_count=7, candidates_token_count=3),
        "turn_complete": True,
        "long_running_tool_ids": {"a", "b"},
        "custom_metadata": {"deep": [1, 1.5, None]},
    },
    {
        "author": "user",
        "content": Content(
            role="user", parts=[Part.from_bytes(data=bytes(range(256)), mime_type="image/png"), Part(text="See")]
        ),
    },
    {"author": "guide", "output_transcription": Transcription(text="spoken", finished=True)},
    {"author": "guide", "error_code": "429", "error_message": "slow down", "branch": "guide.x"},
    {"author": "system", "actions": EventActions(state_delta={"k": 1}, artifact_delta={"file": 0}, escalate=True)},
    {"id": "e" * 1000, "author": "user", "content": Content(role="user", parts=[Part(text="a long id")])},
]


def said(text: str, **delta: Any) -> Event:
    content = Content(role="user", parts=[Part(text=text)])
    return Event(invocation_id="i", author="user", content=content, actions=EventActions(state_delta=delta))


def texts(session: Session | None) -> list[str | None]:
    assert session is not None
    return [part.text for event in session.events for part in (event.content and event.content.parts) or ()]


@pytest.fixture
def service(sdk_url: URL) -> StoredSessionService:
    return StoredSessionService(provider="adk")


@pytest.fixture
async def session(service: StoredSessionService) -> Session:
    return await service.create_session(**CHAT)


@pytest.fixture(params=["the SDK's", "stored"])
def either(request: pytest.FixtureRequest, service: StoredSessionService) -> BaseSessionService:
    """The SDK's service in memory, which shows what the contract is, and ours."""
    return service if request.param == "stored" else InMemorySessionService()


async def test_a_session_is_created_read_and_deleted(either: BaseSessionService) -> None:
    created = await either.create_session(app_name="app", user_id="ada", state={"k": {"deep": [None, 1.5]}})
    one: Any = {"app_name": "app", "user_id": "ada", "session_id": created.id}
    assert created.state == {"k": {"deep": [None, 1.5]}}
    assert created.id
    assert created.events == []
    assert await either.get_session(**one) == created

    await either.delete_session(**one)
    await either.delete_session(**one)
    assert await either.get_session(**one) is None
    assert (await either.create_session(**one)).state == {}


async def test_a_session_id_is_that_of_one_app_and_user(either: BaseSessionService) -> None:
    others: list[Any] = [CHAT, {**CHAT, "app_name": "other"}, {**CHAT, "user_id": "bob"}]
    for number, one in enumerate(others):
        await either.create_session(**one, state={"n": number})
    for number, one in enumerate(others):
        found = await either.get_session(**one)
        assert found is not None
        assert found.state == {"n": number}

    with pytest.raises(AlreadyExistsError):
        await either.create_session(**CHAT)
    await either.delete_session(**CHAT)
    assert await either.get_session(**others[2]) is not None


async def test_a_missing_session(either: BaseSessionService) -> None:
    assert await either.get_session(**CHAT) is None
    assert (await either.list_sessions(app_name="app", user_id="ada")).sessions == []
    assert (await either.list_sessions(app_name="app")).sessions == []
    assert await either.get_user_state(app_name="app", user_id="ada") == {}
    await either.delete_session(**CHAT)


async def test_events_come_back_equal_and_in_order(either: BaseSessionService) -> None:
    session = await either.create_session(**CHAT)
    for number, event in enumerate(EVENTS):
        given = Event(invocation_id="i", timestamp=float(number), **event)
        assert await either.append_event(session, given) is given

    found = await either.get_session(**CHAT)
    assert found is not None
    assert found.events == session.events
    assert [event.timestamp for event in found.events] == [float(number) for number in range(len(EVENTS))]
    assert found.state == session.state == {"k": 1}


async def test_state_is_kept_by_its_scope(either: BaseSessionService) -> None:
    first = await either.create_session(**CHAT, state={"own": 1, "user:u": 2, "app:a": 3, "temp:t": 4})
    assert first.state == {"own": 1, "user:u": 2, "app:a": 3}
    await either.append_event(first, said("x", **{"own": 5, "new": None, "user:u": 6, "app:b": [7], "temp:t": 8}))
    assert first.state == {"own": 5, "new": None, "user:u": 6, "app:a": 3, "app:b": [7], "temp:t": 8}
    assert first.events[-1].actions.state_delta.keys() == {"own", "new", "user:u", "app:b"}

    again = await either.get_session(**CHAT)
    second = await either.create_session(app_name="app", user_id="ada")
    bobs = await either.create_session(app_name="app", user_id="bob")
    others = await either.create_session(app_name="other", user_id="ada")

    assert again is not None
    assert again.state == {"own": 5, "new": None, "user:u": 6, "app:a": 3, "app:b": [7]}
    assert second.state == {"user:u": 6, "app:a": 3, "app:b": [7]}
    assert bobs.state == {"app:a": 3, "app:b": [7]}
    assert others.state == {}
    assert await either.get_user_state(app_name="app", user_id="ada") == {"u": 6}
    assert await either.get_user_state(app_name="other", user_id="ada") == {}


async def test_a_part_of_the_events_is_read(either: BaseSessionService) -> None:
    session = await either.create_session(**CHAT)
    for number in range(1, 6):
        await either.append_event(session, Event(author="user", timestamp=float(number)))

    async def times(**config: Any) -> list[float]:
        found = await either.get_session(**CHAT, config=GetSessionConfig(**config))
        assert found is not None
        return [event.timestamp for event in found.events]

    assert await times(num_recent_events=0) == []
    assert await times(num_recent_events=2) == [4, 5]
    assert await times(num_recent_events=9) == await times() == [1, 2, 3, 4, 5]
    assert await times(after_timestamp=4.0) == [4, 5]
    assert await times(after_timestamp=9.0) == []
    assert await times(after_timestamp=2.0, num_recent_events=3) == [3, 4, 5]
    assert await times(after_timestamp=4.0, num_recent_events=3) == [4, 5]


async def test_sessions_are_listed_with_the_longest_inactive_first(either: BaseSessionService) -> None:
    sessions = [
        await either.create_session(
            app_name="app", user_id=user, session_id=user + name, state={"n": name, "user:u": user}
        )
        for name in ("1", "2")
        for user in ("ada", "bob")
    ]
    await either.create_session(app_name="other", user_id="ada", state={"app:a": 1})
    await either.append_event(sessions[0], said("now the latest", **{"app:a": 2}))

    listed = (await either.list_sessions(app_name="app", user_id="ada")).sessions
    everyones = (await either.list_sessions(app_name="app")).sessions

    assert [one.id for one in listed] == ["ada2", "ada1"]
    assert [one.id for one in everyones] == ["bob1", "ada2", "bob2", "ada1"]
    assert [one.events for one in everyones] == [[]] * 4
    assert everyones[2].state == {"n": "2", "user:u": "bob", "app:a": 2}


async def test_a_partial_event_is_not_stored(either: BaseSessionService) -> None:
    session = await either.create_session(**CHAT)
    event = Event(author="guide", partial=True, actions=EventActions(state_delta={"k": 1}))

    assert await either.append_event(session, event) is event
    assert session.events == []
    assert session.state == {}


async def test_the_columns_of_a_message_have_the_role_the_text_and_the_call(
    service: StoredSessionService, session: Session
) -> None:
    for event in EVENTS:
        await service.append_event(session, Event(invocation_id="i", **event))

    rows = await messages()
    assert [(row.role, row.content, row.tool_call_id, row.tool_name) for row in rows] == [
        ("user", "Where?\nNUL \ufffd \U0001f600", None, None),
        ("assistant", None, None, None),
        ("tool", "seen\nseen", None, None),
        ("tool", "seen", "a", "look"),
        ("assistant", "There.", None, None),
        ("user", "See", None, None),
        ("assistant", "spoken", None, None),
        ("assistant", None, None, None),
        ("assistant", None, None, None),
        ("user", "a long id", None, None),
    ]
    assert (rows[4].model, rows[4].input_tokens, rows[4].output_tokens) == ("gemini", 7, 3)
    window = await get_store().recent(rows[0].conversation_id, limit=8)
    assert [row.role for row in window] == ["assistant", "user", *["assistant"] * 3, "user"], "without the two results"


async def messages() -> list[Any]:
    async with get_db() as session:
        conversation = await ConversationRepository(session).get_by_session_id(session_id_of(**CHAT))
    assert conversation is not None
    return list(await get_store().last(conversation.id))


async def test_of_two_stale_writers_one_is_refused_and_changes_nothing(service: StoredSessionService) -> None:
    first = await service.create_session(**CHAT)
    second = await StoredSessionService(provider="adk").get_session(**CHAT)
    assert second is not None
    await service.append_event(first, said("first", k=1))
    before = second.model_copy(deep=True)

    for event in (said("second"), said("second", **{"k": 2, "user:u": 2, "app:a": 2, "temp:t": 2})):
        with pytest.raises(StaleSessionError, match="another writer has appended to session chat"):
            await service.append_event(second, event)

    assert second == before
    found = await service.get_session(**CHAT)
    assert texts(found) == ["first"]
    assert found is not None
    assert found.state == {"k": 1}
    await service.append_event(found, said("third"))
    assert texts(await service.get_session(**CHAT)) == ["first", "third"]


async def test_concurrent_writers_of_one_session_lose_nothing(service: StoredSessionService, session: Session) -> None:
    async def write(number: int) -> int:
        stale = 0
        other = StoredSessionService(provider="adk")  # as in another process, without a common lock
        while True:
            found = await other.get_session(**CHAT)
            assert found is not None
            try:
                await other.append_event(found, said(str(number), **{f"k{number}": number, f"user:u{number}": number}))
            except StaleSessionError:
                stale += 1
            else:
                return stale

    await asyncio.gather(*map(write, range(8)))

    found = await service.get_session(**CHAT)
    assert sorted(filter(None, texts(found))) == [str(number) for number in range(8)]
    assert found is not None
    assert found.state == {f"{scope}{number}": number for number in range(8) for scope in ("k", "user:u")}


async def test_eight_sessions_set_eight_keys_of_the_user_and_the_app(service: StoredSessionService) -> None:
    sessions = [await service.create_session(app_name="app", user_id="ada") for _ in range(8)]
    for turn in range(3):
        await asyncio.gather(
            *(
                service.append_event(one, said("x", **{f"app:{number}": turn, f"user:{number}": turn, "k": turn}))
                for number, one in enumerate(sessions)
            )
        )

    found = await service.create_session(app_name="app", user_id="ada")
    assert found.state == {f"{scope}:{number}": 2 for number in range(8) for scope in ("app", "user")}


async def test_concurrent_events_of_one_session_object_are_all_stored(
    service: StoredSessionService, session: Session
) -> None:
    await asyncio.gather(*(service.append_event(session, said(str(number), k=number)) for number in range(8)))

    assert await service.get_session(**CHAT) == session
    assert sorted(filter(None, texts(session))) == [str(number) for number in range(8)]


async def test_concurrent_calls_create_one_session(service: StoredSessionService) -> None:
    created = await asyncio.gather(*(service.create_session(**CHAT) for _ in range(8)), return_exceptions=True)

    assert sorted(type(one).__name__ for one in created) == ["AlreadyExistsError"] * 7 + ["PlacedSession"]


async def test_an_append_beside_a_deletion_is_stored_or_refused(service: StoredSessionService) -> None:
    for _ in range(10):
        session = await service.create_session(**CHAT)
        appended, _ = await asyncio.gather(
            service.append_event(session, said("x", k=1)), service.delete_session(**CHAT), return_exceptions=True
        )
        assert isinstance(appended, Event | SessionNotFoundError)
        assert await service.get_session(**CHAT) is None
        with pytest.raises(SessionNotFoundError, match="no session chat of this app and user"):
            await service.append_event(session, said("y"))


async def test_an_event_is_stored_once(service: StoredSessionService, session: Session) -> None:
    event = said("x", k=1)
    await service.append_event(session, event)

    for again in (event, Event(id=event.id, author="user")):
        with pytest.raises(AlreadyExistsError, match=event.id):
            await service.append_event(session, again)
    assert session.events == [event]
    copied = await service.create_session(app_name="app", user_id="ada")
    await service.append_event(copied, event)  # in another session, its id is free
    assert await service.get_session(**CHAT) == session


@pytest.mark.parametrize(
    "copied",
    [
        copy.deepcopy,
        lambda session: session.model_copy(update={"events": [*session.events]}),
        lambda session: Session.model_validate(json.loads(session.model_dump_json())),
    ],
)
async def test_a_copy_of_a_session_can_append_as_the_session_can(
    service: StoredSessionService, session: Session, copied: Callable[[Session], Session]
) -> None:
    await service.append_event(session, said("1"))
    first, second = copied(session), copied(session)
    await service.append_event(first, said("2"))
    await service.append_event(first, said("3"))

    for stale in (second, session):
        with pytest.raises(StaleSessionError):
            await service.append_event(stale, said("4"))
    assert texts(await service.get_session(**CHAT)) == ["1", "2", "3"]


async def test_a_session_that_was_not_read_is_stale_or_missing(service: StoredSessionService, session: Session) -> None:
    await service.append_event(session, said("1"))
    without_events = Session(id="chat", app_name="app", user_id="ada")
    with pytest.raises(StaleSessionError):
        await service.append_event(without_events, said("2"))
    with pytest.raises(SessionNotFoundError):
        await service.append_event(Session(id="none", app_name="app", user_id="ada"), said("2"))


async def test_two_tenants_have_sessions_and_state_of_their_own(sdk_url: URL) -> None:
    tenants = [uuid7(), uuid7()]
    async with get_db() as db:
        db.add_all(Tenant(id=one, slug=str(one), name="x") for one in tenants)
    services = [StoredSessionService(provider="adk", tenant_id=one) for one in tenants]
    sessions = [await one.create_session(**CHAT) for one in services]
    for number, (one, session) in enumerate(zip(services, sessions, strict=True)):
        await one.append_event(session, said(str(number), **{"app:a": number, "user:u": number, "k": number}))

    for number, one in enumerate(services):
        state = {"app:a": number, "user:u": number, "k": number}
        found = await one.get_session(**CHAT)
        assert found is not None
        assert (texts(found), found.state) == ([str(number)], state)
        assert [listed.state for listed in (await one.list_sessions(app_name="app")).sessions] == [state]
        assert await one.get_user_state(app_name="app", user_id="ada") == {"u": number}
        with pytest.raises(SessionNotFoundError):
            await one.append_event(sessions[1 - number], said("of the other tenant", **{"app:a": 9}))
    await services[0].delete_session(**CHAT)
    assert await services[1].get_session(**CHAT) is not None
    with tenant_context(tenants[0]):
        assert await StoredSessionService(provider="adk").list_sessions(app_name="app", user_id="ada") is not None


async def test_user_ids_are_ids_of_users_without_a_provider(sdk_url: URL, user_id: UUID) -> None:
    service = StoredSessionService()
    session = await service.create_session(app_name="app", user_id=str(user_id), state={"user:u": 1})

    assert await service.get_session(app_name="app", user_id=str(user_id), session_id=session.id) == session
    assert len((await get_store().latest_conversations(user_id)).items) == 1
    with pytest.raises(ValueError, match=r'id of a User as text, got another str; .* pass provider="..."'):
        await service.create_session(**CHAT)
    with pytest.raises(ValueError, match="got another int"):
        await service.create_session(**{**CHAT, "user_id": 7})
    with pytest.raises(ForeignKeyError, match="no User with id"):
        await service.create_session(app_name="app", user_id=str(uuid7()))


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        ({"app_name": ""}, "app_name must be 1 to 512 characters"),
        ({"user_id": ""}, "subject must be 1 to 255 characters"),
        ({"state": {"k": float("nan")}}, "must have only finite numbers"),
        ({"state": [("k", 1)]}, "state must be a dict"),
    ],
)
async def test_wrong_arguments_are_rejected(
    service: StoredSessionService, arguments: dict[str, Any], expected: str
) -> None:
    with pytest.raises(ValueError, match=expected):
        await service.create_session(**{**CHAT, **arguments})
    assert (await service.list_sessions(app_name="app")).sessions == []


async def test_any_text_is_a_session_id(service: StoredSessionService) -> None:
    names = ["x" * 1000, "a/b", '","', "NUL \0 \ud800", "sha256:1", "deleted:1"]
    for name in names:
        await service.create_session(app_name="app", user_id="ada", session_id=name, state={"n": len(name)})

    for name in names:
        found = await service.get_session(app_name="app", user_id="ada", session_id=name)
        assert found is not None
        assert (found.id, found.state) == (name, {"n": len(name)})
    assert sorted(one.id for one in (await service.list_sessions(app_name="app")).sessions) == sorted(names)


async def test_the_data_of_a_user_are_exported_and_erased(service: StoredSessionService, session: Session) -> None:
    await service.append_event(session, said("mine", **{"user:u": "mine too", "k": "and this"}))
    async with get_db() as db:
        user = await UserRepository(db).get_by_identity("adk", "ada")
        assert user is not None
        exported = str([row async for row in UserRepository(db).export(user.id)])
        await UserRepository(db).erase(user.id)

    assert all(text in exported for text in ("mine", "mine too", "and this"))
    assert await service.get_session(**CHAT) is None
    assert await service.get_user_state(app_name="app", user_id="ada") == {}
    with pytest.raises(SessionNotFoundError):
        await service.append_event(session, said("x", **{"user:u": 1}))


async def test_a_conversation_of_another_sdk_continues(sdk_url: URL, user_id: UUID) -> None:
    await StoredSession("chat", user_id).add_items([{"role": "user", "content": "Hi"}])
    service = StoredSessionService(session_id_of=lambda _app, _user, session_id: session_id)
    chat: Any = {"app_name": "app", "user_id": str(user_id), "session_id": "chat"}

    session = await service.get_session(**chat)
    assert session is not None
    assert (session.id, session.user_id, texts(session)) == ("chat", str(user_id), ["Hi"])
    await service.append_event(session, said("Go on", k=1))
    copied = Session.model_validate(session.model_dump())
    await service.append_event(copied, said("More"))

    assert await StoredSession("chat", user_id).get_items() == [
        {"role": "user", "content": text} for text in ("Hi", "Go on", "More")
    ]
    other, _ = await get_store().get_or_create_user(2)
    assert await service.get_session(**{**chat, "user_id": str(other.id)}) is None
    with pytest.raises(AlreadyExistsError):
        await service.create_session(**{**chat, "user_id": str(other.id)})


@pytest.mark.parametrize("delta", [{}, {"k": 1, "user:u": 1, "app:a": 1}])
async def test_a_cancelled_append_is_stored_or_not_before_the_caller_continues(
    service: StoredSessionService, session: Session, delta: dict[str, Any]
) -> None:
    for number, delay in enumerate((0, 0.0005, 0.002, 0.01)):
        appending = asyncio.create_task(service.append_event(session, said(str(number), **delta)))
        await asyncio.sleep(delay)
        appending.cancel()
        await asyncio.wait([appending])

        assert await service.get_session(**CHAT) == session
    await service.append_event(session, said("then"))
    assert await service.get_session(**CHAT) == session


@pytest.mark.parametrize("delta", [{}, {"k": 1, "user:u": 1, "app:a": 1}])
async def test_an_event_is_stored_once_although_the_answer_of_the_server_is_lost(
    service: StoredSessionService,
    session: Session,
    delta: dict[str, Any],
    sdk_url: URL,
    use_database: Callable[..., Settings],
) -> None:
    async with cutting(SOCKETS) as relay:
        use_database(relay.lead_to(sdk_url, pool_max="1"))
        await service.append_event(session, said("1"))
        relay.cut(1, "after", of=b"COMMIT" if delta else b"BIND")
        await service.append_event(session, said("2", **delta))
        assert relay.made == 1
        assert await service.get_session(**CHAT) == session
        assert texts(session) == ["1", "2"]
        await get_engine("store").dispose()


async def test_an_outcome_that_stays_unknown_leaves_the_session_object_unchanged(
    service: StoredSessionService,
    session: Session,
    sdk_url: URL,
    use_database: Callable[..., Settings],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(stored_conversation, "_PAUSES_SECONDS", (0.0, 0.0))
    async with cutting(SOCKETS) as relay:
        use_database(relay.lead_to(sdk_url, pool_max="1"))
        await service.append_event(session, said("1"))
        relay.cut(1, "after", of=b"BIND")
        relay.when_cut = (relay.folder / SOCKET).unlink
        event = said("2")
        with pytest.raises(CommitOutcomeUnknown):
            await service.append_event(session, event)
        await get_engine("store").dispose()
    use_database(sdk_url)

    assert texts(session) == ["1"]
    assert texts(await service.get_session(**CHAT)) == ["1", "2"]


async def test_an_event_without_state_is_one_round_trip(
    service: StoredSessionService, session: Session, sdk_url: URL, use_database: Callable[..., Settings]
) -> None:
    async with relaying(SOCKETS) as relay:
        use_database(relay.lead_to(sdk_url))
        for number in range(2):  # the first call prepares the statement
            relay.sent.clear()
            await service.append_event(session, said(str(number)))
            appended = len(relay.sent)
        for _ in range(2):
            relay.sent.clear()
            await service.get_session(**CHAT, config=GetSessionConfig(num_recent_events=20))
            read = len(relay.sent)
        await get_engine("store").dispose()

    assert (appended, read) == (1, 6), "the user, the conversation, three scopes of state, messages"
