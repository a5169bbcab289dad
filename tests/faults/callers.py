"""Callers for fault tests: each has its own tenant, and uses every public path to the database."""

from __future__ import annotations

import itertools
from collections.abc import Awaitable, Callable, Iterable, Sequence
from contextlib import aclosing
from dataclasses import dataclass, field
from typing import Protocol
from uuid import UUID

from sqlalchemy import select, text

from src.database import get_db, get_read_db, tenant_context
from src.database.base import uuid7
from src.database.models import MessageHistory, Tenant
from src.database.repositories import MessageHistoryRepository, NewMessage
from src.database.session import AsyncSession, SessionScope
from src.database.store import get_store

Call = Callable[[], Awaitable[None]]


class Keys(Protocol):
    """A collection of message keys."""

    def add(self, key: str, /) -> None: ...


_ALL = select(MessageHistory.content)
_NAP = text("SELECT pg_sleep(0.005)")


@dataclass
class Caller:
    """A tenant with a user and a conversation. The content of each message is the tenant's id.

    Attributes:
        acknowledged: The keys of the messages that a call has acknowledged.
    """

    tenant: UUID
    user_id: UUID
    conversation_id: UUID
    acknowledged: Keys = field(default_factory=set[str])
    _numbers: itertools.count[int] = field(default_factory=itertools.count)

    @property
    def calls(self) -> Sequence[Call]:
        return (
            self.write_in_a_session,
            self.write_by_the_store,
            self.read_in_a_session,
            self.read_outside_of_a_transaction,
            self.read_by_the_store,
            self.stream_in_a_session,
            self.stream_by_the_store,
            self.take_a_turn,
        )

    def new_message(self) -> NewMessage:
        """Return a message with a new key."""
        return NewMessage(message_id=f"{self.tenant}:{next(self._numbers)}", role="user", content=str(self.tenant))

    async def write_in_a_session(self) -> None:
        await self.send(self.new_message(), by_store=False)

    async def write_by_the_store(self) -> None:
        await self.send(self.new_message(), by_store=True)

    async def send(self, message: NewMessage, *, by_store: bool) -> None:
        """Append a message, which may have been appended before."""
        with tenant_context(self.tenant):
            if by_store:
                await get_store().append(self.conversation_id, message)
            else:
                async with get_db() as session:
                    await MessageHistoryRepository(session).append(self.conversation_id, message)
        self.acknowledged.add(message.message_id)

    async def read_in_a_session(self) -> None:
        await self._read_in(get_db())

    async def read_outside_of_a_transaction(self) -> None:
        await self._read_in(get_read_db())

    async def _read_in(self, scope: SessionScope[AsyncSession]) -> None:
        with tenant_context(self.tenant):
            async with scope as session:
                await session.execute(_NAP)
                self._check(await session.scalars(_ALL.limit(20)))

    async def read_by_the_store(self) -> None:
        with tenant_context(self.tenant):
            self._check(row.content for row in await get_store().recent(self.conversation_id, limit=20))

    async def stream_in_a_session(self) -> None:
        with tenant_context(self.tenant):
            async with get_read_db() as session:
                async for content in (await session.stream(_ALL)).scalars():
                    self._check([content])

    async def stream_by_the_store(self) -> None:
        with tenant_context(self.tenant):
            async with aclosing(get_store().stream_messages(self.user_id)) as messages:
                async for row in messages:
                    self._check([row.content])

    async def take_a_turn(self) -> None:
        message = self.new_message()
        with tenant_context(self.tenant):
            turn = await get_store().turn(1, "telegram", "1", [message])
        self._check(row.content for row in turn.recent)
        self.acknowledged.add(message.message_id)

    def _check(self, contents: Iterable[str | None]) -> None:
        foreign = set(contents) - {str(self.tenant)}
        assert not foreign, f"{self.tenant} read rows of another tenant: {foreign}"


async def register(count: int, keys: Callable[[], Keys] = set[str]) -> list[Caller]:
    """Create callers, each with a first message, in the database of `get_db`."""
    tenants = [uuid7() for _ in range(count)]
    async with get_db() as session:
        session.add_all(Tenant(id=one, slug=str(one), name="x") for one in tenants)
    callers = []
    for one in tenants:
        with tenant_context(one):
            first = NewMessage(message_id=f"{one}:first", role="user", content=str(one))
            turn = await get_store().turn(1, "telegram", "1", [first])
        callers.append(Caller(one, turn.user.id, turn.conversation.id, keys()))
    return callers
