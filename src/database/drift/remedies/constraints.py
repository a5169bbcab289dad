"""Mends keys, checks and foreign keys, without holding the table for longer than it takes to write them down."""

from __future__ import annotations

from typing import Final

from src.database.drift.difference import Case, Statements
from src.database.drift.remedies.remedy import Remedy

__all__ = ["REMEDY"]

_KEYS: Final = ("PRIMARY KEY", "UNIQUE")


def _missing(case: Case) -> Statements:
    facts, alter = case.wanted, f"ALTER TABLE {case.table}"
    if facts["kind"] in _KEYS:
        deferrable = facts["definition"].rpartition(")")[2]
        return (
            f"CREATE UNIQUE INDEX CONCURRENTLY {case.name} ON {case.table} {facts['_using']}",
            f"{alter} ADD CONSTRAINT {case.name} {facts['kind']} USING INDEX {case.name}{deferrable}",
        )
    add = f"{alter} ADD CONSTRAINT {case.name} {facts['definition']}"
    if facts["kind"] == "EXCLUDE" or facts["definition"].endswith("NOT ENFORCED"):
        return (add,)
    return (f"{add} NOT VALID", *(_validate(case) if facts["validated"] else ()))


def _extra(case: Case) -> Statements:
    return (f"ALTER TABLE {case.table} DROP CONSTRAINT {case.name}",)


def _changed(case: Case, attribute: str) -> Statements:
    match attribute:
        case "validated" if case.wanted["validated"]:
            return ("-- fails where a row breaks it: mend the row first", *_validate(case))
        case "valid index":
            return (f"REINDEX INDEX CONCURRENTLY {case.name}",)
        case "switched off on":
            tables = case.found["switched off on"]
            return (
                "-- as a superuser; rows written meanwhile were not checked",
                *(f"ALTER TABLE {table} ENABLE TRIGGER ALL" for table in tables),
            )
        case _:
            return (*_extra(case), *_missing(case))


def _validate(case: Case) -> Statements:
    """Look at the rows there are: an owner who is bound by row-level security would see none, and call that valid."""
    validate = f"ALTER TABLE {case.table} VALIDATE CONSTRAINT {case.name}"
    if case.wanted["kind"] != "FOREIGN KEY":  # a check is looked at below row-level security
        return (validate,)
    tables = dict.fromkeys([case.table, case.wanted["_references"]])
    forced = [name for name in tables if case.expected.of("table").get(name, {}).get("forced row-level security")]
    return (
        *(f"ALTER TABLE {name} NO FORCE ROW LEVEL SECURITY" for name in forced),
        validate,
        *(f"ALTER TABLE {name} FORCE ROW LEVEL SECURITY" for name in forced),
    )


REMEDY: Final = Remedy(make=_missing, change=_changed, drop=_extra)
