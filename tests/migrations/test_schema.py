"""The migrations build the schema of the models and its isolation layers, and revert it."""

from __future__ import annotations

import asyncio
import os
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import psycopg
import pytest
from alembic.autogenerate import compare_metadata
from alembic.migration import MigrationContext
from sqlalchemy import Connection, text

from src.config import Settings
from src.database.base import Base, tenant_tables, uuid7
from src.database.embedded import APP_ROLE, OWNER_ROLE
from src.database.errors import CheckViolation, ConfigurationError
from src.database.migrate import VERSION_TABLE, downgrade, migration_connection, upgrade
from tests.acceptance.command import run_forked
from tests.conftest import url_of

ROOT = Path(__file__).parents[2]

OPEN_LAYERS = """
SELECT c.relname
  FROM pg_class c
  JOIN pg_attribute a ON a.attrelid = c.oid AND a.attname = 'tenant_id' AND NOT a.attisdropped
  LEFT JOIN pg_policy p ON p.polrelid = c.oid AND p.polcmd = '*' AND p.polpermissive
 WHERE c.relnamespace = 'public'::regnamespace AND c.relkind = 'r'
   AND NOT (c.relrowsecurity AND c.relforcerowsecurity AND p.polname IS NOT NULL
            AND pg_get_expr(p.polqual, p.polrelid) = pg_get_expr(p.polwithcheck, p.polrelid)
            AND pg_get_expr(p.polqual, p.polrelid)
                = '(tenant_id = (NULLIF(current_setting(''app.tenant_id''::text, true), ''''::text))::uuid)')
"""


def open_layers(connection: psycopg.Connection) -> list[str]:
    return [name for (name,) in connection.execute(OPEN_LAYERS).fetchall()]


def catalogue(connection: psycopg.Connection) -> list[tuple[object, ...]]:
    return connection.execute(
        "SELECT relname, relkind FROM pg_class WHERE relnamespace = 'public'::regnamespace"
        " AND relname NOT LIKE 'thea_alembic%' UNION SELECT proname, 'f' FROM pg_proc"
        " WHERE pronamespace = 'public'::regnamespace ORDER BY 1"
    ).fetchall()


async def test_autogenerate_finds_no_difference(owner_settings: Settings) -> None:
    def differences(connection: Connection) -> list[object]:
        options = {"compare_type": True, "compare_server_default": True, "version_table": VERSION_TABLE}
        return list(compare_metadata(MigrationContext.configure(connection, opts=options), Base.metadata))

    async with migration_connection(owner_settings) as connection:
        assert await connection.run_sync(differences) == []


DEFINITIONS = """
SELECT conrelid::regclass::text, conname, pg_get_constraintdef(oid) FROM pg_constraint
 WHERE connamespace = 'public'::regnamespace AND conrelid::regclass::text <> 'thea_alembic_version'
UNION ALL
SELECT tablename, indexname, indexdef FROM pg_indexes
 WHERE schemaname = 'public' AND tablename <> 'thea_alembic_version'
UNION ALL
SELECT table_name, column_name, concat_ws(' ', data_type, udt_name, is_nullable, column_default, generation_expression)
  FROM information_schema.columns WHERE table_schema = 'public' AND table_name <> 'thea_alembic_version'
ORDER BY 1, 2, 3
"""


async def test_migrations_build_exactly_the_models(
    superuser: psycopg.Connection, use_database: Callable[..., Settings]
) -> None:
    """Autogenerate does not compare CHECKs, predicates and generated columns; the catalog has them."""
    superuser.execute(f"CREATE DATABASE from_models OWNER {OWNER_ROLE}")
    try:
        settings = use_database(url_of("from_models", OWNER_ROLE))
        async with migration_connection(settings) as connection:
            await connection.run_sync(Base.metadata.create_all)
            await connection.commit()
            of_models = [tuple(row) for row in await connection.execute(text(DEFINITIONS))]
    finally:
        superuser.execute("DROP DATABASE from_models WITH (FORCE)")

    assert superuser.execute(DEFINITIONS).fetchall() == of_models


@pytest.mark.slow
async def test_downgrade_to_base_and_upgrade_again(owner_settings: Settings, superuser: psycopg.Connection) -> None:
    before = catalogue(superuser)
    await downgrade(owner_settings, "base")
    assert catalogue(superuser) == []

    await upgrade(owner_settings)
    assert catalogue(superuser) == before


@pytest.mark.slow
async def test_each_downgrade_restores_the_schema_before_its_upgrade(
    owner_settings: Settings, superuser: psycopg.Connection
) -> None:
    of_step: dict[str, list[tuple[object, ...]]] = {}
    steps = ["0001", "0002", "0003", "0004", "0005"]
    await downgrade(owner_settings, "base")
    for step in steps:
        await upgrade(owner_settings, step)
        of_step[step] = superuser.execute(DEFINITIONS).fetchall()

    for step in reversed(steps[:-1]):
        await downgrade(owner_settings, step)
        assert superuser.execute(DEFINITIONS).fetchall() == of_step[step]


async def test_a_violated_limit_is_reported_and_passes_after_the_repair(
    owner_settings: Settings, superuser: psycopg.Connection
) -> None:
    await downgrade(owner_settings, "0002")
    tenant, user, event = (str(uuid7()) for _ in range(3))
    superuser.execute("INSERT INTO tenants (id, slug, name) VALUES (%s, 'x', 'x')", (tenant,))
    superuser.execute("INSERT INTO users (tenant_id, id) VALUES (%s, %s)", (tenant, user))
    superuser.execute(
        "INSERT INTO events (tenant_id, id, user_id, title, start_datetime, ical_uid)"
        " VALUES (%s, %s, %s, 'x', now(), repeat('x', 256))",
        (tenant, event, user),
    )

    with pytest.raises(CheckViolation, match="ck_events_ical_uid"):
        await upgrade(owner_settings)
    superuser.execute("UPDATE events SET ical_uid = repeat('x', 255)")
    await upgrade(owner_settings)

    unproven = "SELECT conname FROM pg_constraint WHERE NOT convalidated"
    assert superuser.execute(unproven.encode()).fetchall() == []


async def test_events_with_an_unknown_time_zone_are_named(
    owner_settings: Settings, superuser: psycopg.Connection
) -> None:
    await downgrade(owner_settings, "0001")
    tenant, user = uuid7(), uuid7()
    superuser.execute("INSERT INTO tenants (id, slug, name) VALUES (%s, 'a', 'a')", [tenant])
    superuser.execute("INSERT INTO users (tenant_id, id) VALUES (%s, %s)", [tenant, user])
    for zone in ("Mars/Phobos", "Mars/Phobos", "Europe/Madrid", "europe/madrid", "UTC+3", "CET"):
        superuser.execute(
            "INSERT INTO events (tenant_id, id, user_id, title, start_datetime, timezone)"
            " VALUES (%s, %s, %s, 'x', now(), %s)",
            [tenant, uuid7(), user, zone],
        )

    with pytest.raises(ConfigurationError, match="does not know the timezone 'Mars/Phobos' of 2 events") as caught:
        await upgrade(owner_settings)

    assert superuser.execute("SELECT version_num FROM thea_alembic_version").fetchone() == ("0001",)
    assert caught.value.hint is not None
    _, _, remedy = caught.value.hint.partition("as the owner: ")
    superuser.execute(remedy.replace("BEGIN;", "").replace("COMMIT;", "").encode())
    await upgrade(owner_settings)
    assert open_layers(superuser) == []
    assert superuser.execute("SELECT count(*) FROM events WHERE timezone = 'UTC'").fetchone() == (2,)


async def test_upgrade_at_head_does_nothing(owner_settings: Settings) -> None:
    await upgrade(owner_settings)
    await upgrade(owner_settings)


async def test_two_concurrent_upgrades_apply_each_migration_once(
    superuser: psycopg.Connection, use_database: Callable[..., Settings]
) -> None:
    superuser.execute("DROP DATABASE IF EXISTS twice WITH (FORCE)")
    superuser.execute(f"CREATE DATABASE twice OWNER {OWNER_ROLE}")
    settings = use_database(url_of("twice", OWNER_ROLE))
    try:
        await asyncio.gather(*(upgrade(settings) for _ in range(4)))
    finally:
        superuser.execute("DROP DATABASE twice WITH (FORCE)")


def test_every_table_with_rows_of_tenants_is_protected(superuser: psycopg.Connection) -> None:
    assert open_layers(superuser) == []


@pytest.mark.parametrize(
    "breach",
    [
        "DROP POLICY tenant_isolation ON notes",
        "ALTER TABLE notes NO FORCE ROW LEVEL SECURITY",
        "ALTER TABLE notes DISABLE ROW LEVEL SECURITY",
        "ALTER POLICY tenant_isolation ON notes USING (true)",
        "ALTER POLICY tenant_isolation ON notes WITH CHECK (true)",
    ],
)
def test_the_check_of_protection_notices_a_breach(superuser: psycopg.Connection, breach: str) -> None:
    superuser.execute(breach)

    assert open_layers(superuser) == ["notes"]


@pytest.mark.parametrize(
    "statement",
    [
        "UPDATE thea_alembic_version SET version_num = '0001'",
        "DELETE FROM thea_alembic_version",
        "INSERT INTO thea_alembic_version VALUES ('0001')",
    ],
)
def test_the_application_reads_the_revision_and_cannot_write_it(superuser: psycopg.Connection, statement: str) -> None:
    superuser.execute(f"SET ROLE {APP_ROLE}")

    assert superuser.execute("SELECT count(*) FROM thea_alembic_version").fetchone() == (1,)
    with pytest.raises(psycopg.errors.InsufficientPrivilege):
        superuser.execute(statement.encode())


async def test_the_right_to_write_the_revision_is_revoked_from_every_role_but_the_owner(
    owner_settings: Settings, superuser: psycopg.Connection
) -> None:
    await downgrade(owner_settings, "0003")
    superuser.execute(f"GRANT ALL ON thea_alembic_version TO {APP_ROLE}, PUBLIC")

    await upgrade(owner_settings)

    rights = "SELECT grantee::regrole::text, privilege_type FROM pg_class, aclexplode(relacl)"
    rights = f"{rights} WHERE oid = 'thea_alembic_version'::regclass AND grantee <> relowner ORDER BY 1"
    assert superuser.execute(rights.encode()).fetchall() == [("-", "SELECT"), (APP_ROLE, "SELECT")]


def test_every_key_starts_with_the_tenant() -> None:
    for table in tenant_tables():
        keys = [table.primary_key, *table.foreign_key_constraints]
        keys += [key for key in table.constraints if type(key).__name__ == "UniqueConstraint"]  # type: ignore[misc] # all have columns
        for key in keys:
            assert next(iter(key.columns)).name == "tenant_id", f"{table.name}: {key.name}"
        for index in table.indexes:
            assert next(iter(index.columns)).name == "tenant_id", f"{table.name}: {index.name}"


def test_there_are_more_than_twenty_indexes() -> None:
    assert sum(len(table.indexes) for table in Base.metadata.sorted_tables) >= 20


def test_no_reference_is_set_to_null_by_the_database() -> None:
    for table in tenant_tables():
        assert {key.ondelete for key in table.foreign_key_constraints} == {None}


@pytest.mark.slow
def test_sql_is_printed_without_a_database() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "alembic", "upgrade", "head", "--sql"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=True,
    )

    tables = [*(table.name for table in tenant_tables()), "tenants"]
    assert sorted(re.findall(r"(\w+) FORCE ROW LEVEL SECURITY", done.stdout)) == sorted(tables)
    assert "%%" not in done.stdout


def test_the_alembic_command_works_from_the_checkout(owner_settings: Settings) -> None:
    for arguments, expected in (
        (["upgrade", "head"], ""),
        (["check"], "No new upgrade operations"),
        (["current"], "(head)"),
    ):
        done = run_forked("alembic", arguments, ROOT, os.environ)
        assert done.returncode == 0, done.stderr
        assert expected in done.stdout


@pytest.mark.slow
def test_the_alembic_command_prints_errors_without_a_traceback(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ENVIRONMENT", "prod")

    done = run_forked("alembic", ["current"], ROOT, os.environ)

    assert done.returncode != 0
    assert "ENVIRONMENT must be one of" in done.stderr + done.stdout
    assert "Traceback" not in done.stderr
