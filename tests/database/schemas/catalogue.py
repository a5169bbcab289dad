"""The limits of the columns of a live database and of the fields of the schemas, in one form that can be compared."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from functools import cache
from typing import Any, Final

import psycopg
from pydantic import BaseModel

INT4: Final = {"type": "integer", "minimum": -(2**31), "maximum": 2**31 - 1}
INT8: Final = {"type": "integer", "minimum": -(2**63), "maximum": 2**63 - 1}
INSTANT: Final = {"type": "string", "format": "date-time"}
TYPES: Final[dict[str, dict[str, Any]]] = {
    "text": {"type": "string"},
    "boolean": {"type": "boolean"},
    "integer": INT4,
    "bigint": INT8,
    "uuid": {"type": "string", "format": "uuid"},
    "timestamp with time zone": INSTANT,
    "jsonb": {},
    "text[]": {"type": "array", "items": {"type": "string"}},
    "timestamp with time zone[]": {"type": "array", "items": INSTANT},
}
COLUMNS: Final = """
SELECT c.relname, a.attname, format_type(a.atttypid, a.atttypmod), NOT a.attnotnull, a.atthasdef
  FROM pg_attribute a JOIN pg_class c ON c.oid = a.attrelid
 WHERE c.relnamespace = 'public'::regnamespace AND c.relkind = 'r' AND a.attnum > 0 AND NOT a.attisdropped
"""
CHECKS: Final = """
SELECT conrelid::regclass::text, conname, pg_get_constraintdef(oid) FROM pg_constraint
 WHERE contype = 'c' AND connamespace = 'public'::regnamespace
"""
# As the server writes them.
ATOMS: Final = {
    "minLength": re.compile(r"length\((\w+)\) >= (\d+)"),
    "maxLength": re.compile(r"length\((\w+)\) <= (\d+)"),
    "exactLength": re.compile(r"length\((\w+)\) = (\d+)"),
    "maxItems": re.compile(r"cardinality\((\w+)\) <= (\d+)"),
    "type": re.compile(r"jsonb_typeof\((\w+)\) = '(\w+)'"),
    "enum": re.compile(r"(\w+) = ANY \(ARRAY\[(.*?)\]\)"),
    "pattern": re.compile(r"(\w+) ~ '(.*?)'"),
    "minimum": re.compile(r"(\w+) >= (\d+)"),
    "above": re.compile(r"(\w+) > (\d+)"),
}


@dataclass
class Column:
    """The limits of a column; `checks` are the constraints that state them."""

    limits: dict[str, Any]
    nullable: bool
    has_default: bool
    checks: set[str] = field(default_factory=set)


def read(connection: psycopg.Connection) -> tuple[dict[tuple[str, str], Column], set[str]]:
    """Return the columns by table and name, and the checks of several columns or of an unknown form."""
    columns = {
        (table, name): Column(dict(TYPES.get(kind, {"type": kind})), nullable, has_default)
        for table, name, kind, nullable, has_default in connection.execute(COLUMNS).fetchall()
    }
    others = set()
    for table, check, definition in connection.execute(CHECKS).fetchall():
        found, rest = _atoms(definition.replace("::text", ""))
        if re.sub(r"CHECK|AND|[()\s]", "", rest) or len({name for name, _, _ in found}) != 1:
            others.add(check)
            continue
        for name, limit, value in found:
            columns[table, name].limits[limit] = value
            columns[table, name].checks.add(check)
    return columns, others


def _atoms(definition: str) -> tuple[list[tuple[str, str, Any]], str]:
    """Return the known limits of a definition, and the rest of its text, which is not understood."""
    found: list[tuple[str, str, Any]] = []
    for limit, form in ATOMS.items():
        for name, text in form.findall(definition):
            if limit == "enum":
                found.append((name, limit, sorted(re.findall(r"'(.*?)'", text))))
            elif limit == "above":
                found.append((name, "minimum", int(text) + 1))
            else:
                found.append((name, limit, int(text) if text.isdecimal() else text))
        definition = form.sub("", definition)
    return found, definition


@cache
def _properties(schema: type[BaseModel]) -> dict[str, Any]:
    properties: dict[str, Any] = schema.model_json_schema()["properties"]
    return properties


def limits_of(schema: type[BaseModel], name: str) -> tuple[dict[str, Any], bool]:
    """Return the limits that an input sets for an attribute, and whether it accepts None."""
    whole = _properties(schema)[name]
    options = whole.get("anyOf", [whole])
    [of_value] = [option for option in options if option != {"type": "null"}]
    limits = {key: value for key, value in of_value.items() if key not in {"title", "default", "additionalProperties"}}
    if limits.get("items") == {}:
        del limits["items"]
    if "enum" in limits:
        limits["enum"] = sorted(limits["enum"])
    if "exclusiveMinimum" in limits:
        limits["minimum"] = max(limits.get("minimum", 0), limits.pop("exclusiveMinimum") + 1)
    return limits, len(options) > 1
