"""Each isolation layer between tenants is removed in turn, and a check notices each time."""

from __future__ import annotations

import re
from collections.abc import Callable
from contextlib import contextmanager
from typing import Any
from uuid import UUID

import psycopg
import pytest
from sqlalchemy import URL, event, select, text
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine

from src.config import Settings
from src.database import tenant_scope
from src.database.base import TenantBase, tenant_tables, uuid7
from src.database.embedded import APP_ROLE, SUPERUSER
from src.database.errors import DatabaseError, ForeignKeyError, TenantMismatchError
from src.database.repositories import Repository
from src.database.repositories.base import repository
from src.database.session import ReadTenantSession, TenantBinding, TenantSession
from src.database.session import session as sessions
from src.database.statements.compiled import DriverStatement
from src.database.store.calls import Calls
from tests.acceptance.calls import CALLS, fill, missing_calls
from tests.acceptance.test_tenants import act_as
from tests.faults import isolation_checks as checks
from tests.faults.isolation_checks import Check
from tests.faults.three_tenants import World, parts_of, three_tenants

AS_APPLICATION = [
    checks.check_catalog,
    checks.check_rows,
    checks.check_bindings,
    checks.check_compiled_reads,
    checks.check_writes,
    checks.check_references,
    checks.check_store,
    checks.check_contexts,
    checks.check_added_rows,
    checks.check_owner,
]
WITHOUT_POLICIES = [checks.check_store, checks.check_predicates]  # the latter deletes own rows
FUNCTION = re.compile(r"\bFROM (app_\w+)\(")
PREDICATE = re.compile(r"[\w.]*\btenant_id = (\$\d+(?:::UUID)?)")

STATE = "SELECT md5(t::text) FROM {} t WHERE tenant_id IN (:tenant) ORDER BY id"

IN_THE_DATABASE: dict[str, tuple[str, Check]] = {
    "row-level security": ("ALTER TABLE notes DISABLE ROW LEVEL SECURITY", checks.check_rows),
    "row-level security, in the catalogue": (
        "ALTER TABLE notes DISABLE ROW LEVEL SECURITY",
        checks.check_catalog,
    ),
    "FORCE": ("ALTER TABLE users NO FORCE ROW LEVEL SECURITY", checks.check_owner),
    "FORCE, in the catalogue": ("ALTER TABLE users NO FORCE ROW LEVEL SECURITY", checks.check_catalog),
    "the policy": ("DROP POLICY tenant_isolation ON events", checks.check_catalog),
    "USING": ("ALTER POLICY tenant_isolation ON message_history USING (true)", checks.check_rows),
    "WITH CHECK": ("ALTER POLICY tenant_isolation ON users WITH CHECK (true)", checks.check_writes),
    "the only policy": ("CREATE POLICY wide ON notes USING (true)", checks.check_rows),
    "the policy for all roles": (
        f"ALTER POLICY tenant_isolation ON notes TO {APP_ROLE}",
        checks.check_catalog,
    ),
    "a policy that fails closed": (
        (
            "ALTER POLICY tenant_isolation ON users USING"
            " (tenant_id = NULLIF(current_setting('app.tenant_id', true), '')::uuid"
            " OR NULLIF(current_setting('app.tenant_id', true), '') IS NULL)"
        ),
        checks.check_bindings,
    ),
    "a policy on a new table": ("CREATE TABLE extra (tenant_id uuid, id uuid)", checks.check_catalog),
    "a policy on a new partitioned table": (
        "CREATE TABLE extra (tenant_id uuid, id uuid) PARTITION BY HASH (tenant_id)",
        checks.check_catalog,
    ),
    "a view that runs as its reader": ("CREATE VIEW everybody AS SELECT * FROM users", checks.check_catalog),
    "a function that runs as its caller": (
        "CREATE FUNCTION everybody() RETURNS bigint SECURITY DEFINER LANGUAGE sql RETURN 1",
        checks.check_catalog,
    ),
    "the binding's end with its transaction": (
        (
            "CREATE OR REPLACE FUNCTION app_set_tenant(tenant_id uuid) RETURNS void LANGUAGE sql"
            " AS $$ SELECT set_config('app.tenant_id', coalesce(tenant_id::text, ''), false) $$"
        ),
        checks.check_bindings,
    ),
    "the tenant in a reference": (
        (
            "ALTER TABLE notes DROP CONSTRAINT fk_notes_tenant_id_user_id;"
            " ALTER TABLE users ADD CONSTRAINT by_id UNIQUE (id);"
            " ALTER TABLE notes ADD CONSTRAINT by_id_alone FOREIGN KEY (user_id) REFERENCES users (id)"
        ),
        checks.check_references,
    ),
    "the tenant in a reference, in the catalogue": (
        (
            "ALTER TABLE notes DROP CONSTRAINT fk_notes_tenant_id_user_id;"
            " ALTER TABLE users ADD CONSTRAINT by_both UNIQUE (tenant_id, id, telegram_id);"
            " ALTER TABLE notes ADD CONSTRAINT other_way_round FOREIGN KEY (user_id, tenant_id)"
            " REFERENCES users (id, tenant_id)"
        ),
        checks.check_catalog,
    ),
    "the tenant in a key": (
        "CREATE UNIQUE INDEX by_name ON users (username, tenant_id)",
        checks.check_catalog,
    ),
}


def no_predicate(repository: Repository[Any], *where: Any, include_deleted: bool = False) -> Any:
    del include_deleted
    return select(repository.model).where(*where)


def begins_unbound(session: Any, connection: Any) -> None:
    session.connection_in_use, session._bound_to = connection, session.take_tenant()


@contextmanager
def leaves_its_context(tenant_id: Any) -> Any:
    tenant_scope._innermost.set(tenant_scope.tenant_context(tenant_id))
    yield tenant_id


IN_THE_CODE: dict[str, tuple[Any, str, Any, Check, str]] = {
    "the predicate in _select": (Repository, "_select", no_predicate, checks.check_predicates, SUPERUSER),
    "the predicate in _is": (
        Repository, "_is", lambda self, row_id: (self.model.id == row_id,), checks.check_predicates, SUPERUSER
    ),
    "the bind at begin": (TenantBinding, "bind", lambda *_: None, checks.check_rows, APP_ROLE),
    "the tenant of a row that is added alone": (
        TenantSession, "check_tenant", lambda *_: None, checks.check_added_rows, APP_ROLE
    ),
    "the bind at begin, of a reader": (
        ReadTenantSession, "bind_new_transaction", begins_unbound, checks.check_bindings, APP_ROLE
    ),
    "the bind in a compiled read": (
        DriverStatement, "fenced", property(lambda ready: ready), checks.check_compiled_reads, APP_ROLE
    ),
    "one tenant a session": (
        TenantSession, "take_tenant", lambda _: tenant_scope.current_tenant(), checks.check_contexts, APP_ROLE
    ),
    "a tenant at all": (TenantSession, "required_tenant", lambda *_: uuid7(), checks.check_contexts, APP_ROLE),
    "a tenant at all, in the store": (Calls, "tenant_id", property(lambda _: uuid7()), checks.check_contexts, APP_ROLE),
    "the end of a context": (checks, "tenant_context", leaves_its_context, checks.check_contexts, APP_ROLE),
}  # fmt: skip


async def test_nothing_is_reported_with_all_layers(
    cloned_database: URL, superuser: psycopg.Connection, use_database: Callable[..., Settings]
) -> None:
    async with three_tenants(cloned_database, superuser, use_database) as world:
        assert {check.__name__: await check(world) for check in AS_APPLICATION} == {
            check.__name__: [] for check in AS_APPLICATION
        }


@pytest.mark.slow
async def test_nothing_is_reported_with_the_predicates_alone(
    cloned_database: URL, superuser: psycopg.Connection, use_database: Callable[..., Settings]
) -> None:
    async with three_tenants(cloned_database, superuser, use_database, role=SUPERUSER) as world:
        assert {check.__name__: await check(world) for check in WITHOUT_POLICIES} == {
            check.__name__: [] for check in WITHOUT_POLICIES
        }


@pytest.mark.slow
@pytest.mark.parametrize("layer", IN_THE_DATABASE)
async def test_a_missing_layer_of_the_database_is_noticed(
    layer: str, cloned_database: URL, superuser: psycopg.Connection, use_database: Callable[..., Settings]
) -> None:
    statement, check = IN_THE_DATABASE[layer]
    if check is checks.check_catalog:  # the check needs no rows
        superuser.execute(statement.encode())
        assert await check(World(superuser, {}))
        return
    async with three_tenants(cloned_database, superuser, use_database) as world:
        superuser.execute(statement.encode())

        assert await check(world)


@pytest.mark.slow
@pytest.mark.parametrize("layer", IN_THE_CODE)
async def test_a_missing_layer_of_the_code_is_noticed(
    layer: str,
    cloned_database: URL,
    superuser: psycopg.Connection,
    use_database: Callable[..., Settings],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    owner, name, broken, check, role = IN_THE_CODE[layer]
    async with three_tenants(cloned_database, superuser, use_database, role=role) as world:
        monkeypatch.setattr(owner, name, broken)
        repository._built_once.cache_clear()  # compiled statements must be built again from the broken code
        try:
            assert await check(world)
        finally:
            repository._built_once.cache_clear()


async def test_a_flush_without_the_check_of_the_tenant_is_noticed(
    cloned_database: URL, superuser: psycopg.Connection, use_database: Callable[..., Settings]
) -> None:
    async with three_tenants(cloned_database, superuser, use_database) as world:
        event.remove(TenantSession, "before_flush", sessions._before_flush)
        try:
            assert await checks.check_added_rows(world)
        finally:
            event.listen(TenantSession, "before_flush", sessions._before_flush)


async def test_a_role_with_bypassrls_is_noticed(
    cloned_database: URL, superuser: psycopg.Connection, use_database: Callable[..., Settings]
) -> None:
    """Roles belong to the server, not to the database: the test creates one, and connects as that role."""
    superuser.execute("CREATE ROLE thea_wide LOGIN BYPASSRLS")
    superuser.execute(f"GRANT {APP_ROLE} TO thea_wide")
    try:
        async with three_tenants(cloned_database, superuser, use_database, role="thea_wide") as world:
            assert await checks.check_rows(world)
    finally:
        superuser.execute("DROP ROLE thea_wide")


def test_every_public_method_has_a_call() -> None:
    assert missing_calls() == []


@pytest.mark.slow
@pytest.mark.parametrize("repository", CALLS)
async def test_the_missing_predicate_of_each_method_is_noticed(
    repository: type[Repository[Any]], engine_of: Callable[[str], AsyncEngine]
) -> None:
    """All predicates of a method are made true before the statement is sent, as a role without row-level security."""
    unnoticed = set()
    async with engine_of(SUPERUSER).connect() as connection:
        outer = await connection.begin()
        a, b = uuid7(), uuid7()
        async with act_as(b, connection) as session:
            rows = await fill(session)
        before = await state_of(connection, b)
        removed: list[str] = []
        functions: list[str] = []

        def remove_predicate(*cursor: Any) -> tuple[str, Any]:
            statement, number = PREDICATE.subn(r"\1 IS NOT NULL", cursor[2])
            removed.extend([statement] * number)
            functions.extend(FUNCTION.findall(statement))
            return statement, cursor[3]

        event.listen(connection.sync_connection, "before_cursor_execute", remove_predicate, retval=True)
        for name, call in CALLS[repository].items():
            savepoint = await connection.begin_nested()
            removed.clear()
            functions.clear()
            async with act_as(a, connection) as session:
                try:
                    found = await call.run(repository(session), rows)
                    is_noticed = b in tenants_of(found) if call.makes_rows else bool(found)
                    await session.commit()
                except (DatabaseError, ValueError) as error:
                    # The method found the row, and another layer rejected it.
                    other_layers = (
                        (TenantMismatchError,) if call.needs_own_rows else (TenantMismatchError, ForeignKeyError)
                    )
                    is_noticed = isinstance(error, other_layers)
                    await session.rollback()
                is_noticed = is_noticed or await state_of(connection, b) != before
            await savepoint.rollback()
            is_unchanged = functions and not removed  # tests/database/statements removes the predicates of functions
            if not is_noticed and not is_unchanged and (removed or (call.statements and not call.makes_rows)):
                unnoticed.add(name)
        await outer.rollback()

    assert unnoticed == set()


def tenants_of(found: Any) -> set[UUID]:
    return {part.tenant_id for part in parts_of(found) if isinstance(part, TenantBase)}


async def state_of(connection: AsyncConnection, tenant_id: UUID) -> list[Any]:
    return [
        row
        for table in tenant_tables()
        for row in await connection.execute(text(STATE.format(table.name)), {"tenant": tenant_id})
    ]
