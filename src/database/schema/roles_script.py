"""bootstrap as a script for psql: for whoever may run it, and for the database's own image, which has no Python."""

from __future__ import annotations

from typing import Final

from src.config import Settings
from src.database.schema.role_steps import INSIDE, REFUSALS, ROLES_AND_DATABASE
from src.database.schema.roles import roles_of
from src.database.schema.scram import create_verifier

__all__ = ["bootstrap_script", "init_script", "script_body"]

_RAISE: Final = (
    "SELECT format('DO %L', format('BEGIN RAISE EXCEPTION USING MESSAGE = %L; END', reason))\n"
    "  FROM ({}) AS refusal (reason)"
)


def bootstrap_script(settings: Settings) -> str:
    """Return the same as a script for psql, to be run by whoever may; passwords are in it as verifiers alone.

    Raises:
        ConfigurationError: The URLs cannot be right.
    """
    roles = roles_of(settings)
    verifiers = {
        purpose: create_verifier(login.password)
        for purpose, login in roles.logins.items()
        if login.password is not None
    }
    values = "".join(f"\\set {name} {_psql_quoted(value)}\n" for name, value in roles.values(verifiers).items())
    return (
        "-- Run by psql, as a superuser or as a role with CREATEROLE and CREATEDB:\n"
        "--   psql -X --dbname postgres --file <this file>\n"
        f"-- It can be run again: what is there already is left alone.\n\\set ON_ERROR_STOP on\n{values}{script_body()}"
    )


def init_script() -> str:
    """Return db/init/sql/bootstrap.sql, which takes its values from psql's variables."""
    return (
        "-- Made, not written: python -c 'from src.database.schema.roles_script import init_script as made;"
        ' print(made(), end="")\'\n'
        "-- 10-bootstrap.sh runs it and sets its variables; a test holds it current.\n"
        f"{script_body()}"
    )


def script_body() -> str:
    """Return the steps for psql, whose variables have the values."""
    parts = [
        _psql_step(REFUSALS.aim, _RAISE.format(REFUSALS.query.strip())),
        *(_psql_step(step.aim, step.query.strip()) for step in ROLES_AND_DATABASE),
        '\n\\connect :"database"\n',
        *(_psql_step(step.aim, step.query.strip()) for step in INSIDE),
    ]
    return "".join(parts)


def _psql_step(aim: str, query: str) -> str:
    return f"\n-- {aim}\n{query}\n\\gexec\n"


def _psql_quoted(value: str) -> str:
    escaped = value.replace("\\", "\\\\").replace("'", "\\'").replace("\n", "\\n").replace("\r", "\\r")
    return f"'{escaped}'"
