"""The SQL statements that repair a difference: create what is missing, drop what is extra, change one attribute.

Statements take short locks only; a remark (``--``) stands before each that cannot.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, Final

from src.database.drift.catalog import Catalog, Facts
from src.database.drift.difference import Case, Statements

_REWRITES: Final = "-- rewrites the table, and nobody reads or writes it meanwhile: at a quiet hour"
_GRANT_AGAIN: Final = "-- rights on it have to be granted again"
KNOWS_SET_EXPRESSION: Final = 17
"""The first major version that can change the expression of a generated column."""
_PROOF: Final = "thea_not_null"
"""A temporary CHECK: once it is valid, SET NOT NULL does not read the table while it holds its lock."""
_NEW_INDEX: Final = "thea_new_index"
_SWITCHES: Final[Mapping[str, tuple[str, str]]] = {
    "row-level security": ("ENABLE", "DISABLE"),
    "forced row-level security": ("FORCE", "NO FORCE"),
}
_DROP: Final[Mapping[str, str]] = {
    "constraint": "ALTER TABLE {table} DROP CONSTRAINT {name}",
    "function": "DROP {kind} {object}",
    "index": "DROP INDEX CONCURRENTLY {name}",
    "policy": "DROP POLICY {name} ON {table}",
    "rule": "DROP RULE {name} ON {table}",
    "sequence": "DROP SEQUENCE {object}",
    "trigger": "DROP TRIGGER {name} ON {table}",
    "view": "DROP {kind} {object}",
}


def create(case: Case) -> Statements:
    """Return the statements that create a missing object."""
    return _CREATE[case.kind](case)


def change(case: Case, attribute: str) -> Statements:
    """Return the statements that give an attribute its expected value."""
    return _CHANGE[case.kind](case, attribute)


def drop(case: Case) -> Statements:
    """Return the statements that drop an extra object."""
    if case.kind == "column":
        return _drop_column(case)
    facts = case.found
    kind, table = facts.get("_kind", facts.get("kind")), facts.get("table")
    return (_DROP[case.kind].format(kind=kind, table=table, name=case.name, object=case.object),)


def _replace(case: Case, _attribute: str) -> Statements:
    """Drop and create in one transaction: without a policy, for example, no session would see a row in between."""
    return _in_transaction(*drop(case), *create(case))


def _in_transaction(*statements: str) -> Statements:
    return ("BEGIN", *statements, "COMMIT")


# Tables


def _create_table(case: Case) -> Statements:
    name, facts = case.object, case.wanted
    columns = sorted(_columns_of(case.expected, name), key=lambda column: int(column["_place"]))
    partition = f" PARTITION BY {facts['partition key']}" if facts["partition key"] else ""
    definitions = ",\n    ".join(map(_column_definition, columns))
    switches = [_switch(case, attribute) for attribute in _SWITCHES if facts[attribute]]
    return (
        *_lookalikes(case),
        f"-- {name} comes back empty: what it held is in a backup",
        *_in_transaction(f"CREATE {_unlogged(facts)}TABLE {name} (\n    {definitions}\n){partition}", *switches),
    )


def _columns_of(catalog: Catalog, table: str) -> list[Facts]:
    return [facts for facts in catalog.of("column").values() if facts["table"] == table]


def _lookalikes(case: Case) -> Statements:
    """Name the unexpected tables that have the same columns: the missing one may have been renamed."""
    wanted = {column["_name"] for column in _columns_of(case.expected, case.object)}
    names = [
        name
        for name in case.live.of("table")
        if name not in case.expected.of("table")
        and {column["_name"] for column in _columns_of(case.live, name)} == wanted
    ]
    return tuple(
        f"-- {name} has its columns: if it is this one, only ALTER TABLE {name} RENAME TO {case.object}"
        for name in names
    )


def _change_table(case: Case, attribute: str) -> Statements:
    if attribute in _SWITCHES:
        return (_switch(case, attribute),)
    if attribute == "persistence":
        return (_REWRITES, f"ALTER TABLE {case.object} SET {case.wanted['persistence']}")
    return (f"-- {case.object} was made over by hand: make it anew and move its rows, or restore a backup",)


def _switch(case: Case, attribute: str) -> str:
    on, off = _SWITCHES[attribute]
    return f"ALTER TABLE {case.object} {on if case.wanted[attribute] else off} ROW LEVEL SECURITY"


def _unlogged(facts: Facts) -> str:
    return "UNLOGGED " if facts["persistence"] == "UNLOGGED" else ""


# Columns


def _column_definition(facts: Facts) -> str:
    """Return a column as CREATE TABLE and ADD COLUMN define it."""
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


def _create_column(case: Case) -> Statements:
    facts = case.wanted
    add = f"ALTER TABLE {case.table} ADD COLUMN {_column_definition(facts)}"
    if facts["generated"] or facts["identity"]:
        return (_REWRITES, add)
    if facts["default"] or facts["nullability"] == "NULL":
        return (add,)
    return (
        add.removesuffix(" NOT NULL"),
        f"-- {case.name} has no default: where {case.table} has rows, give them a value before what follows",
        *_set_not_null(case),
    )


def _drop_column(case: Case) -> Statements:
    drop_it = f"ALTER TABLE {case.table} DROP COLUMN {case.name}"
    if case.found["generated"]:
        return (drop_it,)
    return (f"-- the data in {case.object} is lost; to keep it: ALTER COLUMN {case.name} DROP NOT NULL", drop_it)


def _change_column(case: Case, attribute: str) -> Statements:
    match attribute:
        case "type" | "collation":
            return _change_type(case)
        case "nullability":
            return _change_nullability(case)
        case "default":
            return _change_default(case)
        case "generated":
            return _change_generated(case)
        case "identity":
            return _change_identity(case)
        case _:
            return ()  # its table is part of its name


def _change_type(case: Case) -> Statements:
    wanted, name = case.wanted, case.name
    if wanted["generated"]:
        return _generate_again(case)
    collate = f" COLLATE {wanted['collation']}" if wanted["collation"] else ""
    actions = [f"ALTER COLUMN {name} TYPE {wanted['type']}{collate} USING {name}::{wanted['type']}"]
    if case.found["default"] and not case.found["generated"]:
        actions.insert(0, f"ALTER COLUMN {name} DROP DEFAULT")
    if wanted["default"]:
        actions.append(f"ALTER COLUMN {name} SET DEFAULT {wanted['default']}")
    return (_REWRITES, f"ALTER TABLE {case.table} {', '.join(actions)}")


def _change_nullability(case: Case) -> Statements:
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


def _change_default(case: Case) -> Statements:
    default, was_generated = case.wanted["default"], case.found["generated"]
    if case.wanted["generated"] or (was_generated and not default):
        return ()  # the remedy of the generation repairs the default too
    alter = f"ALTER COLUMN {case.name}"
    first = f"{alter} DROP EXPRESSION IF EXISTS, " if was_generated else ""
    return (f"ALTER TABLE {case.table} {first}{alter} {f'SET DEFAULT {default}' if default else 'DROP DEFAULT'}",)


def _change_generated(case: Case) -> Statements:
    wanted, found = case.wanted["generated"], case.found["generated"]
    alter = f"ALTER TABLE {case.table} ALTER COLUMN {case.name}"
    if wanted is None:
        return (f"{alter} DROP EXPRESSION IF EXISTS",)
    expression, _, storage = wanted.rpartition(" ")
    is_stored_alike = found is not None and found.rpartition(" ")[2] == storage
    if is_stored_alike and case.live.server_major >= KNOWS_SET_EXPRESSION:
        return (_REWRITES, f"{alter} SET EXPRESSION AS {expression}")
    return _generate_again(case)


def _generate_again(case: Case) -> Statements:
    """Drop the column and add it; the constraints and indexes on it are dropped with it and created again."""
    alter = f"ALTER TABLE {case.table}"
    on_it = [
        Case(kind, name, case.expected, case.live)
        for kind in ("constraint", "index")
        for name, facts in case.expected.of(kind).items()
        if facts["table"] == case.table and case.name in (facts["_columns"] or [])
    ]
    add = f"{alter} ADD COLUMN {_column_definition(case.wanted)}"
    again = (statement for dependent in on_it for statement in create(dependent))
    return (_REWRITES, *_in_transaction(f"{alter} DROP COLUMN {case.name}", add), *again)


def _change_identity(case: Case) -> Statements:
    wanted, alter = case.wanted["identity"], f"ALTER TABLE {case.table} ALTER COLUMN {case.name}"
    if wanted is None:
        return (f"{alter} DROP IDENTITY IF EXISTS",)
    if case.found["identity"] is not None:
        return (f"{alter} SET GENERATED {wanted}",)
    return (
        f"{alter} DROP DEFAULT",
        f"{alter} ADD GENERATED {wanted} AS IDENTITY",
        f"-- where {case.table} has rows: {alter} RESTART WITH the largest {case.name}, and one",
    )


# Keys, checks and foreign keys; indexes


def _create_constraint(case: Case) -> Statements:
    facts, alter = case.wanted, f"ALTER TABLE {case.table}"
    if facts["kind"] in {"PRIMARY KEY", "UNIQUE"}:
        deferrable = facts["definition"].rpartition(")")[2]
        return (
            f"CREATE UNIQUE INDEX CONCURRENTLY {case.name} ON {case.table} {facts['_using']}",
            f"{alter} ADD CONSTRAINT {case.name} {facts['kind']} USING INDEX {case.name}{deferrable}",
        )
    add = f"{alter} ADD CONSTRAINT {case.name} {facts['definition']}"
    if facts["kind"] == "EXCLUDE" or facts["definition"].endswith("NOT ENFORCED"):
        return (add,)
    return (f"{add} NOT VALID", *(_validate(case) if facts["validated"] else ()))


def _change_constraint(case: Case, attribute: str) -> Statements:
    match attribute:
        case "validated" if case.wanted["validated"]:
            return ("-- fails where a row breaks it: mend the row first", *_validate(case))
        case "valid index":
            return (f"REINDEX INDEX CONCURRENTLY {case.name}",)
        case "switched off on":
            enable = (f"ALTER TABLE {table} ENABLE TRIGGER ALL" for table in case.found["switched off on"])
            return ("-- as a superuser; rows written meanwhile were not checked", *enable)
        case _:
            return (*drop(case), *create(case))


def _validate(case: Case) -> Statements:
    """Validate the existing rows; forced row-level security would hide all rows from the owner's query."""
    validate = f"ALTER TABLE {case.table} VALIDATE CONSTRAINT {case.name}"
    if case.wanted["kind"] != "FOREIGN KEY":  # row-level security does not apply to the validation of a CHECK
        return (validate,)
    tables = dict.fromkeys([case.table, case.wanted["_references"]])
    forced = [name for name in tables if case.expected.of("table").get(name, {}).get("forced row-level security")]
    return (
        *(f"ALTER TABLE {name} NO FORCE ROW LEVEL SECURITY" for name in forced),
        validate,
        *(f"ALTER TABLE {name} FORCE ROW LEVEL SECURITY" for name in forced),
    )


def _change_index(case: Case, attribute: str) -> Statements:
    if attribute == "valid":
        return (f"REINDEX INDEX CONCURRENTLY {case.name}",)
    # The new index first: the table is never without one.
    return (_create_index(case, _NEW_INDEX), *drop(case), f"ALTER INDEX {_NEW_INDEX} RENAME TO {case.name}")


def _create_index(case: Case, name: str) -> str:
    unique = "UNIQUE " if case.wanted["unique"] else ""
    return f"CREATE {unique}INDEX CONCURRENTLY {name} ON {case.table} {case.wanted['definition']}"


# Sequences and views


def _sequence_options(facts: Facts) -> str:
    return (
        f"AS {facts['type']} INCREMENT BY {facts['increment']} MINVALUE {facts['minimum']} MAXVALUE {facts['maximum']}"
        f" START WITH {facts['start']} CACHE {facts['cache']} {'CYCLE' if facts['cycle'] else 'NO CYCLE'}"
    )


def _create_sequence(case: Case) -> Statements:
    name, facts = case.object, case.wanted
    return (
        f"CREATE {_unlogged(facts)}SEQUENCE {name} {_sequence_options(facts)}",
        f"-- then SELECT setval('{name}', …) to the largest number in use: it begins at {facts['start']}",
    )


def _change_sequence(case: Case, attribute: str) -> Statements:
    if attribute == "table":
        return ()  # the sequence owner is a difference of its own
    options = f"SET {case.wanted['persistence']}" if attribute == "persistence" else _sequence_options(case.wanted)
    return (f"ALTER SEQUENCE {case.object} {options}",)


def _create_view(case: Case) -> Statements:
    facts = case.wanted
    options = f" WITH ({facts['options']})" if facts["options"] else ""
    return (f"CREATE {facts['kind']} {case.object}{options} AS\n{facts['definition']}",)


# Functions, triggers, rules and policies


def _change_function(case: Case, attribute: str) -> Statements:
    if all(case.wanted[fixed] == case.found[fixed] for fixed in ("returns", "arguments")):
        return create(case)
    return (_GRANT_AGAIN, *_replace(case, attribute))


def _create_trigger(case: Case) -> Statements:
    is_enabled = case.wanted["enabled"] == "ENABLE"
    return (case.wanted["definition"], *(() if is_enabled else _change_trigger(case, "enabled")))


def _change_trigger(case: Case, attribute: str) -> Statements:
    if attribute == "enabled":
        return (f"ALTER TABLE {case.table} {case.wanted['enabled']} TRIGGER {case.name}",)
    return _replace(case, attribute)


def _create_rule(case: Case) -> Statements:
    definition = case.wanted["definition"].rstrip(";").replace("CREATE RULE", "CREATE OR REPLACE RULE", 1)
    return (definition, *(() if case.wanted["enabled"] else _change_rule(case, "enabled")))


def _change_rule(case: Case, attribute: str) -> Statements:
    if attribute == "enabled":
        return (f"ALTER TABLE {case.table} {'ENABLE' if case.wanted['enabled'] else 'DISABLE'} RULE {case.name}",)
    return create(case)


def _create_policy(case: Case) -> Statements:
    facts = case.wanted
    using = f" USING ({facts['using']})" if facts["using"] else ""
    check = f" WITH CHECK ({facts['check']})" if facts["check"] else ""
    kind = f"AS {facts['kind']} FOR {facts['command']} TO {facts['roles']}"
    return (f"CREATE POLICY {case.name} ON {case.table} {kind}{using}{check}",)


# Types


def _create_enum(case: Case) -> Statements:
    return (f"CREATE TYPE {case.object} AS ENUM ({', '.join(map(_quote, case.wanted['labels']))})",)


def _change_enum(case: Case, _attribute: str) -> Statements:
    wanted, found = case.wanted["labels"], case.found["labels"]
    alter = f"ALTER TYPE {case.object}"
    if [label for label in wanted if label in found] == found:
        missing = [label for label in wanted if label not in found]
        return tuple(f"{alter} ADD VALUE {_quote(label)}{_place(label, wanted)}" for label in missing)
    others = [(old, new) for old, new in zip(found, wanted, strict=False) if old != new]
    if len(wanted) == len(found) and len(others) == 1:
        old, new = others[0]
        return (f"{alter} RENAME VALUE {_quote(old)} TO {_quote(new)}",)
    return (f"-- a label can be neither dropped nor moved: make {case.object} anew, and change the columns to it",)


def _place(label: str, labels: list[str]) -> str:
    before = labels.index(label)
    return f" AFTER {_quote(labels[before - 1])}" if before else f" BEFORE {_quote(labels[1])}" if labels[1:] else ""


def _create_domain(case: Case) -> Statements:
    facts = case.wanted
    parts = [f"CREATE DOMAIN {case.object} AS {facts['type']}"]
    parts += [f"COLLATE {facts['collation']}"] if facts["collation"] else []
    parts += [f"DEFAULT {facts['default']}"] if facts["default"] else []
    parts += [] if facts["nullable"] else ["NOT NULL"]
    parts += [f"CONSTRAINT {name} {check}" for name, check in facts["checks"].items()]
    return (" ".join(parts),)


def _change_domain(case: Case, attribute: str) -> Statements:
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


_CREATE: Final[Mapping[str, Callable[[Case], Statements]]] = {
    "column": _create_column,
    "constraint": _create_constraint,
    "domain": _create_domain,
    "enum": _create_enum,
    "extension": lambda case: ("-- as one who may create extensions", f"CREATE EXTENSION {case.object}"),
    "function": lambda case: (case.wanted["_definition"].strip(),),
    "index": lambda case: (_create_index(case, case.name),),
    "policy": _create_policy,
    "rule": _create_rule,
    "sequence": _create_sequence,
    "sequence owner": lambda case: (f"ALTER SEQUENCE {case.object} OWNED BY {case.wanted['owner']}",),
    "table": _create_table,
    "trigger": _create_trigger,
    "view": _create_view,
}
_CHANGE: Final[Mapping[str, Callable[[Case, str], Statements]]] = {
    "column": _change_column,
    "constraint": _change_constraint,
    "domain": _change_domain,
    "enum": _change_enum,
    "function": _change_function,
    "index": _change_index,
    "policy": _replace,
    "rule": _change_rule,
    "sequence": _change_sequence,
    "sequence owner": lambda case, _attribute: create(case),
    "table": _change_table,
    "trigger": _change_trigger,
    "view": lambda case, attribute: (_GRANT_AGAIN, *_replace(case, attribute)),
}
"""Of an extension no fact is compared but its existence."""
