"""ADK's sessions, as they are read of conversations."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

from google.adk.sessions import Session
from pydantic import PrivateAttr

from src.database.integrations.google_adk.events import FORMAT
from src.database.integrations.google_adk.state import Place, Scopes, get_state, get_states
from src.database.models import Conversation
from src.database.session import AsyncSession


class PlacedSession(Session):
    """A session with its place, which a copy has too."""

    _place: Place = PrivateAttr()
    _ids: tuple[str, str, str] = PrivateAttr()

    def at(self, place: Place) -> PlacedSession:
        """Set the place, and return the session."""
        self._place, self._ids = place, (self.app_name, self.user_id, self.id)
        return self

    @property
    def place(self) -> Place | None:
        """The place; None if the session was given the ids of another one since it was read."""
        return self._place if self._ids == (self.app_name, self.user_id, self.id) else None

    def advance(self, last_seq: int) -> None:
        """Set the `seq` of the last message, which is that of an event of this session."""
        self._place = replace(self._place, last_seq=last_seq)


async def read_session(
    session: AsyncSession, app_name: str, conversation: Conversation, known: Scopes, **ids: str
) -> PlacedSession:
    """Return the session of a conversation, with its state and without events.

    Args:
        session: The session of the database.
        app_name: The name of the app.
        conversation: The conversation.
        known: The state of the scopes that were just written.
        ids: `user_id` and `session_id` of ADK.
    """
    state = Scopes(
        known.app or await get_state(session, app_name),
        known.user or await get_state(session, app_name, user_id=conversation.user_id),
        known.session or await get_state(session, app_name, conversation_id=conversation.id),
    )
    return _session(app_name, conversation, state, ids)


async def read_sessions(
    session: AsyncSession, app_name: str, conversations: Sequence[Conversation]
) -> list[PlacedSession]:
    """Return the sessions of conversations, as `read_session` does, in two queries."""
    app = await get_state(session, app_name)
    of = await get_states(session, app_name, {owner_id for one in conversations for owner_id in (one.user_id, one.id)})
    return [
        _session(app_name, one, Scopes(app, of.get(one.user_id, {}), of.get(one.id, {})), one.extra[FORMAT])
        for one in conversations
    ]


def _session(app_name: str, conversation: Conversation, state: Scopes, ids: Mapping[str, str]) -> PlacedSession:
    session = PlacedSession(
        id=ids["session_id"],
        app_name=app_name,
        user_id=ids["user_id"],
        state=state.join(),
        last_update_time=(conversation.last_message_at or conversation.created_at).timestamp(),
    )
    return session.at(Place.of(conversation))
