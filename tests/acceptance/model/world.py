"""The database for the comparison with the model: two tenants, a session for each call, read as a superuser."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from typing import Any
from uuid import UUID

import psycopg
from sqlalchemy import URL

from src.config import Settings
from src.database import create_engine
from src.database.base import uuid7
from src.database.engine.pool import SizedPool
from src.database.errors import DatabaseError
from src.database.models import Tenant
from src.database.session import AsyncSession, TenantBinding

COLUMNS = {
    "users": "id, telegram_id, display_name, deleted_at IS NOT NULL",
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

        try:
            return self._runner.run(run())
        except (DatabaseError, ValueError) as error:
            return type(error)

    def rows(self, tenant_ids: Sequence[UUID]) -> list[dict[str, list[Any]]]:
        """Return the rows of each tenant."""
        found: dict[UUID, dict[str, list[Any]]] = {tenant_id: {name: [] for name in READ} for tenant_id in tenant_ids}
        for name, read in READ.items():
            for tenant_id, *row in self._superuser.execute(read, [list(tenant_ids)]):
                found[tenant_id][name].append(tuple(row))
        return [{name: sorted(rows) for name, rows in found[tenant_id].items()} for tenant_id in tenant_ids]

    def close(self) -> None:
        self._runner.run(self._engine.dispose())
