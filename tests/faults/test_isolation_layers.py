"""Each wall between tenants is taken down in turn, and each time a look at the whole notices it."""

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
from src.database.statements.compiled import Ready
from src.database.store.calls import Calls
from tests.acceptance.calls import CALLS, fill, missing_calls
from tests.acceptance.test_tenants import act_as
from tests.faults import looks
from tests.faults.looks import Look
from tests.faults.three_tenants import World, living, parts_of

AS_APPLICATION = [
    looks.at_the_catalogue,
    looks.at_rows,
    looks.at_bindings,
    looks.at_compiled_reads,
    looks.at_writes,
    looks.at_references,
    looks.at_the_store,
    looks.at_contexts,
    looks.at_what_is_added,
    looks.at_the_owner,
]
WITHOUT_POLICIES = [looks.at_the_store, looks.at_predicates]  # the latter leaves nothing of the acting tenant
FUNCTION = re.compile(r"\bFROM (app_\w+)\(")
PREDICATE = re.compile(r"[\w.]*\btenant_id = (\$\d+(?:::UUID)?)")

STATE = "SELECT md5(t::text) FROM {} t WHERE tenant_id IN (:tenant) ORDER BY id"

IN_THE_DATABASE: dict[str, tuple[str, Look]] = {
    "row-level security": ("ALTER TABLE notes DISABLE ROW LEVEL SECURITY", looks.at_rows),
    "row-level security, in the catalogue": ("ALTER TABLE notes DISABLE ROW LEVEL SECURITY", looks.at_the_catalogue),
    "FORCE": ("ALTER TABLE users NO FORCE ROW LEVEL SECURITY", looks.at_the_owner),
    "FORCE, in the catalogue": ("ALTER TABLE users NO FORCE ROW LEVEL SECURITY", looks.at_the_catalogue),
    "the policy": ("DROP POLICY tenant_isolation ON events", looks.at_the_catalogue),
    "USING": ("ALTER POLICY tenant_isolation ON message_history USING (true)", looks.at_rows),
    "WITH CHECK": ("ALTER POLICY tenant_isolation ON users WITH CHECK (true)", looks.at_writes),
    "the only policy": ("CREATE POLICY wide ON notes USING (true)", looks.at_rows),
    "the policy for everybody": (f"ALTER POLICY tenant_isolation ON notes TO {APP_ROLE}", looks.at_the_catalogue),
    "a policy that fails closed": (
        (
            "ALTER POLICY tenant_isolation ON users USING"
            " (tenant_id = NULLIF(current_setting('app.tenant_id', true), '')::uuid"
            " OR NULLIF(current_setting('app.tenant_id', true), '') IS NULL)"
        ),
        looks.at_bindings,
    ),
    "a policy on a new table": ("CREATE TABLE extra (tenant_id uuid, id uuid)", looks.at_the_catalogue),
    "a policy on a new partitioned table": (
        "CREATE TABLE extra (tenant_id uuid, id uuid) PARTITION BY HASH (tenant_id)",
        looks.at_the_catalogue,
    ),
    "a view that asks as its reader": ("CREATE VIEW everybody AS SELECT * FROM users", looks.at_the_catalogue),
    "a function that runs as its caller": (
        "CREATE FUNCTION everybody() RETURNS bigint SECURITY DEFINER LANGUAGE sql RETURN 1",
        looks.at_the_catalogue,
    ),
    "the binding's end with its transaction": (
        (
            "CREATE OR REPLACE FUNCTION app_set_tenant(tenant_id uuid) RETURNS void LANGUAGE sql"
            " AS $$ SELECT set_config('app.tenant_id', coalesce(tenant_id::text, ''), false) $$"
        ),
        looks.at_bindings,
    ),
    "the tenant in a reference": (
        (
            "ALTER TABLE notes DROP CONSTRAINT fk_notes_tenant_id_user_id;"
            " ALTER TABLE users ADD CONSTRAINT by_id UNIQUE (id);"
            " ALTER TABLE notes ADD CONSTRAINT by_id_alone FOREIGN KEY (user_id) REFERENCES users (id)"
        ),
        looks.at_references,
    ),
    "the tenant in a reference, in the catalogue": (
        (
            "ALTER TABLE notes DROP CONSTRAINT fk_notes_tenant_id_user_id;"
            " ALTER TABLE users ADD CONSTRAINT by_both UNIQUE (tenant_id, id, telegram_id);"
            " ALTER TABLE notes ADD CONSTRAINT other_way_round FOREIGN KEY (user_id, tenant_id)"
            " REFERENCES users (id, tenant_id)"
        ),
        looks.at_the_catalogue,
    ),
    "the tenant in a key": ("CREATE UNIQUE INDEX by_name ON users (username, tenant_id)", looks.at_the_catalogue),
}


def no_predicate(repository: Repository[Any], *where: Any, include_deleted: bool = False) -> Any:
    del include_deleted
    return select(repository.model).where(*where)


def begins_unbound(session: Any, connection: Any) -> None:
    session.connection_in_use, session._bound_to = connection, session.acting_tenant()


@contextmanager
def leaves_its_context(tenant_id: Any) -> Any:
    tenant_scope._innermost.set(tenant_scope.tenant_context(tenant_id))
    yield tenant_id


IN_THE_CODE: dict[str, tuple[Any, str, Any, Look, str]] = {
    "the predicate in _select": (Repository, "_select", no_predicate, looks.at_predicates, SUPERUSER),
    "the predicate in _is": (
        Repository, "_is", lambda self, row_id: (self.model.id == row_id,), looks.at_predicates, SUPERUSER
    ),
    "the bind at begin": (TenantBinding, "bind", lambda *_: None, looks.at_rows, APP_ROLE),
    "the tenant of a row that is added alone": (
        TenantSession, "keep_to_its_tenant", lambda *_: None, looks.at_what_is_added, APP_ROLE
    ),
    "the bind at begin, of a reader": (ReadTenantSession, "begin_on", begins_unbound, looks.at_bindings, APP_ROLE),
    "the bind in a compiled read": (
        Ready, "fenced", property(lambda ready: ready), looks.at_compiled_reads, APP_ROLE
    ),
    "one tenant a session": (
        TenantSession, "acting_tenant", lambda _: tenant_scope.current_tenant(), looks.at_contexts, APP_ROLE
    ),
    "a tenant at all": (TenantSession, "required_tenant", lambda *_: uuid7(), looks.at_contexts, APP_ROLE),
    "a tenant at all, in the store": (Calls, "tenant_id", property(lambda _: uuid7()), looks.at_contexts, APP_ROLE),
    "the end of a context": (looks, "tenant_context", leaves_its_context, looks.at_contexts, APP_ROLE),
}  # fmt: skip


async def test_where_all_walls_stand_there_is_nothing_to_notice(
    cloned_database: URL, superuser: psycopg.Connection, use_database: Callable[..., Settings]
) -> None:
    async with living(cloned_database, superuser, use_database) as world:
        assert {look.__name__: await look(world) for look in AS_APPLICATION} == {
            look.__name__: [] for look in AS_APPLICATION
        }


@pytest.mark.slow
async def test_where_the_predicates_stand_alone_there_is_nothing_to_notice(
    cloned_database: URL, superuser: psycopg.Connection, use_database: Callable[..., Settings]
) -> None:
    async with living(cloned_database, superuser, use_database, role=SUPERUSER) as world:
        assert {look.__name__: await look(world) for look in WITHOUT_POLICIES} == {
            look.__name__: [] for look in WITHOUT_POLICIES
        }


@pytest.mark.slow
@pytest.mark.parametrize("wall", IN_THE_DATABASE)
async def test_a_wall_of_the_database_that_is_down_is_noticed(
    wall: str, cloned_database: URL, superuser: psycopg.Connection, use_database: Callable[..., Settings]
) -> None:
    statement, look = IN_THE_DATABASE[wall]
    if look is looks.at_the_catalogue:  # it needs nobody's rows
        superuser.execute(statement.encode())
        assert await look(World(superuser, {}))
        return
    async with living(cloned_database, superuser, use_database) as world:
        superuser.execute(statement.encode())

        assert await look(world)


@pytest.mark.slow
@pytest.mark.parametrize("wall", IN_THE_CODE)
async def test_a_wall_of_the_code_that_is_down_is_noticed(
    wall: str,
    cloned_database: URL,
    superuser: psycopg.Connection,
    use_database: Callable[..., Settings],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    owner, name, broken, look, role = IN_THE_CODE[wall]
    async with living(cloned_database, superuser, use_database, role=role) as world:
        monkeypatch.setattr(owner, name, broken)
        repository._built_once.cache_clear()  # statements are built once, of what is broken by now
        try:
            assert await look(world)
        finally:
            repository._built_once.cache_clear()


async def test_what_is_flushed_unseen_is_noticed(
    cloned_database: URL, superuser: psycopg.Connection, use_database: Callable[..., Settings]
) -> None:
    async with living(cloned_database, superuser, use_database) as world:
        event.remove(TenantSession, "before_flush", sessions._before_flush)
        try:
            assert await looks.at_what_is_added(world)
        finally:
            event.listen(TenantSession, "before_flush", sessions._before_flush)


async def test_a_role_that_no_policy_binds_is_noticed(
    cloned_database: URL, superuser: psycopg.Connection, use_database: Callable[..., Settings]
) -> None:
    """Roles are the server's, not the database's: another one is made, and taken for the application's."""
    superuser.execute("CREATE ROLE thea_wide LOGIN BYPASSRLS")
    superuser.execute(f"GRANT {APP_ROLE} TO thea_wide")
    try:
        async with living(cloned_database, superuser, use_database, role="thea_wide") as world:
            assert await looks.at_rows(world)
    finally:
        superuser.execute("DROP ROLE thea_wide")


def test_the_predicates_of_every_public_method_are_taken_away() -> None:
    assert missing_calls() == []


@pytest.mark.slow
@pytest.mark.parametrize("repository", CALLS)
async def test_the_predicate_of_each_method_is_missed_where_it_is_not(
    repository: type[Repository[Any]], engine_of: Callable[[str], AsyncEngine]
) -> None:
    """All of a method's predicates are made true on their way to the server, which no policy helps."""
    unnoticed = set()
    async with engine_of(SUPERUSER).connect() as connection:
        outer = await connection.begin()
        a, b = uuid7(), uuid7()
        async with act_as(b, connection) as session:
            rows = await fill(session)
        before = await state_of(connection, b)
        taken_away: list[str] = []
        functions: list[str] = []

        def without_predicate(*cursor: Any) -> tuple[str, Any]:
            statement, number = PREDICATE.subn(r"\1 IS NOT NULL", cursor[2])
            taken_away.extend([statement] * number)
            functions.extend(FUNCTION.findall(statement))
            return statement, cursor[3]

        event.listen(connection.sync_connection, "before_cursor_execute", without_predicate, retval=True)
        for name, call in CALLS[repository].items():
            savepoint = await connection.begin_nested()
            taken_away.clear()
            functions.clear()
            async with act_as(a, connection) as session:
                try:
                    found = await call.run(repository(session), rows)
                    is_noticed = b in tenants_of(found) if call.makes_rows else bool(found)
                    await session.commit()
                except (DatabaseError, ValueError) as error:
                    # It had the row, and the wall behind holds.
                    walls_behind = (
                        (TenantMismatchError,) if call.needs_own_rows else (TenantMismatchError, ForeignKeyError)
                    )
                    is_noticed = isinstance(error, walls_behind)
                    await session.rollback()
                is_noticed = is_noticed or await state_of(connection, b) != before
            await savepoint.rollback()
            is_unchanged = functions and not taken_away  # tests/database/statements removes a function's predicates
            if not is_noticed and not is_unchanged and (taken_away or (call.statements and not call.makes_rows)):
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
