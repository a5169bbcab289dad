"""The SQL functions: their copies in migrations, their rights, and the names inside them."""

from __future__ import annotations

import re
import shutil
from pathlib import Path
from typing import Any

import asyncpg
import pytest

from src.database.base import uuid7
from src.database.embedded import APP_ROLE, OWNER_ROLE
from src.database.store import Store
from tests.acceptance.calls import a_message
from tests.database.statements.bodies import BODIES, FROZEN, bodies, code_of, without_a_copy
from tests.database.statements.one_connection import OneConnection

NAMES = sorted(bodies())
SYNTAX = {"coalesce", "greatest", "least", "nullif", "unnest"}
"""SQL syntax that looks like a function call and needs no search path; `unnest` only with several arrays."""
CALLED = re.compile(r"(?<![\w.])(?<!AS )([a-z_]\w*)\(")
TABLES = ("users", "conversations", "message_history", "events", "state_entries")


def test_the_newest_copy_of_each_function_is_its_body() -> None:
    assert without_a_copy() == []


@pytest.mark.parametrize(
    ("file", "fault"),
    [("turn.sql", "the newest copy in a migration differs"), ("greet.sql", "no migration creates it")],
    ids=["a changed body", "a new function"],
)
def test_a_body_without_a_migration_is_reported_by_name(tmp_path: Path, file: str, fault: str) -> None:
    current = shutil.copytree(BODIES, tmp_path / "current")
    with (current / file).open("a") as body:
        body.write("-- changed\n")

    assert without_a_copy(current) == [f"app_{file.removesuffix('.sql')}: {fault}"]


def test_only_the_newest_copy_of_a_body_is_compared(tmp_path: Path) -> None:
    frozen = shutil.copytree(FROZEN, tmp_path / "frozen")
    (frozen / "0000").mkdir()
    (frozen / "0000" / "turn.sql").write_text("-- an earlier form\n")
    assert without_a_copy(frozen=frozen) == []

    (frozen / "9999").mkdir()
    (frozen / "9999" / "turn.sql").write_text("-- a later form\n")
    assert without_a_copy(frozen=frozen) == ["app_turn: the newest copy in a migration differs"]


@pytest.mark.parametrize("name", NAMES)
def test_a_file_creates_the_one_function_that_it_is_named_after(name: str) -> None:
    assert re.findall(r"CREATE FUNCTION (\S+)\(", bodies()[name]) == [f"{{schema}}.{name}"]


async def test_each_function_runs_as_its_caller_and_belongs_to_the_owner(
    connection: asyncpg.Connection[Any],
) -> None:
    rows = await connection.fetch(
        "SELECT proname, prosecdef, proleakproof, proconfig, pg_get_userbyid(proowner) AS owner,"
        " has_function_privilege($2, oid, 'EXECUTE') AS is_allowed"
        " FROM pg_proc WHERE proname = ANY ($1) ORDER BY proname",
        NAMES,
        APP_ROLE,
    )

    assert [tuple(row) for row in rows] == [(name, False, False, None, OWNER_ROLE, True) for name in NAMES]


@pytest.mark.parametrize("name", NAMES)
def test_names_inside_a_function_are_qualified(name: str) -> None:
    """An unqualified name could call a function of another schema whose parameters match better."""
    code = code_of(bodies()[name])

    assert set(CALLED.findall(code)) - SYNTAX == set()
    assert re.findall(rf"(?:FROM|JOIN|INTO|UPDATE)\s+(?:{'|'.join(TABLES)})\b", code) == []


async def test_tables_and_functions_of_another_schema_or_temporary_ones_are_not_used(
    connection: asyncpg.Connection[Any],
) -> None:
    """The other schema is first in the search path; its objects are used for names that are not qualified."""
    tenant, key = uuid7(), str(uuid7())
    await connection.execute("INSERT INTO tenants (id, slug, name) VALUES ($1, $2, 'T')", tenant, key)
    await connection.execute("CREATE SCHEMA other")
    for table in TABLES:
        await connection.execute(f"CREATE TABLE other.{table} (LIKE public.{table} INCLUDING ALL)")
        await connection.execute(f"CREATE TEMPORARY TABLE {table} (LIKE public.{table} INCLUDING ALL)")
    for signature in (
        "app_enter_tenant(uuid) RETURNS void",
        "cardinality(text[]) RETURNS integer",
        "unnest(text[], uuid[]) RETURNS SETOF record",
        "now() RETURNS timestamptz",
        "clock_timestamp() RETURNS timestamptz",
        "make_interval(secs integer) RETURNS interval",
    ):
        body = "AS $$ BEGIN RAISE 'a function of another schema was called'; END $$"
        await connection.execute(f"CREATE FUNCTION other.{signature} LANGUAGE plpgsql {body}")
    await connection.execute("SET LOCAL search_path = other, public")
    store = Store(OneConnection(connection, tenant, lambda sql: sql.replace(" app_", " public.app_")))

    turn = await store.turn(1, "telegram", "1", [a_message("a"), a_message("b")])
    await store.turn(1, "telegram", "1", [a_message("b"), a_message("c")])
    await store.append(turn.conversation.id, a_message("c"))
    await store.claim_due_reminders("w")

    for table in TABLES[:3]:
        counts = [
            await connection.fetchval(f"SELECT count(*) FROM {schema}.{table} WHERE tenant_id = $1", tenant)  # noqa: S608
            for schema in ("public", "other", "pg_temp")
        ]
        assert counts == [3 if table == "message_history" else 1, 0, 0]
