"""StoredSessionService: values that JSON or a column cannot have, changed ids of a session, and reused identities."""

from __future__ import annotations

import pytest
from google.adk.errors import StaleSessionError
from google.adk.errors.already_exists_error import AlreadyExistsError
from google.adk.errors.session_not_found_error import SessionNotFoundError
from google.adk.events import Event, EventActions
from google.adk.sessions import Session
from google.genai.types import GenerateContentResponseUsageMetadata
from sqlalchemy import URL

from src.database import get_db
from src.database.integrations.google_adk import StoredSessionService
from src.database.repositories import UserRepository
from src.database.store import get_store
from tests.frameworks.test_google_adk import CHAT, said, texts


@pytest.fixture
def service(sdk_url: URL) -> StoredSessionService:
    return StoredSessionService(provider="adk")


@pytest.fixture
async def session(service: StoredSessionService) -> Session:
    return await service.create_session(**CHAT)


async def test_state_is_converted_in_the_same_way_by_both_calls(service: StoredSessionService) -> None:
    state = {"k": len, "bytes": b"ab", "user:set": {1}, "temp:k": b"\xff"}
    session = await service.create_session(**CHAT, state=state)
    other = await service.create_session(app_name="app", user_id="bob", session_id="2")
    await service.append_event(other, Event(author="a", actions=EventActions(state_delta=dict(state))))

    converted = {"k": "<built-in function len>", "bytes": "ab", "user:set": [1]}
    assert session.state == converted
    found = await service.get_session(app_name="app", user_id="bob", session_id="2")
    assert found is not None
    assert found.state == converted
    with pytest.raises(ValueError, match="must have only finite numbers"):
        await service.append_event(other, Event(author="a", actions=EventActions(state_delta={"k": float("inf")})))
    assert len(other.events) == 1


async def test_a_session_with_the_ids_of_another_one_is_not_where_it_was_read(
    service: StoredSessionService, session: Session
) -> None:
    bobs = await service.create_session(app_name="app", user_id="bob", session_id="chat")
    await service.append_event(bobs, said("bob's"))
    await service.append_event(session, said("ada's"))

    for ids, error in (({"user_id": "bob"}, StaleSessionError), ({"id": "none"}, SessionNotFoundError)):
        with pytest.raises(error):
            await service.append_event(session.model_copy(update=ids), said("secret", **{"user:card": 1}))
    assert texts(await service.get_session(**CHAT)) == ["ada's"]
    assert await service.get_user_state(app_name="app", user_id="ada") == {}


async def test_a_new_user_with_the_identity_of_a_deleted_one_does_not_get_the_sessions(
    service: StoredSessionService, session: Session
) -> None:
    await service.append_event(session, said("secret"))
    async with get_db() as db:
        user = await UserRepository(db).get_by_identity("adk", "ada")
        assert user is not None
        await UserRepository(db).delete(user.id)
    await service.create_session(app_name="app", user_id="ada", session_id="new")

    assert await service.get_session(**CHAT) is None
    assert [one.id for one in (await service.list_sessions(app_name="app", user_id="ada")).sessions] == ["new"]
    with pytest.raises(AlreadyExistsError, match="a conversation of another user has its id"):
        await service.create_session(**CHAT)
    await service.delete_session(**CHAT)
    assert await get_store().latest_conversations(user.id) is not None


async def test_a_number_of_tokens_that_no_column_has_does_not_refuse_an_event(
    service: StoredSessionService, session: Session
) -> None:
    usage = GenerateContentResponseUsageMetadata(prompt_token_count=2**40, candidates_token_count=-1)
    await service.append_event(session, Event(author="a", usage_metadata=usage))

    found = await service.get_session(**CHAT)
    assert found is not None
    assert found.events[0].usage_metadata == usage
