"""ADK's sessions, as they are read of conversations."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Final
from uuid import UUID

from google.adk.sessions import Session
from pydantic import PrivateAttr

from src.database.integrations.google_adk.events import FORMAT
from src.database.integrations.google_adk.state import Scopes, get_shared_state, get_user_states
from src.database.models import Conversation
from src.database.session import AsyncSession

STATE: Final = f"{FORMAT}:state"
"""The key in a conversation's `extra` of the session's own state. The key `FORMAT` has the ids of the session."""


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


class PlacedSession(Session):
    """A session with its place, which a copy has too."""

    _place: Place = PrivateAttr()

    @classmethod
    def at(cls, place: Place, **values: Any) -> PlacedSession:
        """Return a session at a place."""
        session = cls(**values)
        session._place = place
        return session

    @property
    def place(self) -> Place:
        """The place."""
        return self._place

    def advance(self, last_seq: int) -> None:
        """Set the `seq` of the last message, which is that of an event of this session."""
        self._place = replace(self._place, last_seq=last_seq)


async def read_session(session: AsyncSession, app_name: str, conversation: Conversation, **ids: str) -> PlacedSession:
    """Return the session of a conversation, with its state and without events.

    Args:
        session: The session of the database.
        app_name: The name of the app.
        conversation: The conversation.
        ids: `user_id` and `session_id` of ADK.
    """
    app = await get_shared_state(session, app_name)
    return _session(app_name, conversation, app, await get_shared_state(session, app_name, conversation.user_id), ids)


async def read_sessions(
    session: AsyncSession, app_name: str, conversations: Sequence[Conversation]
) -> list[PlacedSession]:
    """Return the sessions of conversations, as `read_session` does, in three queries."""
    app = await get_shared_state(session, app_name)
    users = await get_user_states(session, app_name, {one.user_id for one in conversations})
    return [_session(app_name, one, app, users.get(one.user_id, {}), one.extra[FORMAT]) for one in conversations]


def _session(
    app_name: str, conversation: Conversation, app: dict[str, Any], user: dict[str, Any], ids: Mapping[str, str]
) -> PlacedSession:
    return PlacedSession.at(
        Place.of(conversation),
        id=ids["session_id"],
        app_name=app_name,
        user_id=ids["user_id"],
        state=Scopes(app, user, conversation.extra.get(STATE, {})).join(),
        last_update_time=(conversation.last_message_at or conversation.created_at).timestamp(),
    )
