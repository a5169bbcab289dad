"""Three tenants with the same keys in one database, and a superuser's eyes, which tell whose a thing is."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Iterator, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, fields, is_dataclass
from typing import Any
from uuid import UUID

import psycopg
from sqlalchemy import URL, Row

from src.config import Settings
from src.database import engine, get_db, get_engine, tenant_context
from src.database.base import Base, TenantBase, tenant_tables, uuid7
from src.database.embedded import APP_ROLE
from src.database.errors import ConnectionFailed, PoolExhausted
from src.database.models import Tenant
from src.database.session.scopes import read_engine
from src.database.store import get_store
from tests.acceptance.calls import Rows, fill
from tests.conftest import url_of

__all__ = ["World", "living", "mark_of", "parts_of"]

TABLES = [table.name for table in tenant_tables()]
_OWNERS = " UNION ALL ".join(f"SELECT tenant_id FROM {name} WHERE id = ANY(%(ids)s)" for name in TABLES)
_ALL_OF = " UNION ALL ".join(
    f"SELECT md5(string_agg(t::text, '' ORDER BY id)) FROM {name} t WHERE tenant_id = ANY(%(tenants)s)"
    for name in TABLES
)
# Where a tenant's name stands, so that what has no id tells whose it is: a tag, a sum by model.
_MARKS = (
    "UPDATE users SET display_name = 'of-' || tenant_id",
    "UPDATE conversations SET title = 'of-' || tenant_id",
    "UPDATE message_history SET model = 'of-' || tenant_id",
    "UPDATE events SET description = 'of-' || tenant_id",
    "UPDATE notes SET tags = ARRAY['of-' || tenant_id]",
)
# What is marked as one tenant's and stored for another one.
_MISPLACED = " UNION ALL ".join(
    f"SELECT '{column}', tenant_id, {column}::text FROM {table} t"
    f" WHERE EXISTS (SELECT FROM unnest({marks}) AS mark WHERE mark LIKE 'of-%' AND mark <> 'of-' || t.tenant_id)"
    for table, column, marks in (
        ("users", "display_name", "ARRAY[display_name]"),
        ("conversations", "title", "ARRAY[title]"),
        ("message_history", "model", "ARRAY[model]"),
        ("events", "description", "ARRAY[description]"),
        ("notes", "content", "ARRAY[content]"),
        ("notes", "tags", "tags"),
    )
)
_BUSY = (
    "SELECT count(*) FROM pg_stat_activity"
    " WHERE datname = current_database() AND pid <> pg_backend_pid() AND state <> 'idle'"
)
_END_ALL = (
    "SELECT pg_terminate_backend(pid) FROM pg_stat_activity"
    " WHERE datname = current_database() AND pid <> pg_backend_pid()"
)


def mark_of(tenant_id: UUID) -> str:
    return f"of-{tenant_id}"


@dataclass
class World:
    """The tenants, the ids of what each has, and who sees through all walls."""

    superuser: psycopg.Connection
    rows: dict[UUID, Rows]
    default: UUID | None = None
    """The tenant of the deployment, where no context names one."""

    @property
    def tenants(self) -> list[UUID]:
        return list(self.rows)

    def others(self, *acting: UUID) -> list[UUID]:
        return [tenant for tenant in self.rows if tenant not in acting]

    def whose(self, found: object) -> set[UUID]:
        """Return the tenants to whom anything in what a call returned belongs: by row, by id, by mark."""
        owners: set[UUID] = set()
        ids: list[UUID] = []
        for part in parts_of(found):
            if isinstance(part, TenantBase):
                owners.add(part.__dict__.get("tenant_id", part.tenant_id))
            elif isinstance(part, UUID):
                ids.append(part)
            elif isinstance(part, str):
                owners.update(tenant for tenant in self.rows if str(tenant) in part)
        owners.update(tenant for tenant in self.rows if tenant in ids)
        return owners | {owner for (owner,) in self.superuser.execute(_OWNERS, {"ids": ids})}

    def see(self, acting: UUID, found: object) -> None:
        """Fail where something is another's."""
        foreign = self.whose(found) - {acting}
        assert not foreign, f"{acting} was handed what is of {foreign}: {found!r}"

    def state_of(self, tenants: Sequence[UUID]) -> list[Any]:
        """Return what tells of any change to these tenants' rows."""
        return self.superuser.execute(_ALL_OF, {"tenants": list(tenants)}).fetchall()

    def misplaced(self) -> list[Any]:
        """Return what is stored for another tenant than the one whose mark it bears."""
        return self.superuser.execute(_MISPLACED.encode()).fetchall()

    def tenants_of_notes(self, ids: Sequence[UUID]) -> dict[UUID, UUID]:
        """Return the notes of these ids that are stored, with their tenants."""
        return dict(self.superuser.execute("SELECT id, tenant_id FROM notes WHERE id = ANY(%s)", (list(ids),)))

    def is_busy(self) -> bool:
        """Whether a statement that nobody waits for any more still runs."""
        return bool(self.superuser.execute(_BUSY).fetchall()[0][0])

    def in_use(self) -> int:
        """How many connections the three pools think that somebody has."""
        pools: list[Any] = [engine.pool, read_engine.pool]
        return sum(int(pool.checkedout()) for pool in pools) + get_store().pool.in_use

    def end_all_connections(self) -> None:
        self.superuser.execute(_END_ALL)

    async def refill(self) -> None:
        """Give each tenant one row of each kind, marked as his, and nothing else."""
        self.superuser.execute(f"TRUNCATE {', '.join(TABLES)}")
        for tenant in self.rows:
            with tenant_context(tenant):
                self.rows[tenant] = await _filled()
        for mark in _MARKS:
            self.superuser.execute(mark)


async def _filled() -> Rows:
    while True:
        try:
            async with get_db() as session:
                return await fill(session)
        except PoolExhausted:
            raise
        except ConnectionFailed:  # it was ended while it was idle, and the client has only begun to read of it
            continue


def parts_of(found: object) -> Iterator[object]:
    """Go through all that something is made of; a mapped row's loaded attributes too."""
    seen: set[int] = set()
    left = [found]
    while left:
        part = left.pop()
        if id(part) in seen or part is None:
            continue
        seen.add(id(part))
        yield part
        if isinstance(part, Base):
            left.extend(value for name, value in part.__dict__.items() if not name.startswith("_"))
        elif isinstance(part, Mapping):  # a record of the driver's too
            left.extend([*part.keys(), *part.values()])
        elif is_dataclass(part) and not isinstance(part, type):
            left.extend(getattr(part, field.name) for field in fields(part))
        elif isinstance(part, Row | Sequence | set | frozenset) and not isinstance(part, str | bytes):
            left.extend(part)
        elif hasattr(part, "values") and hasattr(part, "keys"):
            left.extend(part.values())


@asynccontextmanager
async def living(
    url: URL,
    superuser: psycopg.Connection,
    use_database: Callable[..., Settings],
    *,
    role: str = APP_ROLE,
    has_default: bool = False,
    **variables: str,
) -> AsyncIterator[World]:
    """Yield three tenants in a database of the test's own, and one connection for each of the pools.

    With `has_default` the first one is the deployment's default tenant.
    """
    there = url_of(str(url.database), role).update_query_dict({"pool_max": "1"})
    tenants = [uuid7() for _ in range(3)]
    default = tenants[0] if has_default else None
    if default:
        variables["DATABASE_DEFAULT_TENANT"] = str(default)
    # Not the test environment, which has a default tenant where no context names one.
    use_database(there, ENVIRONMENT="staging", DATABASE_POOL_TIMEOUT="20", **variables)
    world = World(superuser, {}, default)
    async with get_db() as session:
        for tenant in tenants:
            if tenant != default:  # that one is registered by its first use
                session.add(Tenant(id=tenant, slug=f"t-{tenant}", name="T"))
            world.rows[tenant] = Rows(tenant, tenant, tenant, tenant, tenant, tenant)
    try:
        await world.refill()
        yield world
    finally:
        await get_engine("store").dispose()
        await engine.dispose()
