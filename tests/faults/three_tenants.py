"""Three tenants with the same keys in one database, and a superuser's view of the owner of each row."""

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

__all__ = ["World", "mark_of", "parts_of", "three_tenants"]

TABLES = [table.name for table in tenant_tables()]
_OWNERS = " UNION ALL ".join(f"SELECT tenant_id FROM {name} WHERE id = ANY(%(ids)s)" for name in TABLES)
_ALL_OF = " UNION ALL ".join(
    f"SELECT md5(string_agg(t::text, '' ORDER BY id)) FROM {name} t WHERE tenant_id = ANY(%(tenants)s)"
    for name in TABLES
)
# Columns that contain the tenant's mark, for results without an id: a tag, a sum by model.
_MARKS = (
    "UPDATE users SET display_name = 'of-' || tenant_id",
    "UPDATE conversations SET title = 'of-' || tenant_id",
    "UPDATE message_history SET model = 'of-' || tenant_id",
    "UPDATE events SET description = 'of-' || tenant_id",
    "UPDATE notes SET tags = ARRAY['of-' || tenant_id]",
)
# Rows with the mark of one tenant that are stored for another one.
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
    """The tenants, the ids of their rows, and a superuser's connection."""

    superuser: psycopg.Connection
    rows: dict[UUID, Rows]
    default: UUID | None = None
    """The default tenant, or None."""

    @property
    def tenants(self) -> list[UUID]:
        return list(self.rows)

    def others(self, *current: UUID) -> list[UUID]:
        return [tenant for tenant in self.rows if tenant not in current]

    def whose(self, found: object) -> set[UUID]:
        """Return the tenants of a result of a call: by row, by id, by mark."""
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

    def see(self, current: UUID, found: object) -> None:
        """Check that a result belongs to this tenant."""
        foreign = self.whose(found) - {current}
        assert not foreign, f"{current} read rows of {foreign}: {found!r}"

    def state_of(self, tenants: Sequence[UUID]) -> list[Any]:
        """Return a digest of the rows of these tenants."""
        return self.superuser.execute(_ALL_OF, {"tenants": list(tenants)}).fetchall()

    def misplaced(self) -> list[Any]:
        """Return the rows that are stored for another tenant than that of their mark."""
        return self.superuser.execute(_MISPLACED.encode()).fetchall()

    def tenants_of_notes(self, ids: Sequence[UUID]) -> dict[UUID, UUID]:
        """Return the stored notes with these ids, with their tenants."""
        return dict(self.superuser.execute("SELECT id, tenant_id FROM notes WHERE id = ANY(%s)", (list(ids),)))

    def is_busy(self) -> bool:
        """Return True if a statement of a cancelled call still runs."""
        return bool(self.superuser.execute(_BUSY).fetchall()[0][0])

    def in_use(self) -> int:
        """Return the number of checked-out connections of the three pools."""
        pools: list[Any] = [engine.pool, read_engine.pool]
        return sum(int(pool.checkedout()) for pool in pools) + get_store().pool.in_use

    def end_all_connections(self) -> None:
        self.superuser.execute(_END_ALL)

    async def refill(self) -> None:
        """Delete all rows, and insert one row of each kind for each tenant, with its mark."""
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
        except ConnectionFailed:  # terminated while idle; the client has not noticed yet
            continue


def parts_of(found: object) -> Iterator[object]:
    """Yield all parts of a result, including the loaded attributes of mapped rows."""
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
        elif isinstance(part, Mapping):  # also a record of the driver
            left.extend([*part.keys(), *part.values()])
        elif is_dataclass(part) and not isinstance(part, type):
            left.extend(getattr(part, field.name) for field in fields(part))
        elif isinstance(part, Row | Sequence | set | frozenset) and not isinstance(part, str | bytes):
            left.extend(part)
        elif hasattr(part, "values") and hasattr(part, "keys"):
            left.extend(part.values())


@asynccontextmanager
async def three_tenants(
    url: URL,
    superuser: psycopg.Connection,
    use_database: Callable[..., Settings],
    *,
    role: str = APP_ROLE,
    has_default: bool = False,
    **variables: str,
) -> AsyncIterator[World]:
    """Yield three tenants in a clone of the database; each pool has one connection.

    With `has_default` the first tenant is the default one.
    """
    there = url_of(str(url.database), role).update_query_dict({"pool_max": "1"})
    tenants = [uuid7() for _ in range(3)]
    default = tenants[0] if has_default else None
    if default:
        variables["DATABASE_DEFAULT_TENANT"] = str(default)
    # Not the environment test, which has a default tenant.
    use_database(there, ENVIRONMENT="staging", DATABASE_POOL_TIMEOUT="20", **variables)
    world = World(superuser, {}, default)
    async with get_db() as session:
        for tenant in tenants:
            if tenant != default:  # the first use registers the default tenant
                session.add(Tenant(id=tenant, slug=f"t-{tenant}", name="T"))
            world.rows[tenant] = Rows(tenant, tenant, tenant, tenant, tenant, tenant)
    try:
        await world.refill()
        yield world
    finally:
        await get_engine("store").dispose()
        await engine.dispose()
