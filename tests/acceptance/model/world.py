"""The database for the comparison with the model: two tenants, a session for each call, read as a superuser."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Coroutine, Sequence
from typing import Any
from uuid import UUID

import psycopg
from sqlalchemy import URL

from src.config import Settings
from src.database import create_engine, tenant_context
from src.database.base import uuid7
from src.database.engine.pool import SizedPool
from src.database.errors import DatabaseError
from src.database.models import Tenant
from src.database.session import AsyncSession, TenantBinding
from tests.database.store.paths import ByRepositories, ByStore, Path

COLUMNS = {
    "users": "id, telegram_id, display_name, preferences, deleted_at IS NOT NULL",
    "user_identities": "user_id, subject",
    "conversations": "id, user_id, external_chat_id, is_active, last_seq, summary, summary_upto_seq, turn_token,"
    " turn_claimed_by, deleted_at IS NOT NULL",
    "message_history": "conversation_id, seq, message_id, role, content, state, deleted_at IS NOT NULL",
    "events": "id, user_id, start_datetime, status, reminder_token, reminder_attempts, reminder_sent_at IS NOT NULL",
    "notes": "id, user_id, content, tags, pinned, archived_at IS NOT NULL, deleted_at IS NOT NULL",
    "state_entries": "owner_id, key, data, version",
}
READ = {
    table: f"SELECT tenant_id, {columns} FROM {table} WHERE tenant_id = ANY (%s)"  # noqa: S608 - of the names above
    for table, columns in COLUMNS.items()
}


class World:
    """An event loop and an engine for all examples; each example has two new tenants."""

    def __init__(self, runner: asyncio.Runner, url: URL, superuser: psycopg.Connection) -> None:
        self._runner = runner
        self._superuser = superuser
        self._engine = create_engine(Settings(ENVIRONMENT="test", DATABASE_URL=url), poolclass=SizedPool)

    def register(self) -> UUID:
        """Create a tenant."""
        tenant_id = uuid7()

        async def add(session: AsyncSession) -> None:
            session.add(Tenant(id=tenant_id, slug=f"t{tenant_id.hex}", name="T"))

        self.call(tenant_id, add)
        return tenant_id

    def call(self, tenant_id: UUID, work: Callable[[AsyncSession], Awaitable[Any]]) -> Any:
        """Run a call as a tenant and commit; return the result, or the type of the error."""

        async def run() -> Any:
            async with AsyncSession(self._engine, expire_on_commit=False, binding=TenantBinding(tenant_id)) as session:
                result = await work(session)
                await session.commit()
                return result

        return self._outcome(run())

    def by(self, tenant_id: UUID, work: Callable[[Path], Awaitable[Any]], *, stored: bool) -> Any:
        """Run a call of the store or of the repositories as a tenant; return the result, or the type of the error."""

        async def run() -> Any:
            with tenant_context(tenant_id):
                return await work(ByStore() if stored else ByRepositories())

        return self._outcome(run())

    def rows(self, tenant_ids: Sequence[UUID]) -> list[dict[str, list[Any]]]:
        """Return the rows of each tenant."""
        found: dict[UUID, dict[str, list[Any]]] = {tenant_id: {name: [] for name in READ} for tenant_id in tenant_ids}
        for name, read in READ.items():
            for tenant_id, *row in self._superuser.execute(read, [list(tenant_ids)]):
                found[tenant_id][name].append(tuple(row))
        return [{name: sorted(rows) for name, rows in found[tenant_id].items()} for tenant_id in tenant_ids]

    def id_of_message(self, tenant_id: UUID, key: str) -> UUID:
        """Return the id of a message, which may be deleted."""
        query = "SELECT id FROM message_history WHERE tenant_id = %s AND message_id = %s"
        [(row_id,)] = self._superuser.execute(query, [tenant_id, key])
        return UUID(str(row_id))

    def close(self) -> None:
        """Close the connections of this class; those of `get_db` and the store are closed with the event loop."""
        self._runner.run(self._engine.dispose())

    def _outcome(self, call: Coroutine[Any, Any, Any]) -> Any:
        try:
            return self._runner.run(call)
        except (DatabaseError, ValueError) as error:
            return type(error)
