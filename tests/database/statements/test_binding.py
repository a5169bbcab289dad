"""A call binds its own transaction to its tenant, refuses one that is bound to another, and leaves nothing bound."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import suppress
from typing import Any
from uuid import UUID

import asyncpg
import pytest
from sqlalchemy import URL, text

from src.config import Settings
from src.database import get_db, get_engine
from src.database.base import uuid7
from src.database.errors import DatabaseError, TenantMismatchError
from src.database.repositories import (
    ConversationRepository,
    EventRepository,
    MessageHistoryRepository,
    UserRepository,
)
from src.database.store import get_store
from tests.acceptance.calls import STORE_CALLS, Rows, a_message, fill
from tests.database.statements.bodies import bodies

BOUND = "SELECT coalesce(current_setting('app.tenant_id', true), '')"
PARAMETERS = """
    SELECT array(SELECT format_type(type, NULL) FROM unnest(proargtypes::oid[]) AS type)
      FROM pg_proc WHERE proname = $1
"""


async def call_with_nulls(connection: asyncpg.Connection[Any], name: str, tenant: UUID) -> None:
    """Call a function with the tenant alone; each other argument is NULL."""
    _, *types = await connection.fetchval(PARAMETERS, name)
    await connection.fetch(f"SELECT FROM {name}({', '.join(['$1', *(f'NULL::{one}' for one in types)])})", tenant)


@pytest.mark.parametrize("name", sorted(bodies()))
async def test_a_transaction_that_is_bound_to_another_tenant_is_refused(
    name: str, connection: asyncpg.Connection[Any]
) -> None:
    await connection.execute("SELECT app_set_tenant($1)", uuid7())

    with pytest.raises(asyncpg.PostgresError) as raised:
        await call_with_nulls(connection, name, uuid7())

    assert raised.value.sqlstate == "TH001"


@pytest.mark.parametrize("name", sorted(bodies()))
async def test_a_call_without_a_tenant_is_refused(name: str, connection: asyncpg.Connection[Any]) -> None:
    with pytest.raises(asyncpg.NullValueNotAllowedError):
        await call_with_nulls(connection, name, None)  # type: ignore[arg-type] # that is what is tried


@pytest.mark.parametrize(
    "call",
    [
        lambda session: UserRepository(session).get_or_create_by_telegram_id(1),
        lambda session: ConversationRepository(session).get_or_start(uuid7(), "telegram", "1"),
        lambda session: MessageHistoryRepository(session).append(uuid7(), a_message("x")),
        lambda session: MessageHistoryRepository(session).append_many(uuid7(), [a_message("x"), a_message("y")]),
        lambda session: EventRepository(session).claim_due_reminders("w"),
    ],
    ids=["get_or_create", "get_or_start", "append", "append_many", "claim_due_reminders"],
)
async def test_a_session_whose_transaction_was_bound_to_another_tenant_raises(call: Any, session: Any) -> None:
    await session.connection()
    await session.execute(text("SELECT app_set_tenant(:other)"), {"other": uuid7()})

    with pytest.raises(TenantMismatchError) as raised:
        await call(session)

    assert raised.value.sqlstate == "TH001"


@pytest.fixture
async def store_rows(cloned_database: URL, use_database: Callable[..., Settings]) -> AsyncIterator[Rows]:
    """Rows of a tenant, and the store with one connection."""
    use_database(cloned_database.update_query_dict({"pool_max": "1"}))
    async with get_db() as session:
        rows = await fill(session)
    yield rows
    await get_engine("store").dispose()


async def bound() -> str:
    """Return the tenant that the store's one connection is bound to."""
    slot = await get_store().pool.take()
    found: str = await slot.connection.fetchval(BOUND)
    get_store().pool.release(slot)
    return found


async def test_nothing_is_bound_after_a_call_an_error_and_a_cancellation(store_rows: Rows) -> None:
    store, left = get_store(), {}
    for name, call in STORE_CALLS.items():
        await call.run(store, store_rows)
        left[name] = await bound()
    conversation, _ = await store.open_conversation("of the cancelled calls", store_rows.user)
    connection = store.pool._idle[0].connection
    for name in bodies():
        with suppress(asyncpg.PostgresError):
            await call_with_nulls(connection, name, uuid7())
        left[f"{name}, with an error"] = await bound()

    async with get_db() as session:
        await session.execute(text("SELECT FROM conversations FOR UPDATE"))
        task = asyncio.create_task(store.append(conversation.id, a_message("waits")))
        await asyncio.sleep(0.05)
        pid = connection.get_server_pid()
        await session.execute(text("SELECT pg_cancel_backend(:pid)"), {"pid": pid})
        with pytest.raises(DatabaseError):
            await task
        left["cancelled by the server"] = await bound()
        task = asyncio.create_task(store.append(conversation.id, a_message("waits")))
        await asyncio.sleep(0.05)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        left["cancelled by the caller"] = await bound()

    assert {name for name, tenant in left.items() if tenant} == set()
    assert (store.pool.size, store.pool.in_use) == (1, 0)
