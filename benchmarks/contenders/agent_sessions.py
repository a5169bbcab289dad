"""Sessions of openai-agents: this project's, and the SDK's own over SQLAlchemy and asyncpg."""

from __future__ import annotations

from typing import Any
from uuid import UUID

from agents.extensions.memory import SQLAlchemySession
from agents.memory import SessionABC
from sqlalchemy import URL
from sqlalchemy.ext.asyncio import create_async_engine

from benchmarks.contenders.base import POOL_SIZE, Contender, Incoming, Place
from src.database import get_engine
from src.database.integrations.openai_agents import StoredSession

__all__ = ["SqlalchemySessions", "StoredSessions"]

ITEMS_BEFORE = 40
"""Items of each session before its first call."""


class _Sessions(Contender):
    """One session object for each session id, as a service that keeps them has, with some items."""

    def __init__(self) -> None:
        self._kept: dict[UUID, SessionABC] = {}

    def _new(self, tenant_id: UUID, session_id: UUID) -> SessionABC:
        raise NotImplementedError

    async def _session(self, tenant_id: UUID, session_id: UUID) -> SessionABC:
        if (session := self._kept.get(session_id)) is None:
            session = self._kept[session_id] = self._new(tenant_id, session_id)
            await session.add_items([{"role": "user", "content": "Hello"}] * ITEMS_BEFORE)
        return session

    async def session_add(self, tenant_id: UUID, session_id: UUID, messages: list[Incoming]) -> Any:
        await (await self._session(tenant_id, session_id)).add_items(_items(messages))
        return messages

    async def session_get(self, tenant_id: UUID, session_id: UUID, limit: int) -> Any:
        return await (await self._session(tenant_id, session_id)).get_items(limit)

    async def session_run(self, tenant_id: UUID, session_id: UUID, messages: list[Incoming]) -> Any:
        session = self._new(tenant_id, session_id)
        items = await session.get_items(20)
        await session.add_items(_items(messages))
        return [*items, *messages]


class StoredSessions(_Sessions):
    """Over the store: a conversation of a user, isolated by tenant."""

    async def open(self, place: Place) -> None:
        """Do nothing: the settings name the database, and the first calls open connections."""

    async def close(self) -> None:
        await get_engine("store").dispose()

    def _new(self, tenant_id: UUID, session_id: UUID) -> SessionABC:
        return StoredSession(str(session_id), session_id, tenant_id=tenant_id)


class SqlalchemySessions(_Sessions):
    """The SDK's own session: two tables without tenants."""

    async def open(self, place: Place) -> None:
        url = URL.create("postgresql+asyncpg", username=place.user, database=place.database, query={"host": place.host})
        self._engine = create_async_engine(url, pool_size=POOL_SIZE, max_overflow=0)

    async def close(self) -> None:
        await self._engine.dispose()

    def _new(self, tenant_id: UUID, session_id: UUID) -> SessionABC:
        return SQLAlchemySession(f"{tenant_id}:{session_id}", engine=self._engine)


def _items(messages: list[Incoming]) -> list[Any]:
    return [{"role": message.role, "content": message.content} for message in messages]
