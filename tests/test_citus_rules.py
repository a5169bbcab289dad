"""No SQL function and no compiled statement contains anything that Citus rejects."""

from __future__ import annotations

import importlib
import pkgutil
import re
from collections.abc import Mapping

import pytest

from src import database
from src.database.statements.call import Call
from src.database.statements.read import Read
from tests.citus_rules import broken
from tests.database.statements.bodies import bodies, statements_of

ENTER = "PERFORM {schema}.app_enter_tenant(p_tenant)"
REFUSED = {
    "now()": "INSERT INTO users AS u (tenant_id) VALUES ($1) ON CONFLICT (id) DO UPDATE SET updated_at = now()",
    "UPDATE of tenant_id": "UPDATE users AS u SET tenant_id = $1 WHERE u.tenant_id = $2",
    "volatile function in an UPDATE": "UPDATE notes AS n SET seen_at = clock_timestamp() WHERE n.tenant_id = $1",
    "CASE": "UPDATE notes AS n SET seen_at = CASE WHEN $2 THEN $3 ELSE now() END WHERE n.tenant_id = $1",
    "COALESCE": "UPDATE notes AS n SET seen_at = coalesce(n.seen_at, now()) WHERE n.tenant_id = $1",
    "a time column + an interval": "UPDATE events AS e SET end_datetime = e.end_datetime + $2 WHERE e.tenant_id = $1",
    "generated rows": "INSERT INTO notes (tenant_id, id) SELECT $1, id FROM unnest($2) AS id",
    "anonymous row": "SELECT row(u.id, 1) FROM users AS u WHERE u.tenant_id = $1",
    "setting of the session": "SELECT set_config('app.tenant_id', $1, false)",
    "advisory lock": "SELECT pg_advisory_xact_lock(1)",
    "COPY": "COPY users FROM STDIN",
    "trigger": "CREATE TRIGGER t BEFORE UPDATE ON users EXECUTE FUNCTION f()",
    "SECURITY DEFINER": "CREATE FUNCTION f() RETURNS void SECURITY DEFINER LANGUAGE sql AS ''",
    "without its tenant": "SELECT u.id FROM users AS u JOIN notes AS n ON n.user_id = u.id WHERE u.tenant_id = $1",
}
ACCEPTED = [
    "UPDATE notes AS n SET seen_at = now() WHERE n.tenant_id = $1 AND n.id = $2",
    "UPDATE notes AS n SET seen_at = CASE WHEN $2 THEN $3 ELSE (SELECT now()) END WHERE n.tenant_id = $1",
    "INSERT INTO notes (tenant_id, id) SELECT u.tenant_id, $2 FROM users AS u WHERE u.tenant_id = $1",
    "SELECT row_number() OVER () FROM users AS u JOIN notes AS n ON n.tenant_id = u.tenant_id WHERE u.tenant_id = $1",
    "UPDATE users SET username = $1 WHERE users.tenant_id = $2",
]


def compiled() -> dict[str, str]:
    """Return each call and each read of the package's modules, by its module and name."""
    found: dict[str, str] = {}
    for module in pkgutil.walk_packages(database.__path__, "src.database."):
        if not module.name.startswith(("src.database.statements", "src.database.store", "src.database.repositories")):
            continue
        for name, value in vars(importlib.import_module(module.name)).items():
            variants = value if isinstance(value, Mapping) else {"": value}  # calls by their number of arguments
            for variant, statement in variants.items():
                if isinstance(statement, Call | Read):
                    found[f"{module.name}.{name}{variant}"] = statement.sql
    return found


COMPILED = compiled()


@pytest.mark.parametrize("name", sorted(bodies()))
def test_a_function_has_nothing_that_citus_refuses(name: str) -> None:
    faults = {rule: statement for statement in statements_of(bodies()[name]) for rule in broken(statement)}

    assert faults == {}, name


@pytest.mark.parametrize("name", sorted(set(bodies()) - {"app_enter_tenant"}))
def test_a_function_takes_the_tenant_first_and_enters_it_first(name: str) -> None:
    """A distributed function is sent to the node of its first argument, and bound there before it reads a row."""
    text = bodies()[name]

    assert re.search(rf"CREATE FUNCTION \{{schema\}}\.{name}\(\s*p_tenant uuid\b", text)
    first = re.search(r"\bBEGIN\s+(.*?);", text, re.DOTALL)
    assert first is not None
    assert first[1] == ENTER


@pytest.mark.parametrize("name", sorted(COMPILED))
def test_a_compiled_statement_has_nothing_that_citus_refuses(name: str) -> None:
    assert broken(COMPILED[name]) == []


def test_calls_and_reads_are_found() -> None:
    assert len(COMPILED) > 10


@pytest.mark.parametrize("rule", REFUSED)
def test_a_statement_that_breaks_a_rule_is_reported(rule: str) -> None:
    assert [one for one in broken(REFUSED[rule]) if rule.lower() in one.lower()], broken(REFUSED[rule])


@pytest.mark.parametrize("statement", ACCEPTED)
def test_a_statement_that_citus_accepts_is_not_reported(statement: str) -> None:
    assert broken(statement) == []
