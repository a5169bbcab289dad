"""Mends what is written in the database's own languages: functions, triggers, rules, policies, types, extensions."""

from __future__ import annotations

from typing import Any, Final

from src.database.drift.difference import Case, Statements
from src.database.drift.remedies.remedy import Remedy, at_once, never

__all__ = ["DOMAIN", "ENUM", "EXTENSION", "FUNCTION", "POLICY", "RULE", "TRIGGER"]


def _missing_function(case: Case) -> Statements:
    return (case.wanted["_definition"].strip(),)


def _extra_function(case: Case) -> Statements:
    return (f"DROP {case.found['_kind']} {case.object}",)


def _changed_function(case: Case, _attribute: str) -> Statements:
    if all(case.wanted[fixed] == case.found[fixed] for fixed in ("returns", "arguments")):
        return _missing_function(case)
    drop = f"DROP {case.found['_kind']} {case.object}"
    return ("-- rights on it have to be granted again", *at_once(drop, *_missing_function(case)))


def _missing_trigger(case: Case) -> Statements:
    enabled = case.wanted["enabled"]
    return (case.wanted["definition"], *(() if enabled == "ENABLE" else (_enable_trigger(case),)))


def _extra_trigger(case: Case) -> Statements:
    return (f"DROP TRIGGER {case.name} ON {case.table}",)


def _changed_trigger(case: Case, attribute: str) -> Statements:
    if attribute == "enabled":
        return (_enable_trigger(case),)
    return at_once(*_extra_trigger(case), *_missing_trigger(case))


def _enable_trigger(case: Case) -> str:
    return f"ALTER TABLE {case.table} {case.wanted['enabled']} TRIGGER {case.name}"


def _missing_rule(case: Case) -> Statements:
    definition = case.wanted["definition"].rstrip(";").replace("CREATE RULE", "CREATE OR REPLACE RULE", 1)
    return (definition, *_enable_rule(case)) if not case.wanted["enabled"] else (definition,)


def _changed_rule(case: Case, attribute: str) -> Statements:
    return _enable_rule(case) if attribute == "enabled" else _missing_rule(case)


def _enable_rule(case: Case) -> Statements:
    return (f"ALTER TABLE {case.table} {'ENABLE' if case.wanted['enabled'] else 'DISABLE'} RULE {case.name}",)


def _missing_policy(case: Case) -> Statements:
    facts = case.wanted
    using = f" USING ({facts['using']})" if facts["using"] else ""
    check = f" WITH CHECK ({facts['check']})" if facts["check"] else ""
    whom = f"AS {facts['kind']} FOR {facts['command']} TO {facts['roles']}"
    return (f"CREATE POLICY {case.name} ON {case.table} {whom}{using}{check}",)


def _extra_policy(case: Case) -> Statements:
    return (f"DROP POLICY {case.name} ON {case.table}",)


def _missing_enum(case: Case) -> Statements:
    return (f"CREATE TYPE {case.object} AS ENUM ({', '.join(map(_quote, case.wanted['labels']))})",)


def _changed_enum(case: Case, _attribute: str) -> Statements:
    wanted, found = case.wanted["labels"], case.found["labels"]
    alter = f"ALTER TYPE {case.object}"
    if [label for label in wanted if label in found] == found:
        return tuple(
            f"{alter} ADD VALUE {_quote(label)}{_place(label, wanted)}" for label in wanted if label not in found
        )
    others = [(old, new) for old, new in zip(found, wanted, strict=False) if old != new]
    if len(wanted) == len(found) and len(others) == 1:
        old, new = others[0]
        return (f"{alter} RENAME VALUE {_quote(old)} TO {_quote(new)}",)
    return (f"-- a label can be neither dropped nor moved: make {case.object} anew, and change the columns to it",)


def _place(label: str, labels: list[str]) -> str:
    before = labels.index(label)
    return f" AFTER {_quote(labels[before - 1])}" if before else f" BEFORE {_quote(labels[1])}" if labels[1:] else ""


def _missing_domain(case: Case) -> Statements:
    facts = case.wanted
    parts = [f"CREATE DOMAIN {case.object} AS {facts['type']}"]
    parts += [f"COLLATE {facts['collation']}"] if facts["collation"] else []
    parts += [f"DEFAULT {facts['default']}"] if facts["default"] else []
    parts += [] if facts["nullable"] else ["NOT NULL"]
    parts += [f"CONSTRAINT {name} {check}" for name, check in facts["checks"].items()]
    return (" ".join(parts),)


def _changed_domain(case: Case, attribute: str) -> Statements:
    wanted, alter = case.wanted[attribute], f"ALTER DOMAIN {case.object}"
    match attribute:
        case "default":
            return (f"{alter} SET DEFAULT {wanted}" if wanted else f"{alter} DROP DEFAULT",)
        case "nullable":
            return (f"{alter} {'DROP' if wanted else 'SET'} NOT NULL",)
        case "checks":
            return _change_checks(alter, wanted, case.found["checks"])
        case _:
            return (f"-- the {attribute} of a domain is fixed: make {case.object} anew, and change the columns to it",)


def _change_checks(alter: str, wanted: dict[str, Any], found: dict[str, Any]) -> Statements:
    dropped = [f"{alter} DROP CONSTRAINT {name}" for name in found if wanted.get(name) != found[name]]
    added = [f"{alter} ADD CONSTRAINT {name} {check}" for name, check in wanted.items() if found.get(name) != check]
    return (*dropped, *added)


def _quote(text: str) -> str:
    return "'" + text.replace("'", "''") + "'"


FUNCTION: Final = Remedy(make=_missing_function, change=_changed_function, drop=_extra_function)
TRIGGER: Final = Remedy(make=_missing_trigger, change=_changed_trigger, drop=_extra_trigger)
RULE: Final = Remedy(
    make=_missing_rule, change=_changed_rule, drop=lambda case: (f"DROP RULE {case.name} ON {case.table}",)
)
POLICY: Final = Remedy(
    make=_missing_policy,
    # In between there would be no policy, and no row for anybody.
    change=lambda case, _attribute: at_once(*_extra_policy(case), *_missing_policy(case)),
    drop=_extra_policy,
)
ENUM: Final = Remedy(make=_missing_enum, change=_changed_enum, drop=never)
DOMAIN: Final = Remedy(make=_missing_domain, change=_changed_domain, drop=never)
EXTENSION: Final = Remedy(
    make=lambda case: ("-- as one who may create extensions", f"CREATE EXTENSION {case.object}"),
    change=lambda _case, _attribute: (),
    drop=never,
)
