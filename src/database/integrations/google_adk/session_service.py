"""The session service of ADK: a session is a conversation, an event a message, and state is stored under its scope."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable
from datetime import datetime
from typing import Any, TypeAlias
from uuid import UUID
from weakref import WeakValueDictionary

from google.adk.errors import StaleSessionError
from google.adk.errors.already_exists_error import AlreadyExistsError
from google.adk.errors.session_not_found_error import SessionNotFoundError
from google.adk.events import Event
from google.adk.sessions import BaseSessionService, Session
from google.adk.sessions.base_session_service import GetSessionConfig, ListSessionsResponse

from src.database.base import uuid7
from src.database.connect import run_shielded
from src.database.errors import DuplicateKeyError, IdempotencyConflictError, NotFoundError, StaleDataError
from src.database.integrations.google_adk.events import FORMAT, dump, is_of, load, new_message
from src.database.integrations.google_adk.sessions import PlacedSession, read_session, read_sessions
from src.database.integrations.google_adk.state import Place, Scopes, get_state, set_states
from src.database.integrations.stored_conversation import last_messages, send_again
from src.database.models import Conversation, limits
from src.database.repositories import ConversationRepository, MessageHistoryRepository, UserRepository
from src.database.session import AsyncSession, current_tenant, get_read_db, given_tenant, run_transaction
from src.database.statements import MAX_LIMIT
from src.database.store import get_store

SessionIdOf: TypeAlias = Callable[[str, str, str], str]


def session_id_of(app_name: str, user_id: str, session_id: str) -> str:
    """Return the session id of the conversation of a session: ADK's ids are unique for an app and a user."""
    return f"{FORMAT}:{json.dumps([app_name, user_id, session_id])}"


class StoredSessionService(BaseSessionService):
    """The sessions of ADK: `Runner(app_name="support", agent=agent, session_service=StoredSessionService())`.

    A session is a conversation, and an event is a message. The state of a session belongs to the conversation, `user:`
    state to the user, and `app:` state to the tenant; all keys are set atomically with their event. Of two writers that
    have read one session, the second gets StaleSessionError, also in another process.

    Args:
        provider: The provider of the identities whose subjects are ADK's user ids; `create_session` creates a missing
            user. By default an ADK user id is the id of a `User` as text.
        tenant_id: The tenant; by default the current tenant of each call.
        session_id_of: Returns the session id of a conversation for the name of the app, the user id and the session id.
            To continue conversations of other SDKs, pass a function that returns the third argument.
    """

    def __init__(
        self,
        *,
        provider: str | None = None,
        tenant_id: UUID | None = None,
        session_id_of: SessionIdOf = session_id_of,
    ) -> None:
        if provider is not None:
            limits.check_provider(provider)
        given_tenant(tenant_id)  # checks the type
        self._provider = provider
        self._tenant_id = tenant_id
        self._session_id_of = session_id_of
        self._locks: WeakValueDictionary[tuple[UUID | None, str], asyncio.Lock] = WeakValueDictionary()

    async def create_session(
        self,
        *,
        app_name: str,
        user_id: str,
        state: dict[str, Any] | None = None,
        session_id: str | None = None,
    ) -> Session:
        """Create a session, with a new id if none is given.

        Raises:
            AlreadyExistsError: The session exists, or its conversation is that of another session or user.
            CommitOutcomeUnknown: The connection was lost; whether the session was created is not known: get it.
            ForeignKeyError: The tenant has no such user.
            ValueError: A name or an id has an invalid value, or the state is not JSON.
        """
        limits.STATE_KEY.check("app_name", app_name)
        limits.Json("object", nullable=True).check("state", state)
        session_id = session_id or str(uuid7())
        record = {"app_name": app_name, "user_id": user_id, "session_id": session_id}
        scopes = Scopes.split(state or {})

        async def create(session: AsyncSession) -> Session:
            try:
                conversation, is_new = await ConversationRepository(session).open(key, owner_id, extra={FORMAT: record})
            except DuplicateKeyError:
                is_new = False
            if not is_new:
                raise AlreadyExistsError(
                    f"Session with id {session_id} already exists, or a conversation of another user has its id,"
                    " who may be deleted; choose another id"
                )
            written = await set_states(session, app_name, Place.of(conversation), scopes)
            return await read_session(session, app_name, conversation, written, user_id=user_id, session_id=session_id)

        with given_tenant(self._tenant_id):
            key = self._session_id_of(app_name, user_id, session_id)
            owner_id = await self._create_owner(user_id)
            return await run_shielded(run_transaction(create))

    async def get_session(
        self, *, app_name: str, user_id: str, session_id: str, config: GetSessionConfig | None = None
    ) -> Session | None:
        """Return a session with its events, or None.

        Args:
            app_name: The name of the app.
            user_id: The user id.
            session_id: The session id.
            config: The number of the last events, and the time of the oldest one; by default all events are returned.

        Raises:
            ValueError: An id has an invalid value.
        """
        with given_tenant(self._tenant_id):
            async with get_read_db(read_your_writes=True) as session:
                conversation = await self._find(session, app_name, user_id, session_id)
                if conversation is None:
                    return None
                ids = {"user_id": user_id, "session_id": session_id}
                found = await read_session(session, app_name, conversation, Scopes(), **ids)
            # After the conversation: an event that is appended in between makes the session stale.
            found.events = await _events(conversation.id, app_name, config or GetSessionConfig())
            return found

    async def list_sessions(self, *, app_name: str, user_id: str | None = None) -> ListSessionsResponse:
        """Return the sessions of a user, or of all, the longest inactive first, with their state and without events.

        The server reads all conversations of the user, or of the tenant.
        """
        record = {"app_name": app_name} | ({} if user_id is None else {"user_id": user_id})
        where = [Conversation.extra.contains({FORMAT: record})]
        with given_tenant(self._tenant_id):
            async with get_read_db(read_your_writes=True) as session:
                if user_id is not None:
                    where.append(Conversation.user_id == await self._owner(session, user_id))
                sessions: list[PlacedSession] = []
                after: str | None = None
                while True:
                    page = await ConversationRepository(session).page(*where, after=after, limit=MAX_LIMIT)
                    sessions += await read_sessions(session, app_name, page.items)
                    if (after := page.next_cursor) is None:
                        break
        return ListSessionsResponse(sessions=sorted(sessions, key=lambda one: (one.last_update_time, one.id)))

    async def delete_session(self, *, app_name: str, user_id: str, session_id: str) -> None:
        """Delete a session with its events and state softly; retention deletes them permanently.

        `user:` and `app:` state is kept. Deleting a missing session is no error.
        """

        async def delete(session: AsyncSession) -> None:
            if (conversation := await self._find(session, app_name, user_id, session_id)) is not None:
                await ConversationRepository(session).delete(conversation.id)

        with given_tenant(self._tenant_id):
            await run_shielded(run_transaction(delete, idempotent=True))

    async def get_user_state(self, *, app_name: str, user_id: str) -> dict[str, Any]:
        """Return the `user:` state of a user in an app, under keys without the prefix."""
        with given_tenant(self._tenant_id):
            async with get_read_db(read_your_writes=True) as session:
                if (owner_id := await self._owner(session, user_id)) is None:
                    return {}
                return await get_state(session, app_name, user_id=owner_id)

    async def append_event(self, session: Session, event: Event) -> Event:
        """Append an event to a session, and set the state of its delta, in one transaction.

        A partial event is not stored. After a lost connection the event is sent again, and is not stored twice. If the
        call fails, the session object is unchanged.

        Raises:
            AlreadyExistsError: The session has an event with this id.
            CommitOutcomeUnknown: The server cannot be reached again, and whether the event is stored is not known.
            SessionNotFoundError: There is no such session, or it is deleted.
            StaleSessionError: Another writer has appended to the session since it was read: get it again.
            ValueError: The event has a value that is not JSON.
        """
        if event.partial:
            return event
        with given_tenant(self._tenant_id):
            return await run_shielded(self._append(session, event))

    async def _append(self, session: Session, event: Event) -> Event:
        key = self._session_id_of(session.app_name, session.user_id, session.id)
        # Parallel agents of one run append to one session object.
        async with self._locks.setdefault((current_tenant(), key), asyncio.Lock()):
            place = await self._place(session)
            try:
                seq, created_at = await _store(place, session.app_name, event)
            except NotFoundError as error:
                raise _not_found(session) from error
            except StaleDataError as error:
                raise _stale(session) from error
            except IdempotencyConflictError as error:
                raise _exists(event) from error
            event = await super().append_event(session, event)
            session.last_update_time = created_at.timestamp()
            if isinstance(session, PlacedSession):
                session.advance(seq)
        return event

    async def _place(self, session: Session) -> Place:
        """Return the place of a session. Of a session that was not read under its ids, the last event is compared.

        Raises:
            SessionNotFoundError: There is no such session.
            StaleSessionError: The session lacks events.
        """
        if isinstance(session, PlacedSession) and session.place is not None:
            return session.place
        async with get_read_db(read_your_writes=True) as db_session:
            conversation = await self._find(db_session, session.app_name, session.user_id, session.id)
        if conversation is None:
            raise _not_found(session)
        rows = await last_messages(conversation.id, 1)
        if rows and not (session.events and is_of(rows[0], session.events[-1], conversation.id)):
            raise _stale(session)
        return Place.of(conversation)

    async def _find(self, session: AsyncSession, app_name: str, user_id: str, session_id: str) -> Conversation | None:
        """Return the conversation of a session, or None if it is missing or that of another session or user."""
        owner_id = await self._owner(session, user_id)
        key = self._session_id_of(app_name, user_id, session_id)
        conversation = await ConversationRepository(session).get_by_session_id(key)
        # Compared with the user too: an identity of a deleted user can be that of a new one.
        if conversation is None or conversation.user_id != owner_id:
            return None
        record = conversation.extra.get(FORMAT)  # none if another SDK has opened it
        is_own = record is None or (record["app_name"], record["user_id"]) == (app_name, user_id)
        return conversation if is_own else None

    async def _owner(self, session: AsyncSession, user_id: str) -> UUID | None:
        """Return the id of the user with ADK's user id, or None."""
        if self._provider is None:
            return _uuid(user_id)
        user = await UserRepository(session).get_by_identity(self._provider, user_id)
        return None if user is None else user.id

    async def _create_owner(self, user_id: str) -> UUID:
        if self._provider is None:
            return _uuid(user_id)
        user, _ = await get_store().get_or_create_by_identity(self._provider, user_id)
        return user.id


async def _events(conversation_id: UUID, app_name: str, config: GetSessionConfig) -> list[Event]:
    """Return the last events since a time, the oldest first."""
    limit, since = config.num_recent_events, config.after_timestamp
    if limit == 0:
        return []
    events = load(await last_messages(conversation_id, limit if since is None else None), app_name)
    if since is not None:
        events = [event for event in events if event.timestamp >= since][-(limit or 0) :]
    return events


async def _store(place: Place, app_name: str, event: Event) -> tuple[int, datetime]:
    """Append an event, and set the state of its delta; return the `seq` and the time of its message.

    Raises:
        AlreadyExistsError: The session has this event.
    """
    dumped = dump(event)
    message = new_message(event, dumped, place.conversation_id)
    scopes = Scopes.split(event.actions.state_delta)

    async def append(session: AsyncSession) -> tuple[int, datetime, bool]:
        messages = MessageHistoryRepository(session)
        done = await messages.append(place.conversation_id, message, expected_last_seq=place.last_seq)
        if done.inserted:  # otherwise the state was set with it
            await set_states(session, app_name, place, scopes)
        return done.message.seq, done.message.created_at, done.inserted

    async def send(attempt: int) -> tuple[int, datetime]:
        if scopes == Scopes():
            row = await get_store().append(place.conversation_id, message, expected_last_seq=place.last_seq)
            seq, created_at, is_new = row.seq, row.created_at, row.inserted
        else:
            seq, created_at, is_new = await run_transaction(append)
        if not is_new and attempt == 1:
            raise _exists(event)
        return seq, created_at

    return await send_again(send)


def _uuid(user_id: str) -> UUID:
    try:
        return UUID(user_id)
    except (AttributeError, TypeError, ValueError):
        raise ValueError(
            f"user_id must be the id of a User as text, got another {type(user_id).__name__};"
            ' for other ids pass provider="..." to StoredSessionService: it stores them as identities of users'
        ) from None


def _exists(event: Event) -> AlreadyExistsError:
    return AlreadyExistsError(f"the session has an event with id {event.id} already; nothing was stored")


def _not_found(session: Session) -> SessionNotFoundError:
    return SessionNotFoundError(f"this tenant has no session {session.id} of this app and user, or it is deleted")


def _stale(session: Session) -> StaleSessionError:
    return StaleSessionError(
        f"another writer has appended to session {session.id} since it was read; nothing was stored:"
        " get the session again, and decide again"
    )
