"""Compare a live catalog with the expected one: missing, extra and changed objects, privileges and collations."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Final

from src.database.drift.catalog import BUILT, Catalog, Facts, compared_facts
from src.database.drift.difference import Case, Difference, Severity, Statements
from src.database.drift.remedies import change, create, drop

# Objects that are dropped before anything is created, each before what it depends on.
_DROP_FIRST: Final = ("policy", "rule", "trigger", "constraint", "index", "column", "sequence", "function")
_RENAMES: Final[Mapping[str, str]] = {
    "column": "ALTER TABLE {table} RENAME COLUMN {old} TO {new}",
    "constraint": "ALTER TABLE {table} RENAME CONSTRAINT {old} TO {new}",
    "index": "ALTER INDEX {old} RENAME TO {new}",
}
_KEEP: Final = "-- it breaks nothing: keep it if an operator or a newer release made it"
_KEYS_FIRST: Final = {"PRIMARY KEY": 0, "UNIQUE": 1, "FOREIGN KEY": 3}

_NEEDED: Final = {"TABLE": ("SELECT", "INSERT", "UPDATE", "DELETE"), "SEQUENCE": ("USAGE",)}
_NEEDED_OF_ROUTINES: Final = ("EXECUTE",)
_DANGEROUS: Final = ("REFERENCES", "TRIGGER", "TRUNCATE")
"""Privileges that row-level security does not bind, or that make others run the role's code."""
_ALEMBIC: Final = "TABLE alembic_version"
_WRITES: Final = ("INSERT", "UPDATE", "DELETE")
"""A role that writes Alembic's table can make migrations run twice, or never."""


def compare(expected: Catalog, live: Catalog) -> tuple[Difference, ...]:
    """Return each difference, in an order in which the remedies can be run; objects of other tables are ignored."""
    renames = [pair for kind in _RENAMES for pair in _renamed(kind, expected, live)]
    renamed = {(case.kind, case.object) for pair in renames for case in pair}
    differences = [_rename(missing, extra) for missing, extra in renames]
    for kind in _DROP_FIRST:
        extras = _extras(kind, expected, live)
        differences += [_extra(case) for case in extras if (kind, case.object) not in renamed]
    for kind in BUILT:
        if kind == "rights of PUBLIC":
            continue
        for case in _wanted(kind, expected, live):
            if case.found:
                differences += _changed(case)
            elif (kind, case.object) not in renamed:
                differences.append(_missing(case))
    return (*differences, *_public_rights(expected, live), *_rights(expected, live), *_collations(live))


def _wanted(kind: str, expected: Catalog, live: Catalog) -> Iterator[Case]:
    """Yield a case for each expected object; the columns of a missing table come with the table."""
    wanted = expected.of(kind)
    for name in sorted(wanted, key=lambda name: (_KEYS_FIRST.get(wanted[name].get("kind", ""), 2), name)):
        if kind != "column" or wanted[name]["table"] in live.of("table"):
            yield Case(kind, name, expected, live)


def _extras(kind: str, expected: Catalog, live: Catalog) -> Iterator[Case]:
    """Yield a case for each unexpected object of an expected table, and for namesakes of expected functions."""
    ours = {facts["_name"] for facts in expected.of("function").values()}
    for name, facts in live.of(kind).items():
        if name in expected.of(kind):
            continue
        is_ours = facts["_name"] in ours if kind == "function" else facts["table"] in expected.of("table")
        if is_ours:
            yield Case(kind, name, expected, live)


def _missing(case: Case) -> Difference:
    severity, shown = _severity_of_missing(case), _shown(case.wanted)
    return Difference(case.kind, case.object, "missing", create(case), expected=shown, severity=severity)


def _extra(case: Case) -> Difference:
    severity = _severity_of_extra(case)
    remedy = drop(case) if severity == "error" else (_KEEP, *drop(case))
    return Difference(case.kind, case.object, "extra", remedy, found=_shown(case.found), severity=severity)


def _changed(case: Case) -> Iterator[Difference]:
    for attribute, wanted in compared_facts(case.wanted).items():
        found = case.found.get(attribute)
        if found != wanted:
            severity = _severity_of_change(case, attribute)
            remedy = change(case, attribute)
            yield Difference(case.kind, case.object, attribute, remedy, wanted, found, severity)


def _renamed(kind: str, expected: Catalog, live: Catalog) -> Iterator[tuple[Case, Case]]:
    """Yield the missing and the extra objects that differ in their name alone, if exactly one of each does."""
    missing = [case for case in _wanted(kind, expected, live) if not case.found]
    extras = list(_extras(kind, expected, live))
    for case in missing:
        facts = compared_facts(case.wanted)
        alike = [extra for extra in extras if compared_facts(extra.found) == facts]
        rivals = [rival for rival in missing if compared_facts(rival.wanted) == facts]
        if len(alike) == len(rivals) == 1:
            yield case, alike[0]


def _rename(missing: Case, extra: Case) -> Difference:
    new = missing.object.removeprefix(f"{extra.table}.")
    remedy: Statements = (_RENAMES[extra.kind].format(table=extra.table, old=extra.name, new=new),)
    if extra.kind == "column":
        remedy = (f"-- {extra.name} is like {new}: if it is not the same, add {new} and keep it", *remedy)
    severity: Severity = "warning" if extra.kind == "index" and not extra.found["unique"] else "error"
    return Difference(missing.kind, missing.object, "name", remedy, new, extra.name, severity)


def _severity_of_missing(case: Case) -> Severity:
    """Return warning for what only makes statements slower, or lets values pass that the code does not write.

    ON CONFLICT needs its unique index, and a foreign key keeps tenants apart: without these it is an error.
    """
    is_plain_index = case.kind == "index" and not case.wanted["unique"]
    is_check = case.kind == "constraint" and case.wanted["kind"] == "CHECK"
    return "warning" if is_plain_index or is_check else "error"


def _severity_of_change(case: Case, attribute: str) -> Severity:
    """Return warning where no statement can fail, as of an index that is not unique or a NOT NULL that is missing."""
    match case.kind, attribute:
        case "index", _:
            return "error" if case.wanted["unique"] or case.found["unique"] else "warning"
        case "column", "nullability":
            return "error" if case.wanted["nullability"] == "NULL" else "warning"
        case ("constraint", "validated") | ("table", "persistence"):
            return "warning"
        case _:
            return "error"


def _severity_of_extra(case: Case) -> Severity:
    """Return error for what can make a statement of the code fail, or let rows through that it should not."""
    facts = case.found
    if case.kind == "column":
        fills_itself = facts["default"] or facts["generated"] or facts["identity"] or facts["nullability"] == "NULL"
        return "warning" if fills_itself else "error"
    if case.kind == "index":
        return "error" if facts["unique"] else "warning"
    return "warning" if case.kind == "sequence" else "error"


def _public_rights(expected: Catalog, live: Catalog) -> Iterator[Difference]:
    """Yield the privileges that PUBLIC has and should not; fewer are no fault, as long as the application's suffice."""
    ours = {*_grantable(expected), *(f"TABLE {name}" for name in expected.of("view")), _ALEMBIC}
    for thing, facts in live.of("rights of PUBLIC").items():
        is_schema = thing == f"SCHEMA {live.schema}"
        if thing not in ours and not is_schema:
            continue
        name = f"SCHEMA {expected.schema}" if is_schema else thing
        wanted = expected.of("rights of PUBLIC").get(name, {"rights": []})["rights"]
        if is_schema:
            wanted = [*wanted, "USAGE"]
        if more := [right for right in facts["rights"] if right not in wanted]:
            needed = [right for right in wanted if right in facts["rights"]]
            revoke = f"REVOKE {', '.join(more)} ON {thing} FROM PUBLIC"
            yield _right("PUBLIC", thing, needed, facts["rights"], revoke)


def _rights(expected: Catalog, live: Catalog) -> Iterator[Difference]:
    """Yield the privileges that the connected role lacks, and those that it should not have; an owner has all.

    Of a missing object nothing is reported but the privileges that an object made in its place may lack.
    """
    held = live.of("rights")
    if not held or all(facts["_owns"] for facts in held.values()):
        return
    role = next(iter(held.values()))["_role"]
    for thing in [*_grantable(expected), _ALEMBIC]:
        facts = held.get(thing, {"_owns": False, "rights": []})
        if facts["_owns"] or (thing not in held and (thing == _ALEMBIC or thing in expected.of("rights of PUBLIC"))):
            continue
        needed = ("SELECT",) if thing == _ALEMBIC else _NEEDED.get(thing.split()[0], _NEEDED_OF_ROUTINES)
        has = facts["rights"]
        if lacking := [right for right in needed if right not in has]:
            grant = f"GRANT {', '.join(lacking)} ON {thing} TO {role}"
            yield _right(role, thing, needed, has, grant, severity="warning" if thing == _ALEMBIC else "error")
        forbidden = (*_WRITES, *_DANGEROUS) if thing == _ALEMBIC else _DANGEROUS
        if more := [right for right in forbidden if right in has]:
            yield _right(role, thing, needed, has, f"REVOKE {', '.join(more)} ON {thing} FROM {role}")


def _collations(live: Catalog) -> Iterator[Difference]:
    """Yield the collations of which the system has another version: indexes over text may miss rows."""
    for thing, facts in live.of("collation version").items():
        if facts["recorded"] == facts["actual"] or facts["actual"] is None:
            continue
        name = facts["_name"]
        remedy: Statements
        if facts["_of"] == "DATABASE":
            remedy = (f"REINDEX DATABASE CONCURRENTLY {name}", f"ALTER DATABASE {name} REFRESH COLLATION VERSION")
        else:
            indexes = [f"REINDEX INDEX CONCURRENTLY {index}" for index in facts["_indexes"] or []]
            remedy = (*indexes, f"ALTER COLLATION {name} REFRESH VERSION")
        recorded, actual = facts["recorded"], facts["actual"]
        yield Difference("collation version", thing, "version", remedy, recorded, actual, severity="warning")


def _grantable(expected: Catalog) -> list[str]:
    """Return the objects on which privileges are granted, as GRANT names them."""
    kinds = dict.fromkeys(expected.of("table"), "TABLE") | dict.fromkeys(expected.of("sequence"), "SEQUENCE")
    kinds |= {name: facts["_kind"] for name, facts in expected.of("function").items()}
    return [f"{kind} {name}" for name, kind in kinds.items()]


def _right(
    role: str, thing: str, needed: Sequence[str], has: list[str], statement: str, *, severity: Severity = "warning"
) -> Difference:
    return Difference(f"rights of {role}", thing, "rights", (statement,), list(needed), has, severity)


def _shown(facts: Facts) -> dict[str, Any]:
    return {name: value for name, value in compared_facts(facts).items() if value not in (None, [], {})}
