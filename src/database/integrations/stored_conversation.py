"""The conversation under the session id of an agent SDK, for the adapters to these SDKs."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Awaitable, Callable, Sequence
from contextlib import aclosing
from typing import Final, TypeVar
from uuid import UUID

from src.database.base import check_id
from src.database.connect import run_shielded
from src.database.errors import CommitOutcomeUnknown, ConnectionFailed, NotFoundError
from src.database.repositories import MessageHistoryRepository
from src.database.session import AsyncSession, current_tenant, given_tenant, run_transaction
from src.database.statements import MAX_LIMIT, NewMessage, conversation_changes
from src.database.store import MessageRow, get_store

ResultT = TypeVar("ResultT")

_PAUSES_SECONDS: Final = (0.0, 0.1, 0.5, 2.0, 5.0)
"""Before each attempt to append; together longer than a failover of the connection, shorter than a user waits."""


class StoredConversation:
    """The messages under a session id. The conversation is opened at the first call.

    A call that writes has ended when its cancellation is raised: the caller never continues while the server still
    executes the statement.

    Args:
        session_id: The id of the SDK's session, unique within the tenant.
        user_id: The user whose conversation is opened if there is none.
        tenant_id: The tenant; None is the current tenant of each call.

    Raises:
        TypeError: An id has the wrong type.
        ValueError: The session id is empty, or an id is not a UUID.
    """

    def __init__(self, session_id: str, user_id: UUID, *, tenant_id: UUID | None = None) -> None:
        conversation_changes.stored_session_id(session_id)
        check_id("user_id", user_id)
        given_tenant(tenant_id)  # checks the type
        self.session_id = session_id
        self._user_id = user_id
        self._tenant_id = tenant_id
        self._opened: tuple[UUID | None, UUID] | None = None
        """The tenant and the conversation of the last call."""

    async def append(self, messages: Sequence[NewMessage]) -> None:
        """Append messages in this order: all of them, or none.

        The messages are sent again after a lost connection. Their keys keep the server from storing a message twice.

        Raises:
            CommitOutcomeUnknown: The server cannot be reached again, and whether the messages are stored is not known.
        """
        if messages:
            await run_shielded(self._append(messages))

    async def last(self, limit: int | None) -> list[MessageRow]:
        """Return exactly the last messages, the oldest first; without a limit all messages.

        Raises:
            ValueError: The limit is negative, or not an integer.
        """
        if limit is not None and (type(limit) is not int or limit < 0):
            raise ValueError(f"limit must be a whole number, at least 0, or None, got {limit!r}")
        if limit == 0:
            return []
        with given_tenant(self._tenant_id):
            was_open = self._known()
            conversation_id = await self._open()
            rows = await last_messages(conversation_id, limit)
            if not rows and was_open is not None:  # empty, or deleted: then the session id opens another conversation
                self._opened = None
                if (opened := await self._open()) != conversation_id:
                    rows = await last_messages(opened, limit)
            return rows

    async def pop(self) -> list[MessageRow]:
        """Delete the last message softly and return it, in a list that is empty if there is none."""
        return await run_shielded(self._with_conversation(lambda conversation_id: get_store().pop(conversation_id)))

    async def clear(self) -> None:
        """Delete all messages softly."""
        await run_shielded(self._with_conversation(lambda conversation_id: get_store().clear(conversation_id)))

    async def _append(self, messages: Sequence[NewMessage]) -> None:
        await send_again(
            lambda _: self._with_conversation(lambda conversation_id: _append_all(conversation_id, messages))
        )

    async def _with_conversation(self, call: Callable[[UUID], Awaitable[ResultT]]) -> ResultT:
        """Call a function with the conversation; if it was deleted after it was opened, open another one."""
        with given_tenant(self._tenant_id):
            was_open = self._known()
            try:
                return await call(await self._open())
            except NotFoundError:
                if was_open is None:
                    raise
            self._opened = None
            return await call(await self._open())

    async def _open(self) -> UUID:
        """Return the conversation of the current tenant. Concurrent calls may both open it, and get the same one."""
        if (known := self._known()) is not None:
            return known
        tenant_id = current_tenant()
        conversation, _ = await get_store().open_conversation(self.session_id, self._user_id)
        self._opened = (tenant_id, conversation.id)
        return conversation.id

    def _known(self) -> UUID | None:
        """Return the conversation, if it is open and of the current tenant."""
        if self._opened is None or self._opened[0] != current_tenant():
            return None
        return self._opened[1]


async def send_again(send: Callable[[int], Awaitable[ResultT]]) -> ResultT:
    """Send a statement; send it again if the connection was lost before the server answered.

    Args:
        send: Sends the statement, which has the same effect when it is committed twice. Its argument is the number of
            the attempt, from 1.

    Raises:
        CommitOutcomeUnknown: The server cannot be reached again.
    """
    uncertain: CommitOutcomeUnknown | None = None
    for attempt, pause in enumerate(_PAUSES_SECONDS, start=1):
        await asyncio.sleep(pause)
        try:
            return await send(attempt)
        except CommitOutcomeUnknown as error:
            uncertain = error
        except ConnectionFailed:
            if uncertain is None:
                raise
    assert uncertain is not None  # noqa: S101 - each attempt has ended with it
    raise uncertain


async def last_messages(conversation_id: UUID, limit: int | None) -> list[MessageRow]:
    """Return exactly the last messages of a conversation, the oldest first; without a limit all messages."""
    rows = await get_store().last(conversation_id, min(limit or MAX_LIMIT, MAX_LIMIT))
    if len(rows) < MAX_LIMIT or limit == MAX_LIMIT:
        return rows
    async with aclosing(get_store().stream_conversation(conversation_id)) as stream:  # one snapshot, unlike pages
        kept = deque[MessageRow](maxlen=limit)
        async for row in stream:
            kept.append(row)
        return list(kept)


async def _append_all(conversation_id: UUID, messages: Sequence[NewMessage]) -> None:
    if len(messages) <= MAX_LIMIT:
        await get_store().append_many(conversation_id, messages)
        return

    async def append_batches(session: AsyncSession) -> None:
        repository = MessageHistoryRepository(session)
        for first in range(0, len(messages), MAX_LIMIT):
            await repository.append_many(conversation_id, messages[first : first + MAX_LIMIT])

    await run_transaction(append_batches, idempotent=True)
