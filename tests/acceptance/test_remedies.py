"""Remedies are followed literally: the problem is fixed, and no role has gained a privilege.

Other remedies of `doctor` are followed in test_doctor.py and test_isolation_reported.py; those of `verify` in
tests/database/drift/test_mutations.py.
"""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import psycopg
import pytest

from src.database.embedded import APP_ROLE, OWNER_ROLE
from src.database.migrate.histories import script_directory
from tests.acceptance.command import database, run
from tests.conftest import SOCKETS, url_of

SCRIPTS = script_directory()
BEFORE_HEAD = SCRIPTS.get_revision("head").down_revision
STATEMENT = re.compile(r"(?:ALTER|CREATE|GRANT|REINDEX|REVOKE)\b[^;]*;")
COMMAND = re.compile(r"`?thea-db ([a-z-]+(?: [0-9a-z-]+)*)`?")
EMPTY = (
    "DROP SCHEMA public CASCADE; CREATE SCHEMA public AUTHORIZATION thea_owner; GRANT USAGE ON SCHEMA public TO PUBLIC"
)
STATE = f"""
WITH roles (role) AS (VALUES ('public'), ('{APP_ROLE}'), ('{OWNER_ROLE}')),
     schemas AS (SELECT oid FROM pg_namespace WHERE nspname = 'public')
SELECT role, oid::regclass::text, privilege FROM roles, pg_class,
       unnest('{{SELECT,INSERT,UPDATE,DELETE,TRUNCATE,REFERENCES,TRIGGER}}'::text[]) AS privilege
 WHERE relkind = 'r' AND relnamespace IN (TABLE schemas) AND has_table_privilege(role, oid, privilege)
UNION ALL SELECT role, oid::regprocedure::text, 'EXECUTE' FROM roles, pg_proc
 WHERE pronamespace IN (TABLE schemas) AND has_function_privilege(role, oid, 'EXECUTE')
UNION ALL SELECT role, 'the schema', privilege FROM roles, schemas, unnest('{{USAGE,CREATE}}'::text[]) AS privilege
 WHERE has_schema_privilege(role, oid, privilege)
UNION ALL SELECT role, 'the database', privilege FROM roles, unnest('{{CONNECT,CREATE,TEMPORARY}}'::text[]) AS privilege
 WHERE has_database_privilege(role, current_database(), privilege)
UNION ALL SELECT rolname, 'attributes', row(rolsuper, rolbypassrls, rolcreatedb, rolcreaterole)::text FROM pg_roles
UNION ALL SELECT setrole::text, 'settings', setconfig::text FROM pg_db_role_setting
  JOIN pg_database ON pg_database.oid = setdatabase WHERE datname = current_database()
"""  # noqa: S608 - the names are constants
"""The privileges, attributes and settings of each role."""


class Operator:
    """An operator who runs the commands on a cloned database and follows their remedies."""

    def __init__(self, name: str, folder: Path) -> None:
        self._folder = folder
        self._variables = {
            "ENVIRONMENT": "test",
            "DATABASE_URL": database(url_of(name)),
            "DATABASE_MIGRATION_URL": database(url_of(name, OWNER_ROLE)),
        }
        self._name = name

    def run(self, command: str) -> str:
        done = run(*command.split(), folder=self._folder, **self._variables)
        assert "Traceback" not in done.stderr
        return done.stdout + done.stderr

    def doctor(self) -> dict[str, dict[str, Any]]:
        """Return the failed checks of the doctor, by name."""
        done = run("doctor", "--json", folder=self._folder, **self._variables)
        return {one["name"]: one for one in json.loads(done.stdout)["checks"] if one["status"] in {"failed", "warning"}}

    def execute(self, statements: list[str]) -> None:
        """Execute statements as the owner, one at a time."""
        with psycopg.connect(host=SOCKETS, user=OWNER_ROLE, dbname=self._name, autocommit=True) as connection:
            for statement in statements:
                connection.execute(statement.encode())


def follow(operator: Operator, remedy: str) -> None:
    """Execute the statements of a remedy, or run the command that it names; follow the remedies of `verify` in turn."""
    if statements := STATEMENT.findall(remedy):
        operator.execute(statements)
        return
    command = COMMAND.search(remedy)
    assert command, f"no statement and no command is in {remedy!r}"
    if command[1].split()[0] != "verify":
        operator.run(command[1])
        return
    for difference in json.loads(operator.run("verify --json"))["differences"]:
        lines = [line for line in difference["remedy"] if not line.startswith("--")]
        for line in lines:
            if line.startswith("thea-db "):
                operator.run(line.removeprefix("thea-db "))
            else:
                operator.execute([line])


def privileges(superuser: psycopg.Connection) -> set[tuple[str, ...]]:
    """Return the privileges of each role in the database. Other tests create roles on the server that have none."""
    return {row for row in superuser.execute(STATE.encode()).fetchall() if row[1:] != ("attributes", "(f,f,f,f)")}


@pytest.fixture
def operator(clone_name: str, superuser: psycopg.Connection, tmp_path: Path) -> Operator:
    """An operator on a cloned database with the privileges that `bootstrap` sets."""
    superuser.execute(f"REVOKE TEMPORARY ON DATABASE {clone_name} FROM PUBLIC".encode())
    superuser.execute(f"ALTER DATABASE {clone_name} OWNER TO {OWNER_ROLE}".encode())
    return Operator(clone_name, tmp_path)


@pytest.mark.parametrize(
    ("fault", "checks"),
    [
        (f"REVOKE EXECUTE ON FUNCTION app_set_tenant(uuid) FROM PUBLIC, {APP_ROLE}", {"rights"}),
        ("DROP FUNCTION app_set_tenant(uuid)", {"rights", "schema"}),
        ("ALTER TABLE notes DISABLE ROW LEVEL SECURITY", {"schema"}),
        *(
            pytest.param(fault, {check}, marks=pytest.mark.slow)
            for fault, check in {
                f"UPDATE thea_alembic_version SET version_num = '{BEFORE_HEAD}'": "revision",  # noqa: S608
                f"REVOKE ALL ON thea_alembic_version FROM {APP_ROLE}": "revision",
                "UPDATE pg_database SET datcollversion = '0' WHERE datname = current_database()": "collation",
                "DELETE FROM thea_alembic_version": "revision",
                "DROP POLICY tenant_isolation ON notes": "schema",
                "DROP FUNCTION app_append_message": "schema",
                EMPTY: "revision",
            }.items()
        ),
    ],
)
def test_the_remedy_of_the_doctor_removes_the_fault_and_grants_nothing_else(
    operator: Operator, superuser: psycopg.Connection, fault: str, checks: set[str]
) -> None:
    before = privileges(superuser)
    superuser.execute(fault.encode())

    ill = operator.doctor()
    for check in ill.values():
        follow(operator, check["remedy"])

    assert set(ill) == checks
    assert operator.doctor() == {}
    assert privileges(superuser) - before == set()
