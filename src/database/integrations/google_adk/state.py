"""The state of sessions by its scope: `app:` state of the tenant, `user:` state of the user, and a session's own."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from typing import Any
from uuid import UUID

from google.adk.sessions.state import State
from pydantic_core import PydanticSerializationError, to_jsonable_python
from sqlalchemy import ARRAY, Uuid, any_, literal

from src.database.integrations.google_adk.events import FORMAT
from src.database.models import Conversation, StateEntry
from src.database.repositories import StateRepository
from src.database.session import AsyncSession
from src.database.statements import MAX_LIMIT


@dataclass(frozen=True, slots=True)
class Place:
    """The conversation of a session, its user, and the `seq` of the last message when the session was read."""

    conversation_id: UUID
    user_id: UUID
    last_seq: int

    @classmethod
    def of(cls, conversation: Conversation) -> Place:
        """Return the place of a conversation that has been read."""
        return cls(conversation.id, conversation.user_id, conversation.last_seq)


@dataclass(frozen=True, slots=True)
class Scopes:
    """State by its scope, under keys without the prefix. Temporary state is not stored."""

    app: dict[str, Any] = field(default_factory=dict)
    user: dict[str, Any] = field(default_factory=dict)
    session: dict[str, Any] = field(default_factory=dict)

    @classmethod
    def split(cls, state: Mapping[str, Any]) -> Scopes:
        """Return the scopes of state under keys with prefixes, with JSON values as ADK converts them."""
        scopes = cls()
        for key, value in _as_json({key: state[key] for key in state if not key.startswith(State.TEMP_PREFIX)}).items():
            if key.startswith(State.APP_PREFIX):
                scopes.app[key.removeprefix(State.APP_PREFIX)] = value
            elif key.startswith(State.USER_PREFIX):
                scopes.user[key.removeprefix(State.USER_PREFIX)] = value
            else:
                scopes.session[key] = value
        return scopes

    def join(self) -> dict[str, Any]:
        """Return the state of all scopes under keys with prefixes."""
        app = {State.APP_PREFIX + key: value for key, value in self.app.items()}
        return {**self.session, **app, **{State.USER_PREFIX + key: value for key, value in self.user.items()}}


def _as_json(state: dict[str, Any]) -> dict[str, Any]:
    """Return state as JSON values. As in ADK's services, an object that has none becomes its `repr`."""
    try:
        converted: dict[str, Any] = to_jsonable_python(state)
    except PydanticSerializationError:
        converted = to_jsonable_python(state, serialize_unknown=True)
    return converted


async def get_state(session: AsyncSession, app_name: str, **owner: UUID) -> dict[str, Any]:
    """Return the state in an app of the tenant, of a user (`user_id`) or of a conversation (`conversation_id`)."""
    entry = await StateRepository(session).get_by_key(FORMAT, app_name, **owner)
    return entry.value if entry else {}


async def get_states(session: AsyncSession, app_name: str, owner_ids: Collection[UUID]) -> dict[UUID, dict[str, Any]]:
    """Return the state in an app of users and conversations, by their ids, without those that have none."""
    is_of_owners = StateEntry.owner_id == any_(literal(list(owner_ids), ARRAY(Uuid())))
    where = (is_of_owners, StateEntry.namespace == FORMAT, StateEntry.key == app_name)
    states: dict[UUID, dict[str, Any]] = {}
    after: str | None = None
    while True:
        page = await StateRepository(session).page(*where, after=after, limit=MAX_LIMIT)
        states |= {entry.owner_id: entry.value for entry in page.items}
        if (after := page.next_cursor) is None:
            return states


async def set_states(session: AsyncSession, app_name: str, place: Place, changes: Scopes) -> Scopes:
    """Set keys of the state of a session, its user and its app; return the state of the scopes that are changed.

    The order keeps writers from waiting for each other in a circle.
    """

    async def merge(values: dict[str, Any], **owner: Any) -> dict[str, Any]:
        return (await StateRepository(session).merge(FORMAT, app_name, values, **owner)).value if values else {}

    of_session = await merge(changes.session, conversation_id=place.conversation_id)
    of_user = await merge(changes.user, user_id=place.user_id)
    return Scopes(await merge(changes.app), of_user, of_session)
