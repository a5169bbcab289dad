"""bootstrap as a script for psql: for whoever may run it, and for the database's own image, which has no Python."""

from __future__ import annotations

from typing import Final

from src.config import Settings
from src.database.operations.adoption import FOREIGN_ROLES_AND_DATABASE, FOREIGN_TABLES
from src.database.operations.bootstrap import quote_literal, roles_of
from src.database.operations.bootstrap_plan import INSIDE, REFUSALS, ROLES_AND_DATABASE, Step
from src.database.operations.scram import create_verifier

__all__ = ["bootstrap_script", "init_script", "script_body"]

_RAISE: Final = (
    "SELECT format('DO %L', format('BEGIN RAISE EXCEPTION USING MESSAGE = %L, HINT = %L; END', reason, {}))\n"
    "  FROM ({}) AS refusal (reason)"
)

_IF_IT_EXISTS: Final = """
SELECT EXISTS (SELECT FROM pg_catalog.pg_database WHERE datname = :'database') AS is_there
\\gset
\\set maintenance :DBNAME
\\if :is_there
\\connect :"database"
"""
_END_IF: Final = """
\\connect :"maintenance"
\\endif
"""


def bootstrap_script(settings: Settings, *, adopt: bool = False) -> str:
    """Return the same as a script for psql, to be run by whoever may; passwords are in it as verifiers alone.

    Args:
        settings: The URLs of the roles.
        adopt: Change a database and roles that somebody else uses, too.

    Raises:
        ConfigurationError: The URLs cannot be right.
    """
    roles = roles_of(settings)
    verifiers = {
        purpose: create_verifier(login.password)
        for purpose, login in roles.logins.items()
        if login.password is not None
    }
    given = roles.values(verifiers, adopt=adopt)
    values = "".join(f"\\set {name} {_psql_quoted(value)}\n" for name, value in given.items())
    return (
        "-- Run by psql, as a superuser or as a role with CREATEROLE and CREATEDB:\n"
        "--   psql -X --dbname postgres --file <this file>\n"
        "-- It can be run again. It refuses a database or a role that somebody else uses, unless adopt is 'yes'.\n"
        f"\\set ON_ERROR_STOP on\n{values}{script_body()}"
    )


def init_script() -> str:
    """Return db/init/sql/bootstrap.sql, which takes its values from psql's variables."""
    return (
        "-- Made, not written: python -c 'from src.database.operations.bootstrap_script import init_script as made;"
        ' print(made(), end="")\'\n'
        "-- 10-bootstrap.sh runs it and sets its variables; a test holds it current.\n"
        f"{script_body()}"
    )


def script_body() -> str:
    """Return the steps for psql, whose variables have the values."""
    parts = [
        _psql_refusal(REFUSALS),
        _psql_refusal(FOREIGN_ROLES_AND_DATABASE),
        _IF_IT_EXISTS,
        _psql_refusal(FOREIGN_TABLES),
        _END_IF,
        *(_psql_step(step.aim, step.query.strip()) for step in ROLES_AND_DATABASE),
        '\n\\connect :"database"\n',
        *(_psql_step(step.aim, step.query.strip()) for step in INSIDE),
    ]
    return "".join(parts)


def _psql_refusal(step: Step) -> str:
    return _psql_step(step.aim, _RAISE.format(quote_literal(step.remedy), step.query.strip()))


def _psql_step(aim: str, query: str) -> str:
    return f"\n-- {aim}\n{query}\n\\gexec\n"


def _psql_quoted(value: str) -> str:
    escaped = value.replace("\\", "\\\\").replace("'", "\\'").replace("\n", "\\n").replace("\r", "\\r")
    return f"'{escaped}'"
