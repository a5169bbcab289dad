"""The session of a test: get_db yields it, and everything is rolled back, commits included.

The session opens its connection at its first use, on the event loop of the test, and rolls back when that loop ends or,
if the loop goes on, when the test ends. So the fixture is synchronous, and works with pytest-asyncio, anyio and
asyncio.run alike.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator
from typing import Any, Final, cast
from uuid import UUID

from sqlalchemy import Connection, text
from sqlalchemy.exc import PendingRollbackError
from sqlalchemy.ext.asyncio import AsyncSessionTransaction
from sqlalchemy.orm import SessionTransaction
from sqlalchemy.util import greenlet_spawn

from src.database.engine import DatabaseEngine
from src.database.errors import DatabaseError, TransactionAborted
from src.database.session import (
    AsyncSession,
    ReadSession,
    TenantBinding,
    TenantSession,
    call_at_shutdown,
    commit_refused,
    current_tenant,
    tenant_context,
)

_USE_COMMITTED: Final = "use the fixture committed_database, where each block has a session and a connection of its own"


class RolledBackTenantSession(TenantSession):
    """The synchronous half of :class:`RolledBackSession`.

    Attributes:
        test: The database of the test, which has the connection.
        refuses_commit: True while a unit of run_transaction is running.
    """

    test: RolledBackDatabase
    refuses_commit = False

    def get_bind(self, *_arguments: Any, **_options: Any) -> Connection:
        """Return the connection of the test."""
        return self.test.connection()

    def commit(self) -> None:
        """Release the session's savepoint, unless a unit of run_transaction is running."""
        if self.refuses_commit:
            raise commit_refused()
        super().commit()


class RolledBackSession(AsyncSession):
    """The session of a test. It is also the session of get_read_db, so it has the method `snapshot`."""

    sync_session_class = RolledBackTenantSession
    sync_session: RolledBackTenantSession

    async def snapshot(self) -> None:
        """Do nothing: the test is the only writer that its session sees."""


class RolledBackDatabase:
    """One connection, and a session for each tenant that uses it; a `SessionSource`.

    A block of get_db is a savepoint in the session of the current tenant: an exception undoes the block alone, and the
    rows that the test has prepared stay.

    Args:
        engine: The engine; it pools nothing.
        binding: The binding of the sessions, which has checked the engine already.
        tenant_id: The tenant of work without a current tenant.
    """

    def __init__(self, engine: DatabaseEngine, binding: TenantBinding, tenant_id: UUID) -> None:
        self._engine = engine
        self._binding = binding
        self._tenant_id = tenant_id
        self._connection: Connection | None = None
        self._loop: asyncio.AbstractEventLoop | None = None
        self._guard: AsyncGenerator[None, None] | None = None
        self._sessions: dict[UUID, RolledBackSession] = {}

    def session_of(self, tenant_id: UUID | None) -> RolledBackSession:
        """Return the session of a tenant; None is the tenant of work without a current tenant."""
        tenant_id = tenant_id or self._tenant_id
        if tenant_id not in self._sessions:
            session = self._sessions[tenant_id] = RolledBackSession(
                bind=self._engine,
                binding=self._binding,
                join_transaction_mode="create_savepoint",
                expire_on_commit=False,
            )
            session.sync_session.test = self
            with tenant_context(tenant_id):
                session.sync_session.take_tenant()
        return self._sessions[tenant_id]

    def connection(self) -> Connection:
        """Return the connection of the test; open it at the first call, in a greenlet."""
        self._check_loop()
        if self._connection is None:
            self._connection = self._engine.sync_engine.connect()
            self._connection.begin()
            self._loop, self._guard = asyncio.get_running_loop(), call_at_shutdown(self._roll_back)
        return self._connection

    def _check_loop(self) -> None:
        """Check that the running event loop is the one of the connection.

        Raises:
            DatabaseError: Another event loop has opened the connection.
        """
        if self._loop is not None and asyncio.get_running_loop() is not self._loop:
            raise DatabaseError(
                "db_session belongs to the event loop that has used it first, and is used on another one: a TestClient"
                " runs the application on a loop of its own",
                hint="call the application on the loop of the test, as httpx.AsyncClient(transport=ASGITransport(app))"
                " does, or use the fixture committed_database",
            )

    def close(self) -> None:
        """Roll back everything, and close the connection. The loop of the test may be open or closed."""
        if self._loop is None or self._connection is None:
            return
        if self._loop.is_closed():  # without the shutdown of its asynchronous generators
            self._engine.shut_down_sockets()
        elif self._guard is not None and not self._loop.is_running():
            self._loop.run_until_complete(self._guard.aclose())

    async def _roll_back(self) -> None:
        connection, self._connection = self._connection, None
        if connection is not None:
            await greenlet_spawn(connection.close)

    async def session(self) -> AsyncGenerator[AsyncSession, None]:
        """Yield the session of the current tenant, in a savepoint."""
        session = self._begin()
        savepoint = await session.begin_nested()
        try:
            yield session
            await _release(session, savepoint)
        except BaseException:
            await _undo(session, savepoint)
            raise
        finally:
            self._forget_bindings()

    async def read_session(self) -> AsyncGenerator[ReadSession, None]:
        """Yield the session of the current tenant, in a savepoint that is READ ONLY on the server."""
        session = self._begin()
        await session.flush()
        savepoint = await session.begin_nested()
        try:
            await session.execute(text("SET TRANSACTION READ ONLY"))
            yield cast("ReadSession", session)
            await session.flush()
        finally:
            await _undo(session, savepoint)
            self._forget_bindings()

    async def unit(self) -> AsyncGenerator[AsyncSession, None]:
        """Yield the session of the current tenant, in a savepoint that only this function releases."""
        async for session in self.session():
            sync = cast("RolledBackSession", session).sync_session
            sync.refuses_commit = True
            try:
                yield session
            finally:
                sync.refuses_commit = False

    def _begin(self) -> RolledBackSession:
        """Return the session of the current tenant for a block."""
        self._check_loop()
        self._forget_bindings()
        return self.session_of(current_tenant())

    def _forget_bindings(self) -> None:
        """Make each session bind the connection again before its next statement: another one may have bound it."""
        for session in self._sessions.values():
            session.sync_session.forget_binding(transaction_ended=False)


async def _release(session: AsyncSession, savepoint: AsyncSessionTransaction) -> None:
    """Keep the work of a block. The caller may have committed or rolled back in it.

    Raises:
        TransactionAborted: An error was caught in the block, and the block can only be undone.
        DatabaseError: Another block has begun since and is still open.
    """
    if not _is_open(session, savepoint):
        if session.in_transaction():
            await session.commit()
        return
    if session.sync_session.get_nested_transaction() is not savepoint.sync_transaction:
        raise DatabaseError(
            "two blocks of get_db overlap, and neither is nested in the other: two tasks of the test use db_session",
            hint=_USE_COMMITTED,
        )
    try:
        await savepoint.commit()
    except PendingRollbackError as error:
        raise TransactionAborted("a flush") from error


async def _undo(session: AsyncSession, savepoint: AsyncSessionTransaction) -> None:
    """Undo the work of a block since its last commit."""
    if _is_open(session, savepoint):
        await savepoint.rollback()
    elif session.in_transaction():
        await session.rollback()


def _is_open(session: AsyncSession, savepoint: AsyncSessionTransaction) -> bool:
    """Return True if a savepoint is the current one of a session, or encloses it."""
    nested: SessionTransaction | None = session.sync_session.get_nested_transaction()
    while nested is not None and nested is not savepoint.sync_transaction:
        nested = nested.parent
    return nested is not None
