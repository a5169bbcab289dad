"""The state of sessions by its scope: `app:` state of the tenant, `user:` state of the user, and a session's own."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from typing import Any
from uuid import UUID

from google.adk.sessions.state import State
from sqlalchemy import ARRAY, Uuid, any_, literal

from src.database.integrations.google_adk.events import FORMAT
from src.database.models import StateEntry
from src.database.repositories import StateRepository
from src.database.session import AsyncSession


@dataclass(frozen=True, slots=True)
class Scopes:
    """State by its scope, under keys without the prefix. Temporary state is not stored."""

    app: dict[str, Any] = field(default_factory=dict)
    user: dict[str, Any] = field(default_factory=dict)
    session: dict[str, Any] = field(default_factory=dict)

    @classmethod
    def split(cls, state: Mapping[str, Any]) -> Scopes:
        """Return the scopes of state under keys with prefixes."""
        scopes = cls()
        for key, value in state.items():
            if key.startswith(State.APP_PREFIX):
                scopes.app[key.removeprefix(State.APP_PREFIX)] = value
            elif key.startswith(State.USER_PREFIX):
                scopes.user[key.removeprefix(State.USER_PREFIX)] = value
            elif not key.startswith(State.TEMP_PREFIX):
                scopes.session[key] = value
        return scopes

    def join(self) -> dict[str, Any]:
        """Return the state of all scopes under keys with prefixes."""
        app = {State.APP_PREFIX + key: value for key, value in self.app.items()}
        return {**self.session, **app, **{State.USER_PREFIX + key: value for key, value in self.user.items()}}


async def get_shared_state(session: AsyncSession, app_name: str, user_id: UUID | None = None) -> dict[str, Any]:
    """Return the state of an app, or of a user in an app."""
    entry = await StateRepository(session).get_by_key(FORMAT, app_name, user_id=user_id)
    return entry.value if entry else {}


async def get_user_states(
    session: AsyncSession, app_name: str, user_ids: Collection[UUID]
) -> dict[UUID, dict[str, Any]]:
    """Return the state of users in an app, by the user's id, without users that have none."""
    is_of_users = StateEntry.owner_id == any_(literal(list(user_ids), ARRAY(Uuid())))
    where = (is_of_users, StateEntry.namespace == FORMAT, StateEntry.key == app_name)
    return {entry.owner_id: entry.value async for entry in StateRepository(session).stream(*where)}


async def set_shared_state(session: AsyncSession, app_name: str, user_id: UUID, scopes: Scopes) -> None:
    """Set keys of the state of the user and the app.

    The caller locks the conversation first: writers that lock in one order do not deadlock.
    """
    entries = StateRepository(session)
    if scopes.user:
        await entries.merge(FORMAT, app_name, scopes.user, user_id=user_id)
    if scopes.app:
        await entries.merge(FORMAT, app_name, scopes.app)
