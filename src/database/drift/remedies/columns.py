"""Mends columns: type, nullability, default, generation, identity, collation."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Final

from src.database.drift.catalog import Facts
from src.database.drift.difference import Case, Statements
from src.database.drift.remedies import constraints, indexes
from src.database.drift.remedies.remedy import REWRITES, Remedy

__all__ = ["REMEDY", "definition"]

KNOWS_SET_EXPRESSION: Final = 17
"""The first major that can change what a column is generated from."""
_PROOF: Final = "thea_not_null"
"""A CHECK of a moment: with it valid, SET NOT NULL has nothing to look at while it holds its lock."""


def definition(facts: Facts) -> str:
    """Write a column as CREATE TABLE and ADD COLUMN want it."""
    parts = [facts["_name"], facts["type"]]
    if facts["collation"]:
        parts.append(f"COLLATE {facts['collation']}")
    if facts["generated"]:
        parts.append(f"GENERATED ALWAYS AS {facts['generated']}")
    if facts["identity"]:
        parts.append(f"GENERATED {facts['identity']} AS IDENTITY")
    if facts["default"]:
        parts.append(f"DEFAULT {facts['default']}")
    if facts["nullability"] != "NULL":
        parts.append("NOT NULL")
    return " ".join(parts)


def _missing(case: Case) -> Statements:
    facts = case.wanted
    add = f"ALTER TABLE {case.table} ADD COLUMN {definition(facts)}"
    if facts["generated"] or facts["identity"]:
        return (REWRITES, add)
    if facts["default"] or facts["nullability"] == "NULL":
        return (add,)
    return (
        add.removesuffix(" NOT NULL"),
        f"-- {case.name} has no default: where {case.table} has rows, give them a value before what follows",
        *_set_not_null(case),
    )


def _extra(case: Case) -> Statements:
    facts = case.found
    drop = f"ALTER TABLE {case.table} DROP COLUMN {case.name}"
    if facts["generated"]:
        return (drop,)
    return (f"-- the data in {case.object} is lost; to keep it: ALTER COLUMN {case.name} DROP NOT NULL", drop)


def _changed(case: Case, attribute: str) -> Statements:
    return _BY_ATTRIBUTE[attribute](case)


def _type(case: Case) -> Statements:
    wanted, name = case.wanted, case.name
    if wanted["generated"]:
        return _generate_anew(case)
    collate = f" COLLATE {wanted['collation']}" if wanted["collation"] else ""
    change = f"ALTER COLUMN {name} TYPE {wanted['type']}{collate} USING {name}::{wanted['type']}"
    around = [f"ALTER COLUMN {name} DROP DEFAULT"] if case.found["default"] and not case.found["generated"] else []
    after = [f"ALTER COLUMN {name} SET DEFAULT {wanted['default']}"] if wanted["default"] else []
    return (REWRITES, f"ALTER TABLE {case.table} {', '.join([*around, change, *after])}")


def _nullability(case: Case) -> Statements:
    if case.wanted["nullability"] == "NULL":
        return (f"ALTER TABLE {case.table} ALTER COLUMN {case.name} DROP NOT NULL",)
    if case.found["nullability"] == "NOT NULL NOT VALID":
        return (f"ALTER TABLE {case.table} VALIDATE CONSTRAINT {case.found['_not_null']}",)
    return (f"-- rows of {case.table} without {case.name} need a value first", *_set_not_null(case))


def _set_not_null(case: Case) -> Statements:
    alter = f"ALTER TABLE {case.table}"
    return (
        f"{alter} ADD CONSTRAINT {_PROOF} CHECK ({case.name} IS NOT NULL) NOT VALID",
        f"{alter} VALIDATE CONSTRAINT {_PROOF}",
        f"{alter} ALTER COLUMN {case.name} SET NOT NULL",
        f"{alter} DROP CONSTRAINT {_PROOF}",
    )


def _default(case: Case) -> Statements:
    if case.wanted["generated"] or (case.found["generated"] and not case.wanted["default"]):
        return ()  # mended with the generation
    default = case.wanted["default"]
    action = f"SET DEFAULT {default}" if default else "DROP DEFAULT"
    first = [f"ALTER COLUMN {case.name} DROP EXPRESSION IF EXISTS"] if case.found["generated"] else []
    return (f"ALTER TABLE {case.table} {', '.join([*first, f'ALTER COLUMN {case.name} {action}'])}",)


def _generated(case: Case) -> Statements:
    wanted, found = case.wanted["generated"], case.found["generated"]
    if wanted is None:
        return (f"ALTER TABLE {case.table} ALTER COLUMN {case.name} DROP EXPRESSION IF EXISTS",)
    is_like = found is not None and _kept(found) == _kept(wanted)
    if is_like and case.live.server_major >= KNOWS_SET_EXPRESSION:
        expression = wanted.rpartition(" ")[0]
        return (REWRITES, f"ALTER TABLE {case.table} ALTER COLUMN {case.name} SET EXPRESSION AS {expression}")
    return _generate_anew(case)


def _kept(generated: str) -> str:
    """Return whether it is stored or virtual."""
    return generated.rpartition(" ")[2]


def _generate_anew(case: Case) -> Statements:
    """Drop the column and add it: what stands on it goes with it, and is made again."""
    alter = f"ALTER TABLE {case.table}"
    on_it = {
        kind: [
            Case(kind=kind, object=name, wanted=facts, found={}, expected=case.expected, live=case.live)
            for name, facts in case.expected.of(kind).items()
            if facts["table"] == case.table and case.name in (facts["_columns"] or [])
        ]
        for kind in ("constraint", "index")
    }
    again = [statement for of in on_it["constraint"] for statement in constraints.REMEDY.make(of)]
    again += [statement for of in on_it["index"] for statement in indexes.REMEDY.make(of)]
    drop = f"ALTER TABLE {case.table} DROP COLUMN {case.name}"
    return (REWRITES, *("BEGIN", drop, f"{alter} ADD COLUMN {definition(case.wanted)}", "COMMIT"), *again)


def _identity(case: Case) -> Statements:
    wanted, found = case.wanted["identity"], case.found["identity"]
    alter = f"ALTER TABLE {case.table} ALTER COLUMN {case.name}"
    if wanted is None:
        return (f"{alter} DROP IDENTITY IF EXISTS",)
    if found is not None:
        return (f"{alter} SET GENERATED {wanted}",)
    return (
        f"{alter} DROP DEFAULT",
        f"{alter} ADD GENERATED {wanted} AS IDENTITY",
        f"-- where {case.table} has rows: {alter} RESTART WITH the largest {case.name}, and one",
    )


_BY_ATTRIBUTE: Final[Mapping[str, Callable[[Case], Statements]]] = {
    "type": _type,
    "collation": _type,
    "nullability": _nullability,
    "default": _default,
    "generated": _generated,
    "identity": _identity,
    "table": lambda _case: (),
}

REMEDY: Final = Remedy(make=_missing, change=_changed, drop=_extra)
