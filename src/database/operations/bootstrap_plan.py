"""The bootstrap plan: the steps of bootstrap_plan.sql, for a connection and as a script for psql."""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Final, Literal, cast

Phase = Literal["refusals", "foreign roles", "foreign tables", "roles", "inside"]

_STEP: Final = re.compile(
    r"^-- \[(?P<phase>[\w ]+)(?P<optional>, optional)?\] (?P<aim>.+)\n"
    r"(?P<remedy>(?:-- .+\n)+)(?P<query>(?:(?!--).+\n)+)",
    re.MULTILINE,
)
_REMEDIES: Final = {
    "admin_option": "from PostgreSQL 16 on only who made a role, or has it WITH ADMIN OPTION, may change it: run this"
    " as that one, or have it run GRANT <role> TO <administrator> WITH ADMIN OPTION",
    "adopt": "correct the user or the database in the URL (`thea-db info` shows where each value comes from); only if"
    " nobody else needs the database and the roles, `thea-db bootstrap --adopt` makes these changes",
    "as_owner": "run this as the owner of the database, or as a role that is a member of it",
}
"""The remedies that several steps share."""
_PLACEHOLDER: Final = re.compile(r":'(\w+)'")

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


@dataclass(frozen=True, slots=True)
class PlanStep:
    """A step of the plan.

    Args:
        phase: Refusals are checked first; ``roles`` is executed in the maintenance database, ``inside`` in the new one.
        aim: The purpose, in words.
        query: Returns a statement a row; no row if nothing is needed. Of a refusal it returns the reason.
        remedy: What to do if the server refuses a statement.
        is_optional: The steps after it do not need it.
    """

    phase: Phase
    aim: str
    query: str
    remedy: str
    is_optional: bool = False


@cache
def bootstrap_plan() -> tuple[PlanStep, ...]:
    """Return the steps of the plan in their order."""
    text = Path(__file__).with_suffix(".sql").read_text(encoding="utf-8")
    return tuple(
        PlanStep(
            phase=cast("Phase", found["phase"]),
            aim=found["aim"],
            query=found["query"].strip(),
            remedy=" ".join(line[3:] for line in found["remedy"].splitlines()).format_map(_REMEDIES),
            is_optional=found["optional"] is not None,
        )
        for found in _STEP.finditer(text)
    )


def fill(query: str, values: Mapping[str, str]) -> str:
    """Return a step's query with the values of its variables, as psql would send it."""
    return _PLACEHOLDER.sub(lambda found: _quote_literal(values[found[1]]), query)


def init_script() -> str:
    """Return db/init/sql/bootstrap.sql, whose values are psql variables."""
    return (
        "-- Made, not written: python -c 'from src.database.operations import init_script as made;"
        ' print(made(), end="")\'\n'
        "-- 10-bootstrap.sh runs it and sets its variables; a test holds it current.\n"
        f"{script_body()}"
    )


def script_body() -> str:
    """Return the steps as a script for psql, without the values of its variables."""
    written: dict[Phase, str] = defaultdict(str)
    for step in bootstrap_plan():
        is_refusal = step.phase not in {"roles", "inside"}
        query = _RAISE.format(_quote_literal(step.remedy), step.query) if is_refusal else step.query
        written[step.phase] += f"\n-- {step.aim}\n{query}\n\\gexec\n"
    written["foreign tables"] = f"{_IF_IT_EXISTS}{written['foreign tables']}{_END_IF}"
    written["inside"] = f'\n\\connect :"database"\n{written["inside"]}'
    return "".join(written.values())


def _quote_literal(value: str) -> str:
    quoted = "'" + value.replace("'", "''") + "'"
    return f" E{quoted.replace(chr(92), chr(92) * 2)}" if "\\" in value else quoted
