"""Checks that notice a missing isolation layer. Each uses one path, and returns the faults that it finds."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from contextlib import suppress
from typing import Any
from uuid import UUID

import psycopg
from sqlalchemy import text

from src.database import current_tenant, get_db, get_read_db, tenant_context
from src.database.base import uuid7
from src.database.embedded import APP_ROLE, OWNER_ROLE
from src.database.errors import DatabaseError, NoTenantError, TenantMismatchError
from src.database.models import User
from src.database.repositories import NoteRepository, UserRepository
from src.database.store import get_store
from tests.acceptance.calls import CALLS, STORE_CALLS, Rows
from tests.conftest import SOCKETS
from tests.faults.three_tenants import TABLES, World

__all__ = [
    "Check",
    "check_added_rows",
    "check_bindings",
    "check_catalog",
    "check_compiled_reads",
    "check_contexts",
    "check_owner",
    "check_predicates",
    "check_references",
    "check_rows",
    "check_store",
    "check_writes",
]

Check = Callable[[World], Awaitable[list[str]]]

_POLICY = "(tenant_id = (NULLIF(current_setting('app.tenant_id'::text, true), ''::text))::uuid)"
# From the live catalog and not from the metadata, so that tables that were created by hand are checked too.
_OF_TENANTS = """
    SELECT c.oid FROM pg_class c JOIN pg_attribute a ON a.attrelid = c.oid
     WHERE a.attname = 'tenant_id' AND NOT a.attisdropped AND c.relkind IN ('r', 'p', 'f')
       AND c.relnamespace NOT IN ('pg_catalog'::regnamespace, 'information_schema'::regnamespace)
"""
_CATALOGUE = {
    "is not under FORCEd row-level security": f"""
        SELECT oid::regclass::text FROM pg_class
         WHERE oid IN ({_OF_TENANTS}) AND NOT (relrowsecurity AND relforcerowsecurity)""",
    "has not the one policy for all commands and all roles": f"""
        SELECT c.oid::regclass::text FROM pg_class c LEFT JOIN pg_policy p ON p.polrelid = c.oid
         WHERE c.oid IN ({_OF_TENANTS}) GROUP BY c.oid
        HAVING count(p.oid) <> 1 OR NOT bool_and(
               p.polcmd = '*' AND p.polpermissive AND p.polroles = '{{0}}'
               AND pg_get_expr(p.polqual, p.polrelid) = $${_POLICY}$$
               AND pg_get_expr(p.polwithcheck, p.polrelid) = $${_POLICY}$$)""",
    "is a key that does not begin with the tenant": f"""
        SELECT i.indexrelid::regclass::text FROM pg_index i JOIN pg_attribute a
            ON a.attrelid = i.indrelid AND a.attname = 'tenant_id'
         WHERE i.indrelid IN ({_OF_TENANTS}) AND i.indisunique AND i.indkey[0] <> a.attnum""",
    "is a reference that does not begin with the tenant": f"""
        SELECT o.conname::text FROM pg_constraint o
         WHERE o.contype = 'f' AND o.conrelid IN ({_OF_TENANTS}) AND o.confrelid IN ({_OF_TENANTS})
           AND NOT ((SELECT attname FROM pg_attribute WHERE attrelid = o.conrelid AND attnum = o.conkey[1])
                    = 'tenant_id'
               AND (SELECT attname FROM pg_attribute WHERE attrelid = o.confrelid AND attnum = o.confkey[1])
                    = 'tenant_id')""",
    "is a view that runs as its owner": """
        SELECT oid::regclass::text FROM pg_class
         WHERE relnamespace = 'public'::regnamespace AND (relkind = 'm' OR relkind = 'v'
           AND NOT coalesce(reloptions, '{}') && ARRAY['security_invoker=true', 'security_invoker=on'])""",
    "is a function that runs as its owner": """
        SELECT oid::regproc::text FROM pg_proc WHERE pronamespace = 'public'::regnamespace AND prosecdef""",
    "is a role that row-level security does not bind": f"""
        SELECT rolname::text FROM pg_roles
         WHERE rolname IN ('{APP_ROLE}', '{OWNER_ROLE}') AND (rolsuper OR rolbypassrls)""",
}


async def check_catalog(world: World) -> list[str]:
    """Check the policy of each table with a tenant_id, and the objects that could bypass it."""
    return [
        f"{name} {fault}" for fault, query in _CATALOGUE.items() for (name,) in world.superuser.execute(query.encode())
    ]


async def check_rows(world: World) -> list[str]:
    """Read all rows without a predicate, in every kind of session: only the tenant's own rows are visible."""
    found = []
    for current in world.tenants:
        for scope in (get_db, get_read_db):
            with tenant_context(current):
                async with scope() as session:
                    rows = [row for name in TABLES for row in await session.execute(text(f"SELECT * FROM {name}"))]
            found += _faults(world, current, rows)
    return found


async def check_bindings(world: World) -> list[str]:
    """Leave a connection bound to another tenant by a caller's own SQL, and check what the next session reads."""
    found = []
    other = world.tenants[-1]
    for current in world.tenants[:-1]:
        for scope in (get_db, get_read_db):
            with tenant_context(current):
                async with scope() as session:
                    await session.execute(text("SELECT set_config('app.tenant_id', :o, false)"), {"o": str(other)})
                async with scope() as session:
                    rows = (await session.execute(text("SELECT * FROM users"))).all()
            found += _faults(world, current, rows)
            async with scope() as session:
                if (await session.execute(text("SELECT * FROM users"))).all():
                    found.append("a session without a tenant reads rows")
    connection = world.superuser.cursor()
    connection.execute(f"SET ROLE {APP_ROLE}")
    connection.execute("SELECT app_set_tenant(%s)", (other,))  # in its own transaction
    if connection.execute("SELECT FROM users").fetchall():
        found.append("a binding outlives its transaction")
    connection.execute("RESET ROLE")
    return found


async def check_compiled_reads(world: World) -> list[str]:
    """Read with compiled statements on a connection that served another tenant before."""
    found = []
    for current in world.tenants:
        with tenant_context(current):
            async with get_read_db() as session:
                users = (await UserRepository(session).page()).items
                found += _faults(
                    world, current, [*users, *[await UserRepository(session).get(one.id) for one in users]]
                )
    return found


async def check_writes(world: World) -> list[str]:
    """Try to insert and to move rows of another tenant: the database rejects both."""
    current, other = world.tenants[:2]
    found = []
    for statement in (
        "INSERT INTO users (tenant_id, id) VALUES (:other, :id)",
        "UPDATE notes SET tenant_id = :other, user_id = :their_user",
    ):
        values = {"other": other, "id": uuid7(), "their_user": world.rows[other].user}
        with suppress(DatabaseError), tenant_context(current):
            async with get_db() as session:
                await session.execute(text(statement), values)
            found.append(f"was written for another: {statement}")
    return found


async def check_references(world: World) -> list[str]:
    """Refer to a row of another tenant through each foreign key."""
    current, other = (world.rows[tenant] for tenant in world.tenants[:2])
    with suppress(DatabaseError), tenant_context(world.tenants[0]):
        async with get_db() as session:
            await session.execute(text("UPDATE notes SET user_id = :user"), {"user": other.user})
        return [f"a note of {current.user} refers to a user of another tenant"]
    return []


async def check_predicates(world: World) -> list[str]:
    """Call every method with ids of another tenant, as a role to which row-level security does not apply."""
    current, other = world.tenants[:2]
    found: list[str] = []
    before = world.state_of([other])
    for repository, calls in CALLS.items():
        for name, call in calls.items():
            with suppress(DatabaseError), tenant_context(current):
                async with get_db() as session:
                    rows = await call.run(repository(session), world.rows[other])
                    if other in world.whose(rows):
                        found.append(f"{name} hands out another's rows")
                    await session.commit()
            if world.state_of([other]) != before:
                found.append(f"{name} changes another's rows")
            if found:
                return found
    return found


async def check_store(world: World) -> list[str]:
    """Call the store as one tenant after another, with the ids of all tenants."""
    found: list[str] = []
    first, second, _ = world.tenants
    own: list[Callable[[Rows], Awaitable[Any]]] = [
        lambda rows: STORE_CALLS["user_by_telegram_id"].run(get_store(), rows),
        lambda rows: STORE_CALLS["stream_messages"].run(get_store(), rows),
    ]
    for read in own:  # each of them is the first call on a connection that served another tenant
        for current in (first, second, first):
            with tenant_context(current):
                if not await read(world.rows[current]):
                    found.append("the current tenant does not see its rows")
    for current in (first, second, first):
        if found:
            return found
        others = world.others(current)
        before = world.state_of(others)
        with tenant_context(current):
            for rows in (world.rows[first], world.rows[second]):
                for call in STORE_CALLS.values():
                    with suppress(DatabaseError):
                        found += _foreign(world, current, await call.run(get_store(), rows))
        if world.state_of(others) != before:
            found.append("the store changes rows of another tenant")
    return found


async def check_contexts(world: World) -> list[str]:
    """Use sessions and the store without a tenant, and under two tenants at the same time."""
    current, other = world.tenants[:2]
    found = []
    with tenant_context(current):
        async with get_db() as session:
            await UserRepository(session).count()
            with tenant_context(other), suppress(TenantMismatchError):
                await NoteRepository(session).count()
                found.append("a session serves while another's context is open")
    if current_tenant() is not None:
        found.append("the current tenant outlives its context")
        return found
    async with get_db() as session:
        with suppress(NoTenantError):
            await UserRepository(session).count()
            found.append("a repository works without a tenant")
    with suppress(NoTenantError):
        await get_store().user_by_telegram_id(1)
        found.append("the store works without a tenant")
    return found


async def check_added_rows(world: World) -> list[str]:
    """Add a row with the id of another tenant."""
    current, other = world.tenants[:2]
    try:
        with tenant_context(current):
            async with get_db() as session:
                session.add(User(tenant_id=other))
    except TenantMismatchError:
        return []
    except DatabaseError as error:
        return [f"a row of another's was sent to the server: {error}"]
    return ["a row of another's was stored"]


async def check_owner(world: World) -> list[str]:
    """Read as the role that owns the tables."""
    database = world.superuser.info.dbname
    with psycopg.connect(host=SOCKETS, user=OWNER_ROLE, dbname=database, autocommit=True) as connection:
        seen = [name for name in TABLES if connection.execute(f"SELECT FROM {name}".encode()).fetchall()]
    return [f"the owner sees {name}" for name in seen]


def _foreign(world: World, current: UUID, found: Any) -> list[str]:
    return [f"{current} reads rows of {owner}" for owner in world.whose(found) - {current}]


def _faults(world: World, current: UUID, rows: Sequence[Any]) -> list[str]:
    return _foreign(world, current, rows) + ([] if rows else [f"{current} does not see its rows"])
