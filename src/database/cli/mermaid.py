"""The tables as a Mermaid diagram, drawn from the metadata: the same metadata gives the same text."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

from sqlalchemy import Column, ForeignKeyConstraint, MetaData, Table, UniqueConstraint
from sqlalchemy.dialects import postgresql

from src.database import models
from src.database.base import Base

assert models.User.metadata is Base.metadata  # noqa: S101 - importing the models is what fills the metadata

# In Mermaid a type is one word.
_SHORT: Final = {"timestamp with time zone": "timestamptz", "timestamp without time zone": "timestamp"}
_TENANT: Final = "tenant_id"


def mermaid(metadata: MetaData = Base.metadata) -> str:
    """Return an erDiagram: the tables by name, their columns in order, then the foreign keys.

    UK marks the columns of unique keys other than the primary key, without `tenant_id`, which begins every key. The
    line of a foreign key is solid if its columns are part of the primary key (Mermaid's "identifying"), else dashed.
    """
    tables = sorted(metadata.tables.values(), key=lambda table: table.name)
    lines = ["erDiagram"]
    for table in tables:
        lines += [f"    {table.name} {{", *(f"        {_column(table, one)}" for one in table.columns), "    }"]
    for table in tables:
        lines += sorted(f"    {_relation(table, key)}" for key in table.foreign_key_constraints)
    return "\n".join(lines) + "\n"


def _column(table: Table, column: Column[object]) -> str:
    kind = column.type.compile(dialect=postgresql.dialect()).lower()  # type: ignore[no-untyped-call] # it has no types
    kind = kind.partition(" collate ")[0]  # a type with a collation is no word of Mermaid
    many = "[]" if kind.endswith("[]") else ""
    kind = kind.removesuffix("[]")
    keys = ", ".join(_keys(table, column))
    remarks = ", ".join(_remarks(column))
    return " ".join(filter(None, (f"{_SHORT.get(kind, kind)}{many}", column.name, keys, remarks and f'"{remarks}"')))


def _keys(table: Table, column: Column[object]) -> Iterator[str]:
    if column.primary_key:
        yield "PK"
    references = (set(key.columns) for key in table.foreign_key_constraints)
    if any(column in key for key in references if column.name != _TENANT or len(key) == 1):
        yield "FK"
    if column.name != _TENANT and any(column in key for key in _unique_keys(table)):
        yield "UK"


def _remarks(column: Column[object]) -> Iterator[str]:
    if column.nullable:
        yield "null"
    if column.computed is not None:
        yield "generated"


def _unique_keys(table: Table) -> Iterator[set[Column[object]]]:
    for constraint in table.constraints:
        if isinstance(constraint, UniqueConstraint):
            yield set(constraint.columns)
    for index in table.indexes:
        if index.unique:
            yield set(index.columns)


def _relation(table: Table, key: ForeignKeyConstraint) -> str:
    """Draw a foreign key, with the referenced table on the left: at most one or exactly one row, to any number."""
    columns = set(key.columns)
    parent = "|o" if any(column.nullable for column in columns) else "||"
    child = "o|" if any(unique <= columns for unique in (set(table.primary_key), *_unique_keys(table))) else "o{"
    line = "--" if columns <= set(table.primary_key) else ".."
    label = [column.name for column in key.columns if column.name != _TENANT] or [_TENANT]
    return f'{key.referred_table.name} {parent}{line}{child} {table.name} : "{", ".join(label)}"'
