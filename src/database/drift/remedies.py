"""The SQL statements that repair a difference: create a missing object, drop an extra one, change one attribute.

The statements take short locks only; a remark (``--``) precedes each statement that cannot.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Final

from src.database.drift.catalog import Catalog, Facts
from src.database.drift.difference import ComparedObject, Statements

_REWRITES: Final = "-- rewrites the table; every other session that uses the table waits: run this when traffic is low"
_GRANT_AGAIN: Final = "-- the object is dropped and created again: grant its privileges again afterwards"
# The owner of the table runs the remedies, and row-level security hides every row from an owner without a tenant.
_BY_TENANT: Final = (
    "an UPDATE changes rows only as a superuser, or in a transaction after SELECT app_set_tenant(<tenant_id>)"
)
_NOT_NULL_CHECK: Final = "thea_not_null"
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


def create(item: ComparedObject) -> Statements:
    """Return the statements that create a missing object."""
    return _CREATE[item.kind](item)


def change(item: ComparedObject, attribute: str) -> Statements:
    """Return the statements that give an attribute its expected value."""
    return _CHANGE[item.kind](item, attribute)


def drop(item: ComparedObject) -> Statements:
    """Return the statements that drop an extra object."""
    if item.kind == "column":
        return _drop_column(item)
    facts = item.live
    kind, table = facts.get("_kind", facts.get("kind")), facts.get("table")
    return (_DROP[item.kind].format(kind=kind, table=table, name=item.name, object=item.object),)


def _replace(item: ComparedObject, _attribute: str) -> Statements:
    """Drop and create in one transaction: no other session may run in between without the policy or the trigger."""
    return _in_transaction(*drop(item), *create(item))


def _in_transaction(*statements: str) -> Statements:
    return ("BEGIN", *statements, "COMMIT")


# Tables


def _create_table(item: ComparedObject) -> Statements:
    name, facts = item.object, item.expected
    columns = sorted(_columns_of(item.expected_catalog, name), key=lambda column: int(column["_place"]))
    partition = f" PARTITION BY {facts['partition key']}" if facts["partition key"] else ""
    definitions = ",\n    ".join(map(_column_definition, columns))
    switches = [_switch(item, attribute) for attribute in _SWITCHES if facts[attribute]]
    return (
        *_lookalikes(item),
        f"-- {name} is created without rows: restore its rows from a backup",
        *_in_transaction(f"CREATE {_unlogged(facts)}TABLE {name} (\n    {definitions}\n){partition}", *switches),
    )


def _columns_of(catalog: Catalog, table: str) -> list[Facts]:
    return [facts for facts in catalog.of("column").values() if facts["table"] == table]


def _lookalikes(item: ComparedObject) -> Statements:
    """Return a remark for each unexpected table with the same columns: the missing table may have been renamed."""
    wanted = {column["_name"] for column in _columns_of(item.expected_catalog, item.object)}
    names = [
        name
        for name in item.live_catalog.of("table")
        if name not in item.expected_catalog.of("table")
        and {column["_name"] for column in _columns_of(item.live_catalog, name)} == wanted
    ]
    return tuple(
        f"-- {name} has the columns of {item.object}: if the table was renamed, run only"
        f" ALTER TABLE {name} RENAME TO {item.object}"
        for name in names
    )


def _change_table(item: ComparedObject, attribute: str) -> Statements:
    if attribute in _SWITCHES:
        return (_switch(item, attribute),)
    if attribute == "persistence":
        return (_REWRITES, f"ALTER TABLE {item.object} SET {item.expected['persistence']}")
    return (f"-- no statement can change this: create {item.object} again and copy its rows, or restore a backup",)


def _switch(item: ComparedObject, attribute: str) -> str:
    on, off = _SWITCHES[attribute]
    return f"ALTER TABLE {item.object} {on if item.expected[attribute] else off} ROW LEVEL SECURITY"


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


def _create_column(item: ComparedObject) -> Statements:
    facts = item.expected
    add = f"ALTER TABLE {item.table} ADD COLUMN {_column_definition(facts)}"
    if facts["generated"] or facts["identity"]:
        return (_REWRITES, add)
    if facts["default"] or facts["nullability"] == "NULL":
        return (add,)
    return (
        add.removesuffix(" NOT NULL"),
        f"-- {item.name} has no default: if {item.table} has rows, set {item.name} in each row first; {_BY_TENANT}",
        *_set_not_null(item),
    )


def _drop_column(item: ComparedObject) -> Statements:
    alter = f"ALTER TABLE {item.table}"
    drop_it = f"{alter} DROP COLUMN {item.name}"
    if item.live["generated"]:
        return (drop_it,)
    keep = f"{alter} ALTER COLUMN {item.name} DROP NOT NULL"
    return (f"-- deletes the data in {item.object}; to keep the data, run instead {keep}", drop_it)


def _change_column(item: ComparedObject, attribute: str) -> Statements:
    match attribute:
        case "type" | "collation":
            return _change_type(item)
        case "nullability":
            return _change_nullability(item)
        case "default":
            return _change_default(item)
        case "generated":
            return _change_generated(item)
        case "identity":
            return _change_identity(item)
        case _:
            return ()  # its table is part of its name


def _change_type(item: ComparedObject) -> Statements:
    wanted, name = item.expected, item.name
    if wanted["generated"]:
        return _generate_again(item)
    collate = f" COLLATE {wanted['collation']}" if wanted["collation"] else ""
    actions = [f"ALTER COLUMN {name} TYPE {wanted['type']}{collate} USING {name}::{wanted['type']}"]
    if item.live["default"] and not item.live["generated"]:
        actions.insert(0, f"ALTER COLUMN {name} DROP DEFAULT")
    if wanted["default"]:
        actions.append(f"ALTER COLUMN {name} SET DEFAULT {wanted['default']}")
    return (_REWRITES, f"ALTER TABLE {item.table} {', '.join(actions)}")


def _change_nullability(item: ComparedObject) -> Statements:
    if item.expected["nullability"] == "NULL":
        return (f"ALTER TABLE {item.table} ALTER COLUMN {item.name} DROP NOT NULL",)
    if item.live["nullability"] == "NOT NULL NOT VALID":
        return (f"ALTER TABLE {item.table} VALIDATE CONSTRAINT {item.live['_not_null']}",)
    return (
        f"-- first set {item.name} in the rows of {item.table} where it is NULL; {_BY_TENANT}",
        *_set_not_null(item),
    )


def _set_not_null(item: ComparedObject) -> Statements:
    # SET NOT NULL alone reads the table under ACCESS EXCLUSIVE. With a validated CHECK it does not read the table, and
    # VALIDATE holds a lock that lets other sessions read and write.
    alter = f"ALTER TABLE {item.table}"
    return (
        f"{alter} ADD CONSTRAINT {_NOT_NULL_CHECK} CHECK ({item.name} IS NOT NULL) NOT VALID",
        f"{alter} VALIDATE CONSTRAINT {_NOT_NULL_CHECK}",
        f"{alter} ALTER COLUMN {item.name} SET NOT NULL",
        f"{alter} DROP CONSTRAINT {_NOT_NULL_CHECK}",
    )


def _change_default(item: ComparedObject) -> Statements:
    default, was_generated = item.expected["default"], item.live["generated"]
    if item.expected["generated"] or (was_generated and not default):
        return ()  # the remedy of the generation repairs the default too
    alter = f"ALTER COLUMN {item.name}"
    first = f"{alter} DROP EXPRESSION IF EXISTS, " if was_generated else ""
    return (f"ALTER TABLE {item.table} {first}{alter} {f'SET DEFAULT {default}' if default else 'DROP DEFAULT'}",)


def _change_generated(item: ComparedObject) -> Statements:
    if item.expected["generated"] is None:
        return (f"ALTER TABLE {item.table} ALTER COLUMN {item.name} DROP EXPRESSION IF EXISTS",)
    return _generate_again(item)


def _generate_again(item: ComparedObject) -> Statements:
    """Drop the column and add it; create the constraints and indexes again that are dropped with the column.

    SET EXPRESSION exists from PostgreSQL 17 on only, and rewrites the table too.
    """
    alter = f"ALTER TABLE {item.table}"
    dependents = [
        ComparedObject(kind, name, item.expected_catalog, item.live_catalog)
        for kind in ("constraint", "index")
        for name, facts in item.expected_catalog.of(kind).items()
        if facts["table"] == item.table and item.name in (facts["_columns"] or [])
    ]
    add = f"{alter} ADD COLUMN {_column_definition(item.expected)}"
    again = (statement for dependent in dependents for statement in create(dependent))
    return (_REWRITES, *_in_transaction(f"{alter} DROP COLUMN {item.name}", add), *again)


def _change_identity(item: ComparedObject) -> Statements:
    identity, alter = item.expected["identity"], f"ALTER TABLE {item.table} ALTER COLUMN {item.name}"
    if identity is None:
        return (f"{alter} DROP IDENTITY IF EXISTS",)
    if item.live["identity"] is not None:
        return (f"{alter} SET GENERATED {identity}",)
    return (
        f"{alter} DROP DEFAULT",
        f"{alter} ADD GENERATED {identity} AS IDENTITY",
        f"-- if {item.table} has rows: {alter} RESTART WITH <the largest {item.name} plus 1>",
    )


# Keys, checks and foreign keys; indexes


def _create_constraint(item: ComparedObject) -> Statements:
    facts, alter = item.expected, f"ALTER TABLE {item.table}"
    if facts["kind"] in {"PRIMARY KEY", "UNIQUE"}:
        deferrable = facts["definition"].rpartition(")")[2]
        return (
            f"CREATE UNIQUE INDEX CONCURRENTLY {item.name} ON {item.table} {facts['_using']}",
            f"{alter} ADD CONSTRAINT {item.name} {facts['kind']} USING INDEX {item.name}{deferrable}",
        )
    add = f"{alter} ADD CONSTRAINT {item.name} {facts['definition']}"
    if facts["kind"] == "EXCLUDE" or facts["definition"].endswith("NOT ENFORCED"):
        return (add,)
    return (f"{add} NOT VALID", *(_validate(item) if facts["validated"] else ()))


def _change_constraint(item: ComparedObject, attribute: str) -> Statements:
    match attribute:
        case "validated" if item.expected["validated"]:
            return ("-- VALIDATE fails if a row violates the constraint: correct that row first", *_validate(item))
        case "valid index":
            return (f"REINDEX INDEX CONCURRENTLY {item.name}",)
        case "switched off on":
            enable = (f"ALTER TABLE {table} ENABLE TRIGGER ALL" for table in item.live["switched off on"])
            return (
                "-- run this as a superuser; rows that were written while triggers were off are unchecked",
                *enable,
            )
        case _:
            return (*drop(item), *create(item))


def _validate(item: ComparedObject) -> Statements:
    validate = f"ALTER TABLE {item.table} VALIDATE CONSTRAINT {item.name}"
    if item.expected["kind"] != "FOREIGN KEY":
        return (validate,)
    # A foreign key is validated by a query that runs as the owner. Under FORCE ROW LEVEL SECURITY and without a tenant
    # that query sees no row, and PostgreSQL would mark the key as valid whatever the table contains.
    tables = dict.fromkeys([item.table, item.expected["_references"]])
    forced = [
        name for name in tables if item.expected_catalog.of("table").get(name, {}).get("forced row-level security")
    ]
    if not forced:
        return (validate,)
    return (
        "-- FORCE is an isolation layer: run the FORCE statements below even if VALIDATE fails",
        *(f"ALTER TABLE {name} NO FORCE ROW LEVEL SECURITY" for name in forced),
        validate,
        *(f"ALTER TABLE {name} FORCE ROW LEVEL SECURITY" for name in forced),
    )


def _change_index(item: ComparedObject, attribute: str) -> Statements:
    if attribute == "valid":
        return (f"REINDEX INDEX CONCURRENTLY {item.name}",)
    # The new index is created first: the queries of the code always have an index.
    return (_create_index(item, _NEW_INDEX), *drop(item), f"ALTER INDEX {_NEW_INDEX} RENAME TO {item.name}")


def _create_index(item: ComparedObject, name: str) -> str:
    unique = "UNIQUE " if item.expected["unique"] else ""
    return f"CREATE {unique}INDEX CONCURRENTLY {name} ON {item.table} {item.expected['definition']}"


# Sequences and views


def _sequence_options(facts: Facts) -> str:
    return (
        f"AS {facts['type']} INCREMENT BY {facts['increment']} MINVALUE {facts['minimum']} MAXVALUE {facts['maximum']}"
        f" START WITH {facts['start']} CACHE {facts['cache']} {'CYCLE' if facts['cycle'] else 'NO CYCLE'}"
    )


def _create_sequence(item: ComparedObject) -> Statements:
    name, facts = item.object, item.expected
    return (
        f"CREATE {_unlogged(facts)}SEQUENCE {name} {_sequence_options(facts)}",
        f"-- the sequence starts at {facts['start']}: then SELECT setval('{name}', <the largest number in use>)",
    )


def _change_sequence(item: ComparedObject, attribute: str) -> Statements:
    if attribute == "table":
        return ()  # the remedy of the difference `sequence owner` sets the table too
    options = f"SET {item.expected['persistence']}" if attribute == "persistence" else _sequence_options(item.expected)
    return (f"ALTER SEQUENCE {item.object} {options}",)


def _create_view(item: ComparedObject) -> Statements:
    facts = item.expected
    options = f" WITH ({facts['options']})" if facts["options"] else ""
    return (f"CREATE {facts['kind']} {item.object}{options} AS\n{facts['definition']}",)


# Functions, triggers, rules and policies


def _change_function(item: ComparedObject, attribute: str) -> Statements:
    if all(item.expected[fixed] == item.live[fixed] for fixed in ("returns", "arguments")):
        return create(item)
    return (_GRANT_AGAIN, *_replace(item, attribute))


def _create_trigger_or_rule(item: ComparedObject) -> Statements:
    is_enabled = item.expected["enabled"] == "ENABLE"
    return (item.expected["definition"], *(() if is_enabled else _change_trigger_or_rule(item, "enabled")))


def _change_trigger_or_rule(item: ComparedObject, attribute: str) -> Statements:
    if attribute == "enabled":
        return (f"ALTER TABLE {item.table} {item.expected['enabled']} {item.kind.upper()} {item.name}",)
    return _replace(item, attribute)


def _create_policy(item: ComparedObject) -> Statements:
    facts = item.expected
    using = f" USING ({facts['using']})" if facts["using"] else ""
    check = f" WITH CHECK ({facts['check']})" if facts["check"] else ""
    kind = f"AS {facts['kind']} FOR {facts['command']} TO {facts['roles']}"
    return (f"CREATE POLICY {item.name} ON {item.table} {kind}{using}{check}",)


# Types


def _create_enum(item: ComparedObject) -> Statements:
    return (f"CREATE TYPE {item.object} AS ENUM ({', '.join(map(_quote, item.expected['labels']))})",)


def _change_enum(item: ComparedObject, _attribute: str) -> Statements:
    expected, live = item.expected["labels"], item.live["labels"]
    alter = f"ALTER TYPE {item.object}"
    if [label for label in expected if label in live] == live:
        missing = [label for label in expected if label not in live]
        return tuple(f"{alter} ADD VALUE {_quote(label)}{_position(label, expected)}" for label in missing)
    renamed = [(old, new) for old, new in zip(live, expected, strict=False) if old != new]
    if len(expected) == len(live) and len(renamed) == 1:
        old, new = renamed[0]
        return (f"{alter} RENAME VALUE {_quote(old)} TO {_quote(new)}",)
    return (f"-- PostgreSQL can neither drop nor move a label: {_create_type_again(item)}",)


def _create_type_again(item: ComparedObject) -> str:
    return f"create a second type, change the columns of {item.object} to that type, and rename that type"


def _position(label: str, labels: list[str]) -> str:
    before = labels.index(label)
    return f" AFTER {_quote(labels[before - 1])}" if before else f" BEFORE {_quote(labels[1])}" if labels[1:] else ""


def _create_domain(item: ComparedObject) -> Statements:
    facts = item.expected
    parts = [f"CREATE DOMAIN {item.object} AS {facts['type']}"]
    parts += [f"COLLATE {facts['collation']}"] if facts["collation"] else []
    parts += [f"DEFAULT {facts['default']}"] if facts["default"] else []
    parts += [] if facts["nullable"] else ["NOT NULL"]
    parts += [f"CONSTRAINT {name} {check}" for name, check in facts["checks"].items()]
    return (" ".join(parts),)


def _change_domain(item: ComparedObject, attribute: str) -> Statements:
    expected, alter = item.expected[attribute], f"ALTER DOMAIN {item.object}"
    match attribute:
        case "default":
            return (f"{alter} SET DEFAULT {expected}" if expected else f"{alter} DROP DEFAULT",)
        case "nullable":
            return (f"{alter} {'DROP' if expected else 'SET'} NOT NULL",)
        case "checks":
            live = item.live["checks"]
            return (
                *(f"{alter} DROP CONSTRAINT {name}" for name in live if expected.get(name) != live[name]),
                *(f"{alter} ADD CONSTRAINT {name} {rule}" for name, rule in expected.items() if live.get(name) != rule),
            )
        case _:
            return (f"-- PostgreSQL cannot change the {attribute} of a domain: {_create_type_again(item)}",)


def _quote(text: str) -> str:
    return "'" + text.replace("'", "''") + "'"


_CREATE: Final[Mapping[str, Callable[[ComparedObject], Statements]]] = {
    "column": _create_column,
    "constraint": _create_constraint,
    "domain": _create_domain,
    "enum": _create_enum,
    "extension": lambda item: ("-- run this as a role that may create extensions", f"CREATE EXTENSION {item.object}"),
    "function": lambda item: (item.expected["_definition"].strip(),),
    "index": lambda item: (_create_index(item, item.name),),
    "policy": _create_policy,
    "rule": _create_trigger_or_rule,
    "sequence": _create_sequence,
    "sequence owner": lambda item: (f"ALTER SEQUENCE {item.object} OWNED BY {item.expected['owner']}",),
    "table": _create_table,
    "trigger": _create_trigger_or_rule,
    "view": _create_view,
}
_CHANGE: Final[Mapping[str, Callable[[ComparedObject, str], Statements]]] = {
    "column": _change_column,
    "constraint": _change_constraint,
    "domain": _change_domain,
    "enum": _change_enum,
    "function": _change_function,
    "index": _change_index,
    "policy": _replace,
    "rule": _change_trigger_or_rule,
    "sequence": _change_sequence,
    "sequence owner": lambda item, _attribute: create(item),
    "table": _change_table,
    "trigger": _change_trigger_or_rule,
    "view": lambda item, attribute: (_GRANT_AGAIN, *_replace(item, attribute)),
}
"""Extensions are absent: they are compared by their existence alone."""
