"""Compare a live catalog with the expected one: missing, extra and changed objects, privileges and collations."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Final

from src.database.drift.catalog import BUILT_KINDS, Catalog, Facts, compared_facts
from src.database.drift.difference import ComparedObject, Difference, Severity, Statements
from src.database.drift.remedies import change, create, drop
from src.database.migrate import VERSION_TABLE

# Objects that are dropped before anything is created, each kind before the kinds that it depends on.
_DROP_FIRST: Final = ("policy", "rule", "trigger", "constraint", "index", "column", "sequence", "function")
_RENAMES: Final[Mapping[str, str]] = {
    "column": "ALTER TABLE {table} RENAME COLUMN {old} TO {new}",
    "constraint": "ALTER TABLE {table} RENAME CONSTRAINT {old} TO {new}",
    "index": "ALTER INDEX {old} RENAME TO {new}",
}
_KEEP: Final = "-- keep the object if an operator or a newer release created it: it does no harm"
_CONSTRAINT_ORDER: Final = {"PRIMARY KEY": 0, "UNIQUE": 1, "FOREIGN KEY": 3}
"""A foreign key needs the key that it refers to; other constraints are 2."""

_NEEDED: Final = {"TABLE": ("SELECT", "INSERT", "UPDATE", "DELETE"), "SEQUENCE": ("USAGE",)}
_DANGEROUS: Final = ("REFERENCES", "TRIGGER", "TRUNCATE")
"""Row-level security does not apply to TRUNCATE and REFERENCES; a trigger makes other roles run this role's code."""
_ALEMBIC: Final = f"TABLE {VERSION_TABLE}"
_WRITES: Final = ("INSERT", "UPDATE", "DELETE")
"""A role that can write Alembic's table can cause migrations to run twice or not at all."""


def compare(expected: Catalog, live: Catalog) -> tuple[Difference, ...]:
    """Return each difference, in an order in which the remedies can be run.

    Objects that do not belong to the expected tables are ignored: they are another application's.
    """
    expected = expected.in_schema(live.schema)
    renames = [pair for kind in _RENAMES for pair in _renamed(kind, expected, live)]
    renamed = {(item.kind, item.object) for pair in renames for item in pair}
    differences = [_name_difference(missing, extra) for missing, extra in renames]
    for kind in _DROP_FIRST:
        extras = _extra_objects(kind, expected, live)
        differences += [_extra_difference(item) for item in extras if (kind, item.object) not in renamed]
    for kind in BUILT_KINDS:
        if kind == "rights of PUBLIC":
            continue
        for item in _expected_objects(kind, expected, live):
            if item.live:
                differences += _attribute_differences(item)
            elif (kind, item.object) not in renamed:
                differences.append(_missing_difference(item))
    return (*differences, *_public_rights(expected, live), *_rights(expected, live), *_collations(live))


def _expected_objects(kind: str, expected: Catalog, live: Catalog) -> Iterator[ComparedObject]:
    """Yield each expected object, without the columns of missing tables, which are created with their table."""
    objects = expected.of(kind)
    for name in sorted(objects, key=lambda name: (_CONSTRAINT_ORDER.get(objects[name].get("kind", ""), 2), name)):
        if kind != "column" or objects[name]["table"] in live.of("table"):
            yield ComparedObject(kind, name, expected, live)


def _extra_objects(kind: str, expected: Catalog, live: Catalog) -> Iterator[ComparedObject]:
    """Yield each unexpected object of an expected table, and the overloads of expected functions."""
    function_names = {facts["_name"] for facts in expected.of("function").values()}
    for name, facts in live.of(kind).items():
        is_ours = facts["_name"] in function_names if kind == "function" else facts["table"] in expected.of("table")
        if is_ours and name not in expected.of(kind):
            yield ComparedObject(kind, name, expected, live)


def _missing_difference(item: ComparedObject) -> Difference:
    severity, facts = _severity_of_missing(item), _reported_facts(item.expected)
    return Difference(item.kind, item.object, "missing", create(item), expected=facts, severity=severity)


def _extra_difference(item: ComparedObject) -> Difference:
    severity = _severity_of_extra(item)
    remedy = drop(item) if severity == "error" else (_KEEP, *drop(item))
    return Difference(item.kind, item.object, "extra", remedy, found=_reported_facts(item.live), severity=severity)


def _attribute_differences(item: ComparedObject) -> Iterator[Difference]:
    for attribute, expected in compared_facts(item.expected).items():
        live = item.live.get(attribute)
        if live != expected:
            severity = _severity_of_change(item, attribute)
            yield Difference(item.kind, item.object, attribute, change(item, attribute), expected, live, severity)


def _renamed(kind: str, expected: Catalog, live: Catalog) -> Iterator[tuple[ComparedObject, ComparedObject]]:
    """Yield each missing object and the extra one that differs from it in the name alone.

    Two candidates on either side are ambiguous: these are reported as missing and extra.
    """
    missing = [item for item in _expected_objects(kind, expected, live) if not item.live]
    extras = list(_extra_objects(kind, expected, live))
    for item in missing:
        facts = compared_facts(item.expected)
        equal_extras = [extra for extra in extras if compared_facts(extra.live) == facts]
        equal_missing = [other for other in missing if compared_facts(other.expected) == facts]
        if len(equal_extras) == len(equal_missing) == 1:
            yield item, equal_extras[0]


def _name_difference(missing: ComparedObject, extra: ComparedObject) -> Difference:
    new = missing.object.removeprefix(f"{extra.table}.")
    remedy: Statements = (_RENAMES[extra.kind].format(table=extra.table, old=extra.name, new=new),)
    if extra.kind == "column":
        remark = (
            f"-- {extra.name} has the definition that {new} must have: if {extra.name} is another column, keep"
            f" {extra.name} and add {new}"
        )
        remedy = (remark, *remedy)
    severity: Severity = "warning" if extra.kind == "index" and not extra.live["unique"] else "error"
    return Difference(missing.kind, missing.object, "name", remedy, new, extra.name, severity)


def _severity_of_missing(item: ComparedObject) -> Severity:
    """Return warning for a missing plain index or CHECK; the code writes no value that a CHECK rejects.

    A missing unique index is an error, because ON CONFLICT fails without it; so is a missing foreign key, which
    isolates tenants.
    """
    is_plain_index = item.kind == "index" and not item.expected["unique"]
    is_check = item.kind == "constraint" and item.expected["kind"] == "CHECK"
    return "warning" if is_plain_index or is_check else "error"


def _severity_of_change(item: ComparedObject, attribute: str) -> Severity:
    """Return warning if no statement of the code can fail, for example because a NOT NULL is missing."""
    match item.kind, attribute:
        case "index", _:
            return "error" if item.expected["unique"] or item.live["unique"] else "warning"
        case "column", "nullability":
            return "error" if item.expected["nullability"] == "NULL" else "warning"
        case ("constraint", "validated") | ("table", "persistence"):
            return "warning"
        case _:
            return "error"


def _severity_of_extra(item: ComparedObject) -> Severity:
    """Return error if the object can make a statement of the code fail, or can show rows of other tenants."""
    facts = item.live
    if item.kind == "column":  # an INSERT of the code does not name the column
        has_value = facts["default"] or facts["generated"] or facts["identity"] or facts["nullability"] == "NULL"
        return "warning" if has_value else "error"
    if item.kind == "index":
        return "error" if facts["unique"] else "warning"
    return "warning" if item.kind == "sequence" else "error"


def _public_rights(expected: Catalog, live: Catalog) -> Iterator[Difference]:
    """Yield the privileges that PUBLIC should not have. Fewer than expected are no fault: see `_rights`."""
    ours = {*_grantable(expected), *(f"TABLE {name}" for name in expected.of("view")), _ALEMBIC}
    for target, facts in live.of("rights of PUBLIC").items():
        is_schema = target == f"SCHEMA {live.schema}"
        if target not in ours and not is_schema:
            continue
        name = f"SCHEMA {expected.schema}" if is_schema else target
        allowed = expected.of("rights of PUBLIC").get(name, {"rights": []})["rights"]
        if is_schema:
            allowed = [*allowed, "USAGE"]
        if excess := [right for right in facts["rights"] if right not in allowed]:
            kept = [right for right in allowed if right in facts["rights"]]
            revoke = f"REVOKE {', '.join(excess)} ON {target} FROM PUBLIC"
            yield _rights_difference("PUBLIC", target, kept, facts["rights"], revoke)


def _rights(expected: Catalog, live: Catalog) -> Iterator[Difference]:
    """Yield the privileges that the connected role lacks, and those that it should not have; an owner has all.

    For a missing object, the privileges are reported that the object will not have when its remedy has created it.
    """
    rights = live.of("rights")
    if not rights or all(facts["_owns"] for facts in rights.values()):
        return
    role = next(iter(rights.values()))["_role"]
    for target in [*_grantable(expected), _ALEMBIC]:
        facts = rights.get(target, {"_owns": False, "rights": []})
        if facts["_owns"] or (target not in rights and target in {_ALEMBIC, *expected.of("rights of PUBLIC")}):
            continue
        needed = ("SELECT",) if target == _ALEMBIC else _NEEDED.get(target.split()[0], ("EXECUTE",))
        held = facts["rights"]
        if lacking := [right for right in needed if right not in held]:
            grant = f"GRANT {', '.join(lacking)} ON {target} TO {role}"
            severity: Severity = "warning" if target == _ALEMBIC else "error"
            yield _rights_difference(role, target, needed, held, grant, severity=severity)
        forbidden = (*_WRITES, *_DANGEROUS) if target == _ALEMBIC else _DANGEROUS
        if excess := [right for right in forbidden if right in held]:
            yield _rights_difference(role, target, needed, held, f"REVOKE {', '.join(excess)} ON {target} FROM {role}")


def _collations(live: Catalog) -> Iterator[Difference]:
    """Yield the collations whose version differs from the operating system's.

    After an update of glibc or ICU the order of strings can change: an index over text then misses rows, and a unique
    index accepts duplicates, until it is built again.
    """
    for target, facts in live.of("collation version").items():
        recorded, actual, name = facts["recorded"], facts["actual"], facts["_name"]
        if actual in (None, recorded):
            continue
        remedy: Statements
        if facts["_of"] == "DATABASE":
            remedy = (f"REINDEX DATABASE CONCURRENTLY {name}", f"ALTER DATABASE {name} REFRESH COLLATION VERSION")
        else:
            indexes = [f"REINDEX INDEX CONCURRENTLY {index}" for index in facts["_indexes"] or []]
            remedy = (*indexes, f"ALTER COLLATION {name} REFRESH VERSION")
        yield Difference("collation version", target, "version", remedy, recorded, actual, severity="warning")


def _grantable(expected: Catalog) -> list[str]:
    """Return the objects on which privileges are granted, in the syntax of GRANT."""
    kinds = dict.fromkeys(expected.of("table"), "TABLE") | dict.fromkeys(expected.of("sequence"), "SEQUENCE")
    kinds |= {name: facts["_kind"] for name, facts in expected.of("function").items()}
    return [f"{kind} {name}" for name, kind in kinds.items()]


def _rights_difference(
    role: str, target: str, needed: Sequence[str], held: list[str], statement: str, *, severity: Severity = "warning"
) -> Difference:
    return Difference(f"rights of {role}", target, "rights", (statement,), list(needed), held, severity)


def _reported_facts(facts: Facts) -> dict[str, Any]:
    return {name: value for name, value in compared_facts(facts).items() if value not in (None, [], {})}
