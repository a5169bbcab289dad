"""Compares a live catalogue with the expected one: what is missing, what is extra, what is another."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, Final

from src.database.drift.catalog import BUILT, Catalogue, Facts
from src.database.drift.circumstances import collations, rights, rights_of_public
from src.database.drift.difference import Case, Difference, Severity, Statements
from src.database.drift.remedies import REMEDIES

__all__ = ["compare"]

# What is dropped before anything is made: each before what it is made of.
_DROP_FIRST: Final = ("policy", "rule", "trigger", "constraint", "index", "column", "sequence", "function")
_RENAMED: Final[Mapping[str, str]] = {
    "column": "ALTER TABLE {table} RENAME COLUMN {old} TO {new}",
    "constraint": "ALTER TABLE {table} RENAME CONSTRAINT {old} TO {new}",
    "index": "ALTER INDEX {old} RENAME TO {new}",
}
_KEEP: Final = "-- it breaks nothing: keep it if an operator or a newer release made it"
_KEYS_FIRST: Final = {"PRIMARY KEY": 0, "UNIQUE": 1, "FOREIGN KEY": 3}


def compare(expected: Catalogue, live: Catalogue) -> tuple[Difference, ...]:
    """Name each difference, in an order in which the remedies can be run; what is not of our tables is ignored."""
    renamed = {kind: _renamed(kind, expected, live) for kind in _RENAMED}
    differences = [_rename(kind, old, new, live) for kind, pairs in renamed.items() for new, old in pairs.items()]
    for kind in _DROP_FIRST:
        spared = set(renamed.get(kind, {}).values())
        differences += [_extra(case) for case in _extras(kind, expected, live) if case.object not in spared]
    for kind in BUILT:
        if kind == "rights of PUBLIC":
            continue
        for case in _wanted(kind, expected, live):
            if not case.found and case.object not in renamed.get(kind, {}):
                differences.append(_missing(case))
            elif case.found:
                differences += _changed(case)
    return (*differences, *rights_of_public(expected, live), *rights(expected, live), *collations(live))


def _wanted(kind: str, expected: Catalogue, live: Catalogue) -> Iterator[Case]:
    """Go through what is expected; what a missing table would have as columns comes with the table."""
    wanted = expected.of(kind)
    for name in sorted(wanted, key=lambda name: (_KEYS_FIRST.get(wanted[name].get("kind", ""), 2), name)):
        if kind == "column" and wanted[name]["table"] not in live.of("table"):
            continue
        found = live.of(kind).get(name, {})
        yield Case(kind=kind, object=name, wanted=wanted[name], found=found, expected=expected, live=live)


def _extras(kind: str, expected: Catalogue, live: Catalogue) -> Iterator[Case]:
    """Go through what is found on our tables and not expected, and namesakes of our functions."""
    ours = {facts["_name"] for facts in expected.of("function").values()}
    for name, facts in live.of(kind).items():
        if name in expected.of(kind):
            continue
        is_ours = facts["_name"] in ours if kind == "function" else facts["table"] in expected.of("table")
        if is_ours:
            yield Case(kind=kind, object=name, wanted={}, found=facts, expected=expected, live=live)


def _missing(case: Case) -> Difference:
    remedy, severity = REMEDIES[case.kind].make(case), _severity_of_missing(case)
    return _difference(case, "missing", remedy, expected=_shown(case.wanted), severity=severity)


def _extra(case: Case) -> Difference:
    remedy, severity = REMEDIES[case.kind].drop(case), _severity_of_extra(case)
    if severity == "warning":
        remedy = (_KEEP, *remedy)
    return _difference(case, "extra", remedy, found=_shown(case.found), severity=severity)


def _changed(case: Case) -> Iterator[Difference]:
    for attribute, wanted in _compared(case.wanted).items():
        found = case.found.get(attribute)
        if found != wanted:
            remedy = REMEDIES[case.kind].change(case, attribute)
            severity = _severity_of_change(case, attribute)
            yield _difference(case, attribute, remedy, expected=wanted, found=found, severity=severity)


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
    """Judge whether it can make a statement of the code's fail, or let through what it should not."""
    facts = case.found
    if case.kind == "column":
        fills_itself = facts["default"] or facts["generated"] or facts["identity"] or facts["nullability"] == "NULL"
        return "warning" if fills_itself else "error"
    if case.kind == "index":
        return "error" if facts["unique"] else "warning"
    return "warning" if case.kind == "sequence" else "error"


def _renamed(kind: str, expected: Catalogue, live: Catalogue) -> dict[str, str]:
    """Pair what is missing with what is extra and, but for the name, the same; where there is but one such."""
    missing = [case for case in _wanted(kind, expected, live) if not case.found]
    extras = list(_extras(kind, expected, live))
    pairs = {}
    for case in missing:
        alike = [extra.object for extra in extras if _compared(extra.found) == _compared(case.wanted)]
        rivals = [rival for rival in missing if _compared(rival.wanted) == _compared(case.wanted)]
        if len(alike) == len(rivals) == 1:
            pairs[case.object] = alike[0]
    return pairs


def _rename(kind: str, old: str, new: str, live: Catalogue) -> Difference:
    facts = live.of(kind)[old]
    table = facts["table"]
    short = new.removeprefix(f"{table}.")
    statement = _RENAMED[kind].format(table=table, old=facts["_name"], new=short)
    remedy: Statements = (statement,)
    if kind == "column":
        remedy = (f"-- {facts['_name']} is like {short}: if it is not the same, add {short} and keep it", statement)
    severity: Severity = "warning" if kind == "index" and not facts["unique"] else "error"
    return Difference(
        kind=kind,
        object=new,
        attribute="name",
        expected=short,
        found=facts["_name"],
        remedy=remedy,
        severity=severity,
    )


def _compared(facts: Facts) -> dict[str, Any]:
    return {name: value for name, value in facts.items() if not name.startswith("_")}


def _shown(facts: Facts) -> dict[str, Any]:
    return {name: value for name, value in _compared(facts).items() if value not in (None, [], {})}


def _difference(
    case: Case,
    attribute: str,
    remedy: Statements,
    *,
    expected: Any = None,
    found: Any = None,
    severity: Severity = "error",
) -> Difference:
    return Difference(
        kind=case.kind,
        object=case.object,
        attribute=attribute,
        expected=expected,
        found=found,
        remedy=remedy,
        severity=severity,
    )
